"""How much of the evidence is found, and how early."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from memlora_plugins.errors import InvalidInputError
from memlora_plugins.evaluation.evidence.recall import (
    Outcome,
    alone,
    evidence_ndcg,
    evidence_recall,
    measure,
    recall,
    with_evidence,
)

FOUND = [["t1"], ["t2", "t3"], [], ["t4"]]
IDS = [f"t{n}" for n in range(12)]


def test_recall_counts_items_and_what_they_cover() -> None:
    assert evidence_recall(FOUND, ["t3", "t4"], 2) == 0.5
    assert evidence_recall(FOUND, ["t3", "t4"], 4) == 1.0
    assert evidence_recall([], ["t3"], 10) == 0.0


def test_ndcg_by_hand() -> None:
    assert evidence_ndcg(FOUND, ["t1"], 1) == 1.0
    assert evidence_ndcg(FOUND, ["t2"], 1) == 0.0
    assert evidence_ndcg(FOUND, ["t2"], 2) == pytest.approx(1 / math.log2(3))
    second, fourth = 1 / math.log2(3), 1 / math.log2(5)
    assert evidence_ndcg(FOUND, ["t3", "t4"], 4) == pytest.approx((second + fourth) / (1 + second))
    assert evidence_ndcg([["t1"]], ["t1", "t9"], 1) == 1.0  # more gold than is looked at
    assert evidence_ndcg([], ["t3"], 10) == 0.0


def test_a_gold_id_counts_where_it_is_found_first() -> None:
    """Again is no gain; the ideal of what covers several at once has it first."""
    once, again = [["a"], ["x"]], [["a"], ["a"]]
    assert evidence_ndcg(once, ["a", "b"], 2) == evidence_ndcg(again, ["a", "b"], 2)
    assert evidence_ndcg([["a", "b"]], ["a", "b"], 10) == 1.0
    assert evidence_ndcg([["x"], ["a", "b"]], ["a", "b"], 2) == pytest.approx(1 / math.log2(3))
    assert evidence_ndcg([["a", "a"]], ["a", "b"], 1) == 1.0


@pytest.mark.parametrize("metric", [evidence_recall, evidence_ndcg])
def test_without_gold_there_is_nothing_to_measure(metric) -> None:
    with pytest.raises(InvalidInputError, match="at least one gold id"):
        metric(FOUND, [], 10)


@given(st.permutations(IDS), st.sets(st.sampled_from(IDS), min_size=1), st.integers(1, 14))
def test_ndcg_is_that_of_scikit_learn_where_items_cover_one_id(order: list[str], gold: set[str], k: int) -> None:
    expected = ndcg_score([[float(id in gold) for id in order]], [list(range(len(order), 0, -1))], k=k)
    assert evidence_ndcg([[id] for id in order], gold, k) == pytest.approx(expected)


@given(
    st.lists(st.sets(st.sampled_from(IDS), max_size=3), max_size=12),
    st.sets(st.sampled_from(IDS), min_size=1),
    st.integers(1, 14),
)
def test_both_are_shares_that_agree_on_nothing_found(found: list[set[str]], gold: set[str], k: int) -> None:
    share, gain = evidence_recall(found, gold, k), evidence_ndcg(found, gold, k)
    assert 0 <= share <= 1
    assert 0 <= gain <= 1
    assert (share == 0) == (gain == 0)


def test_means_with_intervals_over_all_and_by_category() -> None:
    outcomes = [
        Outcome({1: [["a"]], 2: [["a"]]}, ["a"], 4),
        Outcome({1: [["x"]], 2: [["x"], ["a"]]}, ["a"], 4),
        Outcome({1: [["x"]], 2: [["x"]]}, ["a"], 1),
        Outcome({1: [["a"]], 2: [["a"]]}, ["a"]),
    ]
    made = recall(outcomes, ks=(1, 2))
    assert made.questions == 4
    assert made.at == {1: 0.5, 2: 0.75}
    assert made.ndcg[2].mean == pytest.approx((2 + 1 / math.log2(3)) / 4)
    assert made.recall[1].low <= 0.5 <= made.recall[1].high
    assert {category: mean.questions for category, mean in made.by_category.items()} == {1: 1, 4: 2}
    assert made.by_category[4].recall[1].mean == 0.5
    assert made.by_category[1].recall[2].high == 0.0


@pytest.mark.parametrize("ks", [(), (0,), (5, -1)])
def test_items_are_looked_at_from_the_first_on(ks: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        recall([Outcome({1: [["a"]]}, ["a"])], ks=ks)


@dataclass(frozen=True)
class Question:
    text: str
    category: int | None
    evidence: tuple[str, ...]


QUESTIONS = (
    Question("What did Ana buy?", 4, ("t1",)),
    Question("When?", 2, ("t1", "t2", "t3")),
    Question("Whose plane?", 5, ("t1",)),
    Question("How old?", 4, ()),
    Question("Why?", None, ("t2",)),
)


def test_questions_with_evidence_are_asked_once_for_each_number_of_items() -> None:
    asked: list[tuple[str, int]] = []

    def search(question: str, limit: int) -> list[tuple[str, ...]]:
        asked.append((question, limit))
        return [("t1",), ("t2", "t3")][:limit]

    measured = with_evidence(QUESTIONS)
    made = measure(measured, search, ks=(1, 2))
    assert asked == [(text, limit) for text in ("What did Ana buy?", "When?", "Why?") for limit in (1, 2)]
    assert made.at == pytest.approx({1: (1 + 1 / 3 + 0) / 3, 2: 1.0})
    assert {k: interval.mean for k, interval in made.complete.items()} == pytest.approx({1: 1 / 3, 2: 1.0})
    assert made.by_category[2].complete[1].mean == 0.0
    with pytest.raises(InvalidInputError, match="No question with evidence"):
        measure((), search, ks=(1,))


def test_a_search_for_ids_covers_one_with_each_item() -> None:
    found = measure(QUESTIONS[:2], alone(lambda question, limit: ["t1", "t2"][:limit]), ks=(1, 2))
    assert found.at == pytest.approx({1: (1 + 1 / 3) / 2, 2: (1 + 2 / 3) / 2})
