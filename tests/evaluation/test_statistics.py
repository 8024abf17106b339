"""Intervals of means: against the textbook, against scipy, and on anything at all."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from memlora_plugins.errors import InvalidInputError
from memlora_plugins.evaluation.statistics import Interval, bootstrap, mean_sd, paired_bootstrap

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def test_mean_and_standard_deviation_by_hand() -> None:
    assert mean_sd([2.0, 4.0, 9.0]) == (5.0, pytest.approx(math.sqrt((9 + 1 + 16) / 2)))
    assert mean_sd([0.7]) == (0.7, 0.0)


def test_the_interval_of_a_share_is_the_textbook_one() -> None:
    """1.96 standard errors to either side: 200 right of 500."""
    found = bootstrap([1.0] * 200 + [0.0] * 300)
    error = 1.96 * math.sqrt(0.4 * 0.6 / 500)
    assert found.mean == 0.4
    assert found.low == pytest.approx(0.4 - error, abs=0.006)
    assert found.high == pytest.approx(0.4 + error, abs=0.006)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_scipy_finds_the_same_interval(confidence: float) -> None:
    drawing = random.Random(4)
    values = [drawing.lognormvariate(0, 0.5) for _ in range(80)]
    found = bootstrap(values, confidence=confidence, resamples=20_000)
    theirs = stats.bootstrap(
        (values,),
        lambda sample, axis: sample.mean(axis=axis),
        confidence_level=confidence,
        n_resamples=20_000,
        method="percentile",
        rng=9,
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_a_thousand_true_means_are_inside_about_as_often_as_promised() -> None:
    drawing = random.Random(1)
    inside = 0
    for _ in range(400):
        found = bootstrap([drawing.gauss(3, 1) for _ in range(60)], resamples=300)
        inside += found.low <= 3 <= found.high
    assert inside / 400 == pytest.approx(0.94, abs=0.03)


def test_one_value_or_equal_ones_have_no_spread() -> None:
    assert bootstrap([0.3]) == bootstrap([0.3] * 7) == Interval(mean=0.3, low=0.3, high=0.3)


def test_true_and_false_are_one_and_nought() -> None:
    assert bootstrap([True, False]) == Interval(mean=0.5, low=0.0, high=1.0)


def test_many_values_are_drawn_in_pieces() -> None:
    """More than fit into memory at once, with resamples that do not divide evenly."""
    found = bootstrap([0.0, 1.0] * 500_000, resamples=3)
    assert found.low <= found.high
    assert found.mean == 0.5


@pytest.mark.parametrize("values", [[0.3] * 10 + [0.1 + 0.2], [2 / 3] * 50 + [math.nextafter(2 / 3, 1)] * 50])
def test_the_mean_is_never_outside_of_its_interval(values: list[float]) -> None:
    found = bootstrap(values)
    assert found.low <= found.mean <= found.high


def test_a_difference_of_the_same_items() -> None:
    drawing = random.Random(2)
    before = [drawing.random() for _ in range(50)]
    found = paired_bootstrap(before, [value + 0.1 for value in before])
    assert (found.low, found.mean, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_bootstrap([1, 0, 1], [0, 1, 1]).mean == 0.0
    with pytest.raises(InvalidInputError, match="not of the same items"):
        paired_bootstrap([1.0], [1.0, 2.0])


def test_an_interval_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        bootstrap([1, 2]).low = 0


@given(values=VALUES, seed=st.integers(0, 3))
def test_the_interval_lies_within_the_values_whatever_their_order(values: list[float], seed: int) -> None:
    found = bootstrap(values, resamples=50, seed=seed)
    shuffled = random.Random(seed).sample(values, len(values))
    again = bootstrap(shuffled, resamples=50, seed=seed)
    assert (again.low, again.high) == (found.low, found.high)
    assert again.mean == found.mean
    tiny = 1e-9 * max(map(abs, values))
    assert min(values) - tiny <= found.low <= found.high <= max(values) + tiny
    assert min(values) - tiny <= found.mean <= max(values) + tiny


@given(values=VALUES)
def test_more_confidence_is_a_wider_interval(values: list[float]) -> None:
    narrow, wide = (bootstrap(values, confidence=confidence, resamples=50) for confidence in (0.5, 0.99))
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_no_mean_of_nothing_or_of_something_that_is_no_number(values: list[float]) -> None:
    with pytest.raises(InvalidInputError):
        bootstrap(values)
    with pytest.raises(InvalidInputError):
        mean_sd(values)


@pytest.mark.parametrize(("confidence", "resamples"), [(0.0, 10), (1.0, 10), (95.0, 10), (0.9, 0)])
def test_impossible_intervals_are_refused(confidence: float, resamples: int) -> None:
    with pytest.raises(InvalidInputError, match="confidence between 0 and 1"):
        bootstrap([1.0, 2.0], confidence=confidence, resamples=resamples)
