"""Reading memory: search, a context that fits a token budget, and an answer from it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from ..errors import InvalidInputError
from ..experts import generation, spans
from ..serving.base import Request
from ..store.base import FactStore
from ..types import Answer, Hit, Kind, Scope, Stage, clean_text
from .effects import Complete, Embed, Emit, Flow

if TYPE_CHECKING:
    from .remember import Rules

_SHORTEST_ITEM = 8  # tokens a remembered line costs at least, with its date
_CANDIDATES = 50  # hits considered for a context


@dataclass(frozen=True, slots=True)
class Recalled:
    """Memories for a question, best first, or all of them in order (`everything`)."""

    hits: tuple[Hit, ...]
    everything: bool = False


def search(
    store: FactStore,
    scope: Scope,
    text: str,
    *,
    limit: int,
    kinds: Sequence[Kind] = ("fact", "turn"),
    without: Collection[str] = (),
) -> Flow[list[Hit]]:
    """Facts and turns that answer `text`, best first, at most `limit`, and none with an id in `without`.

    Raises:
        InvalidInputError: blank text, or an unknown kind.
        EmbeddingError: the embedder failed.
    """
    text = _question(text)
    if not set(kinds) <= set(get_args(Kind)):
        raise InvalidInputError(f"kinds is a sequence of 'fact' and 'turn', got {kinds!r}.")
    vectors = yield from Embed([text])
    return (yield from store.search(scope, text, vectors[0], limit=limit, kinds=kinds, without=without))


def recall(store: FactStore, scope: Scope, text: str, *, token_budget: int) -> Flow[Recalled]:
    """What a prompt about `text` should contain, within `token_budget` estimated tokens.

    A memory that fits the budget whole is returned whole, in order of time; otherwise the best hits are, best first.
    """
    text = _question(text)
    everything = yield from _everything(store, scope, token_budget)
    if everything is not None:
        return Recalled(tuple(everything), everything=True)
    hits = yield from search(store, scope, text, limit=_CANDIDATES)
    return Recalled(_fitting(hits, token_budget))


def context(store: FactStore, scope: Scope, text: str, *, token_budget: int) -> Flow[str]:
    """The recalled memories as lines of text, in order of time: ready for a prompt."""
    recalled = yield from recall(store, scope, text, token_budget=token_budget)
    return as_context(recalled.hits)


def as_context(hits: Sequence[Hit], *, token_budget: int | None = None) -> str:
    """What was found as dated lines for a prompt, in order of time: of `hits`, best first, those that fit into
    `token_budget` estimated tokens (None: all).
    """
    lines = {hit.id: generation.memory_line(hit) for hit in hits}
    chosen = hits if token_budget is None else _fitting(hits, token_budget, lines)
    return "\n".join(lines[hit.id] for hit in in_order(chosen))


def answer(
    store: FactStore, scope: Scope, question: str, rules: Rules, *, token_budget: int, prompt: str | None = None
) -> Flow[Answer]:
    """Recall, then ask the generation expert, with a `prompt` of the caller's or its own.

    Emits `Stage("recall")`, `Stage("generation")` (with the `hits`) and, where the driver streams, `Token`s.

    Raises:
        BackendError: the model failed. ReplyError: it said nothing. InvalidInputError: the template lacks a place.
    """
    yield from Emit(Stage("recall"))
    recalled = yield from (
        recall(store, scope, question, token_budget=token_budget)
        if rules.memories_per_answer is None
        else _nearest_facts(store, scope, question, rules.memories_per_answer, rules.answer_threshold, token_budget)
    )
    yield from Emit(Stage("generation", {"memories": len(recalled.hits), "hits": recalled.hits}))
    hits = in_order(recalled.hits)
    style = rules.prompt_style("generation")
    messages = generation.messages(_question(question), hits, style, now=rules.clock(), prompt=prompt)
    pattern = spans.pattern(hits) if rules.quoted_answers else None
    request = Request("generation", messages, max_tokens=generation.MAX_TOKENS, pattern=pattern)
    completion = yield from Complete(request, stream=True)
    text = generation.read(completion.text)
    return Answer(text, recalled.hits, completion.usage, truncated=completion.finish_reason == "length")


def _nearest_facts(
    store: FactStore, scope: Scope, text: str, most: int, least: float, token_budget: int
) -> Flow[Recalled]:
    """The facts that are nearest to a question: at most so many, of at least that cosine, and what fits of them.

    Turns only where there is no fact at all: a turn may tell what has changed since.
    """
    text = _question(text)
    vectors = yield from Embed([text])
    [found] = yield from store.neighbours(scope.without_session(), [vectors[0]], limit=most)
    hits = [fact.hit(cosine) for fact, cosine in found if cosine >= least]
    if not found:
        hits = yield from search(store, scope, text, limit=most)
    return Recalled(_fitting(hits, token_budget))


def _fitting(hits: Sequence[Hit], token_budget: int, lines: Mapping[str, str] | None = None) -> tuple[Hit, ...]:
    """The first ones that fit; `lines` as they will be shown, where they are made already."""
    chosen, left = [], token_budget
    for hit in hits:
        cost = tokens(lines[hit.id] if lines else generation.memory_line(hit))
        if cost <= left:
            chosen.append(hit)
            left -= cost
    return tuple(chosen)


def in_order(hits: Sequence[Hit]) -> list[Hit]:
    """By time; a fact stands after the turns of its moment."""
    return sorted(hits, key=lambda hit: (hit.created_at, hit.kind == "fact"))


def tokens(text: str) -> int:
    """An estimate that rather errs high: most tokenizers need fewer for ordinary prose."""
    return math.ceil(max(len(text.encode()) / 3.5, len(text.split()) * 1.2)) + 1


def _everything(store: FactStore, scope: Scope, token_budget: int) -> Flow[list[Hit] | None]:
    most = token_budget // _SHORTEST_ITEM
    counts = yield from store.count(scope)
    if counts["facts"] + counts["turns"] > most:
        return None
    facts = yield from store.facts(scope)
    turns = yield from store.turns(scope)
    spoken = [turn for turn in turns if turn.spoken and turn.text.strip()]
    hits = in_order([*(turn.hit(1.0) for turn in spoken), *(fact.hit(1.0) for fact in facts)])
    if sum(tokens(generation.memory_line(hit)) for hit in hits) > token_budget:
        return None
    return hits


def _question(text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError("The question is blank; pass the words to look for.")
    return clean_text(text)
