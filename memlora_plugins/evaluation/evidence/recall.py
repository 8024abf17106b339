"""How much of the evidence a search finds, and how early: recall and nDCG of the evidence among the best items.

A question's gold is the ids of what its answer takes (turns of a conversation, paragraphs of a corpus). A found item
covers any number of ids: a turn its own, a fact those of the turns it came from (`Hit.sources`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from ...errors import InvalidInputError
from ..locomo import ANSWERABLE
from ..statistics import Interval, bootstrap

Found = Sequence[Collection[str]]
"""Found items, best first, each as the ids it covers."""


def evidence_recall(found: Found, gold: Collection[str], k: int) -> float:
    """Share of `gold` that the first `k` items cover. Each item is the ids it covers.

    Raises:
        InvalidInputError: `gold` is empty; such questions are not measured.
    """
    wanted = _wanted(gold)
    return len(wanted.intersection(id for item in found[:k] for id in item)) / len(wanted)


def evidence_ndcg(found: Found, gold: Collection[str], k: int) -> float:
    """Normalised discounted cumulative gain of `gold` in the first `k` items, 0 to 1. Gains are binary.

    Each gold id counts once, at the first item that covers it: 1 / log2(1 + rank), ranks from 1. The sum is divided by
    that of the ideal: these items in the best order, by how many ids each is the first to cover, and then, one an item,
    the ids that none covers. Where no item covers more than one, this is the usual nDCG@k; what covers several at once
    (facts of several turns) has another ideal than what does not, so compare rankings of the same items.

    Raises:
        InvalidInputError: `gold` is empty; such questions are not measured.
    """
    wanted = _wanted(gold)
    covered = []
    for item in found[:k]:
        new = wanted.intersection(item)
        covered.append(len(new))
        wanted -= new
    ideal = [*sorted(filter(None, covered), reverse=True), *([1] * len(wanted))]
    return _gain(covered) / _gain(ideal[:k])


def _wanted(gold: Collection[str]) -> set[str]:
    if not gold:
        raise InvalidInputError("Evidence is measured for questions with at least one gold id.")
    return set(gold)


def _gain(covered: Iterable[int]) -> float:
    return sum(ids / math.log2(1 + rank) for rank, ids in enumerate(covered, start=1))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for one question, by how many items were asked for; `category` is the group it belongs to."""

    found: Mapping[int, Found]
    gold: Collection[str]
    category: int | None = None


class EvidenceMean(BaseModel):
    """Means over `questions`, by number of items looked at, with their 95 % bootstrap intervals over the questions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int
    recall: dict[int, Interval]
    ndcg: dict[int, Interval]
    complete: dict[int, Interval]
    """Share of the questions with all their evidence there."""


class Recall(EvidenceMean):
    """Evidence recall and nDCG over all questions, and by category (questions without one count in the whole only)."""

    by_category: dict[int, EvidenceMean]

    @property
    def at(self) -> Mapping[int, float]:
        """Mean evidence recall, by number of items looked at."""
        return {k: interval.mean for k, interval in self.recall.items()}


def recall(outcomes: Sequence[Outcome], *, ks: Sequence[int]) -> Recall:
    """Means over the outcomes of several questions.

    Raises:
        InvalidInputError: no outcome, one without gold, or a `ks` below 1.
    """
    if not ks or min(ks) < 1:
        raise InvalidInputError(f"Items are looked at by number, at least 1; got {', '.join(map(str, ks)) or 'none'}.")
    if not outcomes:
        raise InvalidInputError("No question with evidence to measure.")
    groups: defaultdict[int, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.category is not None:
            groups[outcome.category].append(outcome)
    by_category = {category: _mean(groups[category], ks) for category in sorted(groups)}
    return Recall(**dict(_mean(outcomes, ks)), by_category=by_category)


def _mean(outcomes: Sequence[Outcome], ks: Sequence[int]) -> EvidenceMean:
    def mean(measure: Callable[[Found, Collection[str], int], float]) -> dict[int, Interval]:
        return {k: bootstrap([measure(one.found[k], one.gold, k) for one in outcomes]) for k in ks}

    return EvidenceMean(
        questions=len(outcomes),
        recall=mean(evidence_recall),
        ndcg=mean(evidence_ndcg),
        complete=mean(lambda found, gold, k: float(evidence_recall(found, gold, k) == 1.0)),
    )


# Asking --------------------------------------------------------------------------------------------------------------


class Asked(Protocol):
    """A question that may have evidence; `category` is the group it is counted in."""

    @property
    def text(self) -> str: ...
    @property
    def category(self) -> int | None: ...
    @property
    def evidence(self) -> tuple[str, ...]: ...


ItemSearch = Callable[[str, int], Found]
"""(question, limit) to found items, best first."""


def alone(search: Callable[[str, int], Iterable[str]]) -> ItemSearch:
    """A search that finds ids, as one whose items cover one id each."""
    return lambda question, limit: [(id,) for id in search(question, limit)]


def with_evidence(questions: Iterable[Asked]) -> list[Asked]:
    """The questions about a conversation that are measured: those with evidence, of LoCoMo's answerable categories or
    of none."""
    return [one for one in questions if one.evidence and (one.category is None or one.category in ANSWERABLE)]


def ask(questions: Iterable[Asked], search: ItemSearch, *, ks: Sequence[int]) -> list[Outcome]:
    """Ask every question once for each of `ks`: where fewer are wanted, they may be searched for in another way."""
    return [Outcome({k: search(one.text, k) for k in ks}, one.evidence, one.category) for one in questions]


def measure(questions: Iterable[Asked], search: ItemSearch, *, ks: Sequence[int]) -> Recall:
    """Ask every question, and average what is found of the evidence.

    Raises:
        InvalidInputError: as `recall`. Whatever `search` raises.
    """
    return recall(ask(questions, search, ks=ks), ks=ks)
