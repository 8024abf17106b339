"""Bringing a turn's new facts together with what is known: one commit per turn.

Model-free rules first: a fact that is known word for word gains a source and nothing else happens; a fact without a
near neighbour is added. Only the rest is put before the update expert. Old facts are never overwritten (see
`types.Fact`), and an older statement never retires a newer one: it is recorded as the past that it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from ..errors import ConflictError, PromptTooLongError, ReplyError
from ..experts import update
from ..experts.quotes import may_be_one_person
from ..experts.wording import tells
from ..store.base import Change, FactStore, NewSources, Retirement
from ..types import AddResult, Fact, FactEvent, Failure, Operation, Stage, Turn, Usage, fact_id, normalise
from .asking import Asked, ask
from .curate import as_kept
from .effects import Embed, Emit, Flow, Together

if TYPE_CHECKING:
    from ..embedding import Vector
    from .remember import Rules


def consolidate(store: FactStore, turn: Turn, texts: Sequence[str], rules: Rules) -> Flow[AddResult]:
    """Decide on each new fact and commit; start over from fresh neighbours when somebody else committed meanwhile.

    Raises:
        ConflictError: it kept happening, or the turn was distilled or erased by somebody else.
        ReplyError, BackendError, EmbeddingError: nothing was changed.

    What is too long to be compared with its neighbours is added as it is, and the result's `errors` say so.
    """
    new = list({normalise(text): text for text in texts}.values())
    embedded = yield from Embed([rules.compared(text) for text in new])
    vectors = dict(zip(new, embedded, strict=True))
    answers = _Answers(turn.id, rules)
    for attempt in range(1, rules.commit_attempts + 1):
        plan = yield from _plan(store, turn, new, vectors, answers, rules)
        try:
            yield from store.commit(turn.scope, plan.change())
        except ConflictError:
            now = yield from store.turns(turn.scope, ids=[turn.id])
            if attempt == rules.commit_attempts or not (now and now[0].pending):
                raise
            continue
        kept = yield from as_kept(store, plan.added)
        return AddResult(events=plan.told(kept), errors=plan.failures(), usage=answers.usage)
    raise AssertionError("unreachable: the last attempt returns or raises")


_TOGETHER = 8  # groups of new facts asked about at once
_WINDOW = 10  # old facts looked at where some may be of other people

_Compared = tuple[str, "list[Fact]"]
"""A new fact, and the old ones near it."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the update expert said about new facts and the old ones near them, or that there is no room for them."""

    old: list[Fact]
    new: list[str]
    reading: Asked[update.Decisions] | PromptTooLongError


class _Answers:
    """The update expert's answers for this turn: asked again only if the old facts changed."""

    def __init__(self, turn: str, rules: Rules) -> None:
        self._turn = turn
        self._rules = rules
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], Asked[update.Decisions] | PromptTooLongError] = {}

    @property
    def usage(self) -> Usage:
        """What all of them cost."""
        return sum((known.usage for known in self._known.values() if isinstance(known, Asked)), Usage())

    def to(self, questions: Sequence[_Compared]) -> Flow[list[_Answer]]:
        """All answers, in the order of the new facts."""
        if questions and not self._known:
            yield from Emit(Stage("update", {"turn": self._turn, "new": len(questions)}))
        size = self._rules.facts_per_update
        groups = [questions[start : start + size] for start in range(0, len(questions), size)]
        found: list[_Answer] = []
        for start in range(0, len(groups), _TOGETHER):
            batch = yield from Together([self._about(group) for group in groups[start : start + _TOGETHER]])
            found += itertools.chain.from_iterable(batch)
        return found

    def _about(self, group: Sequence[_Compared]) -> Flow[list[_Answer]]:
        """The answer about a group of new facts, or the answers about its parts where the prompt is too long."""
        old = list({fact.id: fact for _, close in group for fact in close}.values())
        new = [text for text, _ in group]
        key = tuple(fact.text for fact in old), tuple(new)
        if key not in self._known:
            self._known[key] = yield from self._ask(*key)
        reading = self._known[key]
        if isinstance(reading, PromptTooLongError) and len(group) > 1:
            half = len(group) // 2
            first = yield from self._about(group[:half])
            return first + (yield from self._about(group[half:]))
        return [_Answer(old, new, reading)]

    def _ask(self, old: Sequence[str], new: Sequence[str]) -> Flow[Asked[update.Decisions] | PromptTooLongError]:
        try:
            asked: Asked[update.Decisions] = yield from ask(
                "update",
                update.messages(old, new, self._rules.prompt_style("update")),
                lambda reply: update.read(reply, old, new, verbatim=self._rules.quoted_facts),
                schema=update.schema(old, new, verbatim=self._rules.quoted_facts),
                max_tokens=update.MAX_TOKENS,
            )
        except PromptTooLongError as error:
            return error
        return asked


