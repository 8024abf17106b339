"""From what an update expert said to what happens: pure rules under which no new fact is ever lost.

The expert names operations; these rules decide which of them are meant, and about what:

- Every new fact ends in at least one decision. One that no operation mentions is added.
- UPDATE, DELETE and NONE need an old memory that exists; without one the new fact is added.
- NONE drops a new fact only if the operation repeats that fact, or the old memory has all of its words. If the old
  memory is retired by the same reply, the fact is added after all.
- DELETE retires an old memory because of a new fact, and that fact is kept: added, unless another operation keeps it.
- UPDATE keeps the expert's wording if most of it comes from the old memory and the new facts; otherwise, and with
  `verbatim` always, the new fact stands as it was said. A second UPDATE of one memory becomes ADD; UPDATE goes before
  DELETE.
- ADD takes the new fact as it was said. An operation about no new fact and no old memory does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..types import Operation, normalise
from .wording import content_words, overlap, tells, words

_ABOUT = 0.5  # share of content words that makes a text be about a fact
_GROUNDED = 0.5  # share of an UPDATE's content words that must come from the old memory or the new facts
_ORDER: tuple[Operation, ...] = ("UPDATE", "ADD", "NONE", "DELETE")


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens because of one new fact.

    `fact` is its index among the new facts. `target` is the index of the old memory that is replaced (UPDATE), retired
    (DELETE) or says it already (NONE); None for ADD. `text` is the statement to keep (ADD, UPDATE) or the old
    memory's (NONE, DELETE).
    """

    operation: Operation
    text: str
    target: int | None
    fact: int


@dataclass(frozen=True, slots=True)
class Decisions:
    """All decisions of one reply: UPDATE and ADD first, then NONE, then DELETE, each in the order of the new facts.

    `truncated`: the reply was cut off; facts it did not reach are added.
    """

    items: tuple[Decision, ...]
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """One operation as the expert named it. `text` is "" and `id` None where it gave none that can be read."""

    operation: Operation
    text: str = ""
    id: int | None = None
    old_memory: str = ""


def decide(
    said: Sequence[Said], old: Sequence[str], new: Sequence[str], *, verbatim: bool = False
) -> tuple[Decision, ...]:
    """What happens to `old` and `new`, by the rules above."""
    rules = _Rules(old, new, verbatim)
    for operation in said:
        if operation.operation != "DELETE":
            rules.hear(operation)
    for operation in said:
        if operation.operation == "DELETE":
            rules.delete(operation)
    return rules.decisions()


