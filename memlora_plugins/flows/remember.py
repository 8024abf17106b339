"""Writing memory: keep what was said, then distil it into facts.

`keep` writes turns durably, before any model is asked. `distil` turns pending turns into facts: extraction (several
turns at once, it does not depend on memory), then, turn by turn, update against the nearest old facts and one commit
that is checked against the versions it was computed from. A turn that fails stays pending, and a `Failure` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from ..errors import (
    BackendNotConfiguredError,
    BackendUnavailableError,
    ClosedError,
    ConflictError,
    EmbeddingError,
    ForkedError,
    MemloraError,
    MessageError,
    ReplyError,
    UnsaidError,
)
from ..experts import clauses, extraction, quotes
from ..serving.base import Expert, PromptStyle
from ..store.base import Change, FactStore
from ..store.ranking import turn_text
from ..types import AddResult, Failure, Message, Role, Scope, Stage, Turn, Usage, as_utc, turn_id
from .asking import ask
from .consolidate import consolidate
from .effects import Embed, Emit, Flow, Together

if TYPE_CHECKING:
    from ..embedding import Vector

_TOGETHER = 8  # extractions asked at once
_EMBEDDED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Rules:
    """What the flows may decide about. Defaults as in `Settings`.

    `exchange_chars` is the longest piece of a message that one extraction sees; longer messages are cut into pieces
    at line or sentence ends, and every piece is distilled. `quoted_facts`: facts are in the person's own words.
    `quoted_answers`: answers are words of the memories.
    `memories_per_answer`: how many facts an answer is made from, of those that are near to the question by
    `answer_threshold`; None: as many memories as fit.
    """

    prompt_style: Callable[[Expert], PromptStyle]
    neighbours_per_fact: int = 5
    facts_per_update: int = 12
    similarity_threshold: float = 0.35
    exchange_chars: int = 4000
    quoted_facts: bool = False
    quoted_answers: bool = False
    memories_per_answer: int | None = None
    answer_threshold: float = 0.3
    commit_attempts: int = 5
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def compared(self, fact: str, *, edited: str | None = None) -> str:
        """What a fact is found by: for a quote what was said, not who said it. `edited` is the fact whose place it
        takes by hand: if that had another prefix, this one may be no name."""
        quoted = self.quoted_facts and (edited is None or quotes.named(edited) == quotes.named(fact))
        return quotes.unnamed(fact) if quoted else fact


class Claims(Protocol):
    """Keeps two distillers of one process from working on the same turn."""

    def take(self, turn: str) -> bool: ...
    def give_back(self, turn: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """The turns that the messages are now, in order, and what degraded while keeping them."""

    turns: tuple[Turn, ...]
    errors: tuple[Failure, ...] = ()


DISTILLED: tuple[Role, ...] = ("user",)
"""Whose turns are distilled: what the person said."""
NOTED: tuple[Role, ...] = ("tool",)
"""… and, where an agent notes something by itself, its note: a fact as it stands."""


def keep(
    store: FactStore, scope: Scope, messages: Sequence[Message], rules: Rules, *, distil: Sequence[Role] = DISTILLED
) -> Flow[Kept]:
    """Write `messages` as turns. A message that was kept before stays as it is.

    Turns of the roles in `distil` are pending until their facts are distilled.

    Raises:
        MessageError: something in `messages` is not a `Message`.
    """
    wanted = _as_turns(scope, messages, rules.clock(), distil)
    known = yield from store.turns(scope, ids=list(wanted))
    unknown = [wanted[id] for id in wanted.keys() - {turn.id for turn in known}]
    unknown.sort(key=lambda turn: turn.position)
    vectors, errors = yield from _turn_vectors(unknown)
    if unknown:
        yield from store.put_turns(list(zip(unknown, vectors, strict=True)))
    kept = wanted | {turn.id: turn for turn in known}
    return Kept(tuple(kept.values()), errors)


def _as_turns(scope: Scope, messages: Sequence[Message], now: datetime, distil: Sequence[Role]) -> dict[str, Turn]:
    turns: dict[str, Turn] = {}
    if isinstance(messages, Message):
        messages = [messages]
    if not isinstance(messages, Iterable):
        raise MessageError(f"add() takes Message objects, got {type(messages).__name__}.")
    for index, message in enumerate(messages):
        if not isinstance(message, Message):
            raise MessageError(f"add() takes Message objects, got {type(message).__name__} at position {index}.")
        created = message.created_at or now + timedelta(microseconds=index)
        id = turn_id(scope, message.id)
        turns.setdefault(
            id,
            Turn(
                id=id,
                scope=scope,
                message_id=message.id,
                role=message.role,
                text=message.text,
                created_at=created,
                recorded_at=now,
                position=round(as_utc(created).timestamp() * 1_000_000) + (index if message.created_at else 0),
                pending=message.role in distil and bool(message.text.strip()),
                name=message.name,
                images=message.images,
                metadata=message.metadata,
            ),
        )
    return turns


def _turn_vectors(turns: Sequence[Turn]) -> Flow[tuple[list[Vector | None], tuple[Failure, ...]]]:
    texts = [searched_text(turn) for turn in turns]
    try:
        return (yield from embed_some(texts)), ()
    except EmbeddingError as error:  # the words are kept all the same, and found by words
        without = tuple(turn.id for turn, text in zip(turns, texts, strict=True) if text is not None)
        return [None] * len(turns), (Failure("embedding", error, without),)


def embed_missing(store: FactStore) -> Flow[tuple[Failure, ...]]:
    """Give the turns that were kept while the embedder failed their vectors."""
    turns = yield from store.unembedded()
    for start in range(0, len(turns), _EMBEDDED_AT_ONCE):
        batch = turns[start : start + _EMBEDDED_AT_ONCE]
        vectors, errors = yield from _turn_vectors(batch)
        if errors:
            return (replace(errors[0], turn_ids=tuple(turn.id for turn in turns[start:])),)
        yield from store.embed_turns([(t, v) for t, v in zip(batch, vectors, strict=True) if v is not None])
    return ()


def searched_text(turn: Turn) -> str | None:
    """What of a turn is embedded; None for a turn that is not searched by meaning."""
    return turn_text(turn) if turn.spoken and turn.text.strip() else None


def embed_some(texts: Sequence[str | None]) -> Flow[list[Vector | None]]:
    """A vector for each text, None where there is none."""
    vectors: list[Vector | None] = [None] * len(texts)
    wanted = {place: text for place, text in enumerate(texts) if text is not None}
    if wanted:
        embedded = yield from Embed(list(wanted.values()))
        for place, vector in zip(wanted, embedded, strict=True):
            vectors[place] = vector
    return vectors


def distil(store: FactStore, scope: Scope, ids: Iterable[str], rules: Rules, claims: Claims) -> Flow[AddResult]:
    """Distil those of the turns `ids` that are still pending, oldest first.

    Turns that another distiller of this process is at are left to it and reported as pending. When the model cannot
    be reached, the rest is not tried.
    """
    wanted = list(dict.fromkeys(ids))
    mine = [id for id in wanted if claims.take(id)]
    try:
        turns = yield from store.turns(scope.without_session(), ids=wanted, pending=True)  # as they are now
        result = yield from _distil_all(store, [turn for turn in turns if turn.id in mine], rules)
    finally:
        for id in mine:
            claims.give_back(id)
    return replace(result, pending=(*result.pending, *(turn for turn in turns if turn.id not in mine)))


def _distil_all(store: FactStore, turns: Sequence[Turn], rules: Rules) -> Flow[AddResult]:
    total = AddResult()
    for start in range(0, len(turns), _TOGETHER):
        batch = turns[start : start + _TOGETHER]
        yield from Emit(Stage("extraction", {"turns": [turn.id for turn in batch]}))
        extracted = yield from Together([_extract(store, turn, rules) for turn in batch])
        for turn, found in zip(batch, extracted, strict=True):
            total = combine([total, (yield from _finish(store, turn, found, rules))])
        unreachable = [e for e in total.errors if isinstance(e.error, _UNREACHABLE)]
        if unreachable:
            return replace(total, pending=(*total.pending, *turns[start + _TOGETHER :]))
    return total


_UNREACHABLE = (BackendNotConfiguredError, BackendUnavailableError)


@dataclass(frozen=True, slots=True)
class _Extracted:
    facts: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    errors: tuple[Failure, ...] = ()
    failed: bool = False


def _extract(store: FactStore, turn: Turn, rules: Rules) -> Flow[_Extracted]:
    if turn.role in NOTED:
        return _Extracted((turn.text,))
    style = rules.prompt_style("extraction")
    total = _Extracted()
    try:
        previous = yield from _previous_line(store, turn)
        for piece in pieces(turn.text, rules.exchange_chars):
            exchange = _exchange(turn, piece, previous, rules)
            asked = yield from ask(
                "extraction",
                extraction.messages(exchange, style),
                extraction.read,
                schema=clauses.schema(exchange) if rules.quoted_facts else extraction.SCHEMA,
                max_tokens=extraction.MAX_TOKENS,
            )
            faults: list[ReplyError] = [_cut_off()] if asked.truncated else []
            facts = asked.reading.facts
            if rules.quoted_facts:
                said = quotes.as_said(facts, exchange)
                facts = tuple(quotes.quote(fact, turn.name) for fact in said.facts)
                faults += [_unsaid(said.unsaid)] if said.unsaid else []
            failures = tuple(Failure("extraction", fault, (turn.id,)) for fault in faults)
            total = _Extracted(total.facts + facts, total.usage + asked.usage, total.errors + failures)
    except (ClosedError, ForkedError):
        raise
    except MemloraError as error:
        return replace(total, errors=(*total.errors, Failure("extraction", error, (turn.id,))), failed=True)
    return total


def _cut_off() -> ReplyError:
    return ReplyError("The reply was cut off; its complete items were kept, others may be missing.")


def _unsaid(facts: Sequence[str]) -> UnsaidError:
    told = "1 fact that was noted is" if len(facts) == 1 else f"{len(facts)} facts that were noted are"
    return UnsaidError(f"{told} not in the person's words and left out.", reply="\n".join(facts))


def _exchange(turn: Turn, piece: str, previous: Turn | None, rules: Rules) -> extraction.Exchange:
    return extraction.Exchange(
        user_text=piece,
        user_name=turn.name,
        assistant_text=previous.text[-rules.exchange_chars // 4 :] if previous else None,
        assistant_name=previous.name if previous else None,
        date=turn.created_at,
    )


def _previous_line(store: FactStore, turn: Turn) -> Flow[Turn | None]:
    """The line that `turn` answers: the latest of its conversation, if somebody else said it."""
    earlier = yield from store.turns(turn.scope, before=turn.position, limit=4, newest_first=True)
    for other in earlier:
        if other.scope == turn.scope and other.spoken:
            return other if (other.role, other.name) != (turn.role, turn.name) else None
    return None


def _finish(store: FactStore, turn: Turn, found: _Extracted, rules: Rules) -> Flow[AddResult]:
    so_far = AddResult(usage=found.usage, errors=found.errors)
    if found.failed:
        return replace(so_far, pending=(turn,))
    try:
        if found.facts:
            done = yield from consolidate(store, turn, found.facts, rules)
        else:
            done = AddResult()
            yield from store.commit(turn.scope, Change(done=(turn.id,)))
    except (ClosedError, ForkedError):
        raise
    except ConflictError as error:
        now = yield from store.turns(turn.scope, ids=[turn.id])
        if not (now and now[0].pending):  # somebody else distilled or erased it meanwhile
            return so_far
        return replace(so_far, pending=(turn,), errors=(*so_far.errors, Failure("commit", error, (turn.id,))))
    except MemloraError as error:
        return replace(so_far, pending=(turn,), errors=(*so_far.errors, Failure("update", error, (turn.id,))))
    return combine([so_far, done])


def combine(results: Sequence[AddResult]) -> AddResult:
    """Several results as one, in order."""
    return AddResult(
        turns=tuple(turn for result in results for turn in result.turns),
        events=tuple(event for result in results for event in result.events),
        pending=tuple(turn for result in results for turn in result.pending),
        errors=tuple(error for result in results for error in result.errors),
        usage=sum((result.usage for result in results), Usage()),
    )


def pieces(text: str, size: int) -> list[str]:
    """`text` in pieces of at most `size` characters, cut after a line, a sentence or a word where there is one."""
    found = []
    while len(text) > size:
        window = text[:size]
        cut = max(window.rfind("\n"), window.rfind(". "), window.rfind("? "), window.rfind("! ")) + 1
        if cut < size // 2:
            cut = window.rfind(" ") + 1
        if cut < size // 2:
            cut = size
        found.append(text[:cut])
        text = text[cut:]
    found.append(text)
    return [piece for piece in found if piece.strip()]
