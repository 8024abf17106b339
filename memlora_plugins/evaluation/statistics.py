"""How sure a mean is: bootstrap confidence intervals over items, and mean ± standard deviation over runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from ..errors import InvalidInputError

_DRAWN_AT_ONCE = 2_000_000  # values in memory at a time: 16 MB of places and as many of values


class Interval(BaseModel):
    """A mean with its confidence interval, in the unit of the values."""

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of `values` and its percentile bootstrap interval.

    The plain percentile rule with numpy: scores of answers have many equal values and often only few of them, where
    the bias-corrected rule of `scipy.stats.bootstrap` warns and has no interval; and scipy is no dependency of the
    core. Equal values and seed give equal intervals, in whatever order the values come. One value, or all of them
    equal, have no spread to draw from: `low == mean == high`. Otherwise `low <= mean <= high`.

    Raises:
        InvalidInputError: no value, one that is not finite, `confidence` outside 0 to 1 or no resample.
    """
    import numpy as np

    _check(values)
    if not 0 < confidence < 1 or resamples < 1:
        raise InvalidInputError("bootstrap() takes a confidence between 0 and 1, and at least one resample.")
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if ordered[0] == ordered[-1]:
        only = float(ordered[0])
        return Interval(mean=only, low=only, high=only)
    drawing = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _DRAWN_AT_ONCE // len(ordered))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        means[start : start + count] = ordered[drawing.integers(len(ordered), size=(count, len(ordered)))].mean(axis=1)
    low, high = (float(end) for end in np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]))
    mean = statistics.fmean(values)
    return Interval(mean=mean, low=min(low, mean), high=max(high, mean))  # summed otherwise, it may be an ulp outside


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of `after` less that of `before`, with the bootstrap interval of the differences item by item: the
    two are values of the same items, in one order.

    Raises:
        InvalidInputError: they differ in length; or as `bootstrap`.
    """
    if len(before) != len(after):
        raise InvalidInputError(f"{len(before)} and {len(after)} values are not of the same items.")
    differences = [now - then for then, now in zip(before, after, strict=True)]
    return bootstrap(differences, confidence=confidence, resamples=resamples, seed=seed)


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1) of `values`; 0.0 for one value.

    Raises:
        InvalidInputError: no value, or one that is not finite.
    """
    _check(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _check(values: Sequence[float]) -> None:
    if not len(values):
        raise InvalidInputError("There is no value to take the mean of.")
    if not all(math.isfinite(value) for value in values):
        raise InvalidInputError("A value to take the mean of is not a finite number.")
