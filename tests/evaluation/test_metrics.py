"""Scores of answers, on examples and on anything at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.evaluation.metrics import METRICS, Metric, answer_tokens, contains, exact_match, token_f1

WORDS = st.lists(st.sampled_from(["boat", "red", "Lisbon", "7", "the", "May"]), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        ("The red boat.", "a red boat", 1.0),
        ("She lives in Lisbon", "Lisbon", 2 * (1 / 4) * 1 / (1 / 4 + 1)),
        ("boat boat boat", "boat", 0.5),
        ("7 May 2023", "May 7, 2023", 1.0),
        ("It’s red", "its red", 1.0),
        ("Porto", "Lisbon", 0.0),
        ("", "Lisbon", 0.0),
        ("the", "?", 1.0),
    ],
)
def test_token_f1(answer: str, gold: str, f1: float) -> None:
    assert token_f1(answer, gold) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "contained"),
    [
        ("The Red boat!", "red boat", 1.0, 1.0),
        ("boat, red", "red boat", 0.0, 0.0),
        ("I think it is a red boat, yes", "red boat", 0.0, 1.0),
        ("a party", "art", 0.0, 0.0),
        ("a party", "the", 0.0, 0.0),
        ("", "red", 0.0, 0.0),
    ],
)
def test_exact_match_and_contains(answer: str, gold: str, exact: float, contained: float) -> None:
    assert (exact_match(answer, gold), contains(answer, gold)) == (exact, contained)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@given(answer=st.text() | WORDS, gold=st.text() | WORDS)
def test_a_score_is_between_nothing_and_perfect(metric: Metric, answer: str, gold: str) -> None:
    assert 0.0 <= metric(answer, gold) <= 1.0
    assert metric(answer, answer) == 1.0
    assert metric(f"  {answer} ", f"{gold}!") == metric(answer, gold)


@given(answer=WORDS, gold=WORDS)
def test_the_strict_metric_is_the_lower_one(answer: str, gold: str) -> None:
    assert token_f1(answer, gold) == token_f1(gold, answer)
    assert exact_match(answer, gold) <= contains(answer, gold)
    assert exact_match(answer, gold) <= token_f1(answer, gold)
    if answer_tokens(gold):
        assert (token_f1(answer, gold) > 0) == bool(set(answer_tokens(answer)) & set(answer_tokens(gold)))