def _plan(
    store: FactStore,
    turn: Turn,
    new: Sequence[str],
    vectors: dict[str, Vector],
    answers: _Answers,
    rules: Rules,
) -> Flow[_Plan]:
    scope = turn.scope.without_session()
    known = yield from store.same_text(scope, new)
    plan = _Plan(turn, rules.clock())
    for fact in known:
        if fact is not None:
            plan.say_again(fact)
    fresh = [text for text, fact in zip(new, known, strict=True) if fact is None]
    limit = rules.neighbours_per_fact
    asked_for = max(2 * limit, _WINDOW) if rules.quoted_facts else limit
    near = yield from store.neighbours(scope, [vectors[text] for text in fresh], limit=asked_for)
    asked_about: list[_Compared] = []
    for text, found in zip(fresh, near, strict=True):
        close = [fact for fact, cosine in found if cosine >= rules.similarity_threshold]
        if rules.quoted_facts:
            close = [fact for fact in close if may_be_one_person(text, fact.text)][:limit]
        if close:
            asked_about.append((text, close))
        else:
            plan.add(text)
    plan.follow((yield from answers.to(asked_about)))
    missing = [fact.text for fact in plan.added if fact.text not in vectors]  # texts that the update expert merged
    if missing:
        embedded = yield from Embed([rules.compared(text) for text in missing])
        vectors.update(zip(missing, embedded, strict=True))
    plan.vectors = vectors
    return plan