class _Rules:
    def __init__(self, old: Sequence[str], new: Sequence[str], verbatim: bool) -> None:
        self._verbatim = verbatim
        self._old = old
        self._new = new
        self._old_index = _first(old)
        self._new_index = _first(new)
        self._updates: dict[int, Decision] = {}  # by target
        self._deletes: dict[int, int] = {}  # target -> fact
        self._known: dict[int, int | None] = {}  # fact -> target of NONE
        self._added: set[int] = set()

    def hear(self, said: Said) -> None:
        target = self._target(said)
        if said.operation == "NONE":
            self._none(said.text, target)
        elif said.operation == "UPDATE" and target is not None:
            self._update(said.text, target)
        else:
            self._add(said.text)

    def delete(self, said: Said) -> None:
        target = self._target(said)
        named = self._new_index.get(normalise(said.text))
        if named is None:
            target = self._old_index.get(normalise(said.text), target)
        if target is None:
            self._add(said.text)
            return
        fact = named if named is not None else self._cause(said.text, target)
        if fact is None or target in self._updates:
            return
        if normalise(self._new[fact]) == normalise(self._old[target]):
            self._known.setdefault(fact, target)
        else:
            self._deletes.setdefault(target, fact)

    def decisions(self) -> tuple[Decision, ...]:
        made = list(self._updates.values())
        updated = {decision.fact for decision in made}
        for fact, text in enumerate(self._new):
            wanted = fact in self._added
            if fact in updated and not (wanted and self._merged_into(fact) is None):
                continue
            target = self._already(fact, wanted)
            if target is None:
                made.append(Decision("ADD", text, None, fact))
            else:
                made.append(Decision("NONE", self._old[target], target, fact))
        made += [Decision("DELETE", self._old[target], target, fact) for target, fact in self._deletes.items()]
        return tuple(sorted(made, key=lambda one: (_ORDER.index(one.operation), one.fact, one.target or 0)))

    def _add(self, text: str) -> None:
        fact = self._about(text)
        if fact is not None:
            self._added.add(fact)

    def _none(self, text: str, target: int | None) -> None:
        fact = self._new_index.get(normalise(text))
        if fact is None and target is not None and (not text or self._repeats(text, target)):
            for index, new in enumerate(self._new):
                if tells(self._old[target], new):
                    self._known.setdefault(index, target)
            return
        fact = self._about(text) if fact is None else fact
        if fact is not None:
            self._known.setdefault(fact, target)

    def _update(self, text: str, target: int) -> None:
        fact = self._about(text) if text else self._nearest(target)
        if fact is None:
            return
        if text and normalise(text) == normalise(self._old[target]):
            self._none(text, target)  # it changes nothing
            return
        if not text or self._verbatim or not self._grounded(text, target):
            text = self._new[fact]
        if normalise(text) == normalise(self._old[target]):
            self._known.setdefault(fact, target)
        elif target in self._updates:
            if self._updates[target].fact != fact:
                self._added.add(fact)
        elif any(one.fact == fact and normalise(one.text) == normalise(text) for one in self._updates.values()):
            self._deletes.setdefault(target, fact)  # one statement takes the place of several
        else:
            self._updates[target] = Decision("UPDATE", text, target, fact)
            self._deletes.pop(target, None)

    def _already(self, fact: int, wanted: bool) -> int | None:
        """The old memory that makes adding `fact` needless."""
        target = self._known.get(fact)
        if target is not None and not wanted:
            if target in self._updates:
                if tells(self._updates[target].text, self._new[fact]):
                    return target
            elif target not in self._deletes:
                return target
        same = self._old_index.get(normalise(self._new[fact]))
        if same is not None and same not in self._updates and same not in self._deletes:
            return same
        if wanted or fact in self._deletes.values():
            return None
        return self._merged_into(fact)

    def _merged_into(self, fact: int) -> int | None:
        return next((target for target, made in self._updates.items() if tells(made.text, self._new[fact])), None)

    def _target(self, said: Said) -> int | None:
        """The old memory that is meant: the quoted one if it exists, else the numbered one."""
        id = said.id if said.id is not None and 0 <= said.id < len(self._old) else None
        quoted = normalise(said.old_memory)
        if id is not None and normalise(self._old[id]) == quoted:
            return id
        return self._old_index.get(quoted, id) if quoted else id

    def _about(self, text: str) -> int | None:
        """The new fact that `text` is about: the same one, else the one with most words in common."""
        if not text:
            return None
        same = self._new_index.get(normalise(text))
        if same is not None:
            return same
        score, fact = max(((overlap(text, new), -index) for index, new in enumerate(self._new)), default=(0.0, 0))
        return -fact if score >= _ABOUT else None

    def _cause(self, text: str, target: int) -> int | None:
        """The new fact behind a DELETE that does not repeat it."""
        fact = None if self._repeats(text, target) else self._about(text)
        if fact is not None:
            return fact
        fact = self._nearest(target)
        if fact is not None:
            return fact
        heard = {decision.fact for decision in self._updates.values()} | self._known.keys() | self._added
        silent = [index for index in self._new_index.values() if index not in heard]
        return silent[0] if len(silent) == 1 else None

    def _nearest(self, target: int) -> int | None:
        """The new fact with most words in common with an old memory; the only one without any."""
        scores = [overlap(new, self._old[target]) for new in self._new]
        best = max(scores, default=0.0)
        if best > 0:
            return scores.index(best)
        return 0 if len(self._new) == 1 else None

    def _repeats(self, text: str, target: int) -> bool:
        """Whether `text` is rather the old memory than a new fact."""
        if not text:
            return True
        closest = max((overlap(text, new) for new in self._new), default=0.0)
        return overlap(text, self._old[target]) >= max(closest, _ABOUT)

    def _grounded(self, text: str, target: int) -> bool:
        source = words(self._old[target]).union(*map(words, self._new))
        told = content_words(text)
        return len(told & source) >= _GROUNDED * len(told)


def _first(texts: Sequence[str]) -> dict[str, int]:
    index: dict[str, int] = {}
    for number, text in enumerate(texts):
        index.setdefault(normalise(text), number)
    return index