class _Plan:
    """The change under construction, and the events that tell of it."""

    def __init__(self, turn: Turn, now: datetime) -> None:
        self._turn = turn
        self._now = now
        self._retired: set[str] = set()
        self._updated: dict[str, Fact] = {}  # by the id of the old one
        self._retirements: list[Retirement] = []
        self._sources: list[NewSources] = []
        self.added: list[Fact] = []
        self.events: list[FactEvent] = []
        self.cut_off = False
        self._uncompared: list[PromptTooLongError] = []
        self.vectors: dict[str, Vector] = {}

    def change(self) -> Change:
        return Change(
            add=tuple((fact, self.vectors.get(fact.text)) for fact in self.added),
            retire=tuple(self._retirements),
            sources=tuple(self._sources),
            done=(self._turn.id,),
        )

    def told(self, kept: Sequence[Fact]) -> tuple[FactEvent, ...]:
        """The events, about the facts that the store kept for those that were added."""
        now = {fact.id: stored for fact, stored in zip(self.added, kept, strict=True)}
        return tuple(replace(event, fact=now.get(event.fact.id, event.fact)) for event in self.events)

    def say_again(self, fact: Fact) -> None:
        """Known already: the fact gains this turn as a source."""
        self._sources.append(NewSources(fact.id, fact.version, (self._turn.message_id,)))
        self.events.append(FactEvent("NONE", fact, fact))

    def add(self, text: str) -> Fact | None:
        return self._new(text, "ADD")

    def failures(self) -> tuple[Failure, ...]:
        """What was added without a decision, and why."""
        errors: list[ReplyError | PromptTooLongError] = []
        if self.cut_off:
            errors.append(ReplyError("The reply was cut off; new facts it did not reach were added as they are."))
        if self._uncompared:
            first = self._uncompared[0]
            told = f"{len(self._uncompared)} of the new facts had no room to be compared with others and were added as "
            errors.append(PromptTooLongError(f"{told}they are: {first}", status=first.status))
        return tuple(Failure("update", error, (self._turn.id,)) for error in errors)

    def follow(self, answers: Sequence[_Answer]) -> None:
        """Carry out what the update expert decided.

        DELETEs come after what replaces their memory, so that they can name it. What a memory knows already comes last:
        where that memory goes, the fact is added, as no answer knows of the others.
        """
        repeated: list[tuple[Fact, str]] = []
        for answer in answers:
            self._follow(answer, repeated)
        for old, text in repeated:
            if old.id not in self._retired:
                self.say_again(old)
            elif old.id not in self._updated or not tells(self._updated[old.id].text, text):
                self.add(text)

    def _follow(self, answer: _Answer, repeated: list[tuple[Fact, str]]) -> None:
        old, new = answer.old, answer.new
        if isinstance(answer.reading, PromptTooLongError):
            self._uncompared.append(answer.reading)
            for text in new:
                self.add(text)
            return
        self.cut_off |= answer.reading.truncated
        decisions = answer.reading.reading
        replaced: dict[int, Fact] = {}
        for decision in decisions.items:
            target = old[decision.target] if decision.target is not None else None
            fact: Fact | None = None
            if decision.operation == "NONE" and target is not None:
                repeated.append((target, new[decision.fact]))
            elif decision.operation == "UPDATE" and target is not None and target.id not in self._retired:
                fact = self._replace(target, decision.text, new[decision.fact])
            elif decision.operation != "DELETE":
                fact = self.add(decision.text if decision.operation == "ADD" else new[decision.fact])
            if fact is not None:
                replaced[decision.fact] = fact
        for decision in decisions.items:
            if decision.operation == "DELETE" and decision.target is not None:
                self._delete(old[decision.target], replaced.get(decision.fact))

    def _replace(self, old: Fact, text: str, said: str) -> Fact | None:
        if normalise(text) == normalise(old.text):
            self.say_again(old)
            return None
        merged = normalise(text) != normalise(said)
        sources = (*old.sources, self._turn.message_id) if merged else (self._turn.message_id,)
        if self._turn.created_at < old.valid_from:  # an older statement: it is history, the newer one stands
            return self._new(said, "ADD", past_of=old)
        fact = self._new(text, "UPDATE", sources=sources, version=old.version + 1, previous=old)
        if fact is not None:
            self._retire(old, "UPDATE", fact)
            self._updated[old.id] = fact
        return fact

    def _delete(self, old: Fact, replacement: Fact | None) -> None:
        if old.id in self._retired or self._turn.created_at < old.valid_from:
            return
        retirement = self._retire(old, "DELETE", replacement)
        gone = replace(
            old,
            retired_at=retirement.retired_at,
            retired_by="DELETE",
            valid_to=retirement.valid_to,
            superseded_by=retirement.superseded_by,
        )
        self.events.append(FactEvent("DELETE", gone, old))

    def _retire(self, old: Fact, by: Operation, replacement: Fact | None) -> Retirement:
        retirement = Retirement(
            id=old.id,
            version=old.version,
            retired_by=by,
            retired_at=self._now,
            valid_to=self._turn.created_at,
            superseded_by=replacement.id if replacement else None,
        )
        self._retired.add(old.id)
        self._retirements.append(retirement)
        return retirement

    def _new(
        self,
        text: str,
        operation: Operation,
        *,
        sources: tuple[str, ...] | None = None,
        version: int = 1,
        previous: Fact | None = None,
        past_of: Fact | None = None,
    ) -> Fact | None:
        id = fact_id(self._turn.id, text)
        if any(fact.id == id for fact in self.added):
            return None
        line = previous or past_of
        fact = Fact(
            id=id,
            scope=line.scope if line else self._turn.scope.without_session(),  # versions of a fact keep their owner
            text=text,
            sources=tuple(dict.fromkeys(sources or (self._turn.message_id,))),
            valid_from=self._turn.created_at,
            recorded_at=self._now,
            operation=operation,
            version=version,
        )
        if past_of is not None:
            fact = replace(
                fact,
                valid_to=past_of.valid_from,
                retired_at=self._now,
                retired_by="UPDATE",
                superseded_by=past_of.id,
            )
        self.added.append(fact)
        self.events.append(FactEvent(operation, fact, previous))
        return fact
