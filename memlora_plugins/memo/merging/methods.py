"""The six ways to make one task vector out of several (Appendix H.1 of the MeMo paper), a tensor at a time.

A task vector is what training changed: weights minus those of the base. Each comes as slices, so that neither it nor
the result has to be in memory; what a method must know of a whole tensor (a threshold, an angle) is found in a pass
before. Random choices depend on seeds alone, and not on how a tensor is sliced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ...errors import SettingsError

if TYPE_CHECKING:
    import torch

MergeMethod = Literal["linear", "task_arithmetic", "slerp", "ties", "dare_linear", "dare_ties"]
METHODS: tuple[MergeMethod, ...] = get_args(MergeMethod)

TaskVector = Iterable["torch.Tensor"]
"""One tensor's, in slices; it can be gone through more than once."""

_WITH_DENSITY = ("ties", "dare_linear", "dare_ties")
_WITHOUT_WEIGHTS = ("task_arithmetic", "slerp")
_NEARLY_PARALLEL = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How task vectors are merged. What does not belong to the method is ignored, `weights` aside.

    - `linear`: their sum with `weights` (> 0, one for each; default 1 / K of K models).
    - `task_arithmetic`: their plain sum.
    - `slerp`, of two: along the arc between their directions to the share `t` of the angle (0 the first, 1 the second),
      with a length between theirs in the same share; along the line where there is no arc (parallel, opposite, zero).
    - `ties`: of each tensor the share `density` of largest magnitude is kept, a sign elected for each entry by the sum
      over the models, and the mean taken of those entries that have it. `weights` count votes and mean.
    - `dare_linear`: each entry is kept with probability `density` and divided by it, then as `linear`.
    - `dare_ties`: dropped as by DARE, then sign and mean as by TIES.

    The result times `scale` is added to the base. `seed` is that of DARE's choices.

    Raises:
        SettingsError: a value out of its range, or weights for a method that has none.
    """

    method: MergeMethod = "ties"
    weights: tuple[float, ...] | None = None
    density: float = 0.5
    t: float = 0.5
    scale: float = 1.0
    seed: int = 7

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingsError(f"There is no merging method {self.method!r}; there are {', '.join(METHODS)}.")
        if not 0 < self.density <= 1:
            raise SettingsError(f"density is a share above 0 and up to 1, not {self.density}.")
        if not 0 <= self.t <= 1:
            raise SettingsError(f"t lies between 0 and 1, not at {self.t}.")
        if not (math.isfinite(self.scale) and self.scale != 0):
            raise SettingsError(f"scale is a number other than 0, not {self.scale}.")
        if self.weights is not None:
            if self.method in _WITHOUT_WEIGHTS:
                raise SettingsError(f"{self.method} has no weights. Leave them out, or merge by linear.")
            if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
                raise SettingsError(f"Weights are numbers above 0, not {', '.join(map(str, self.weights))}.")

    def check(self, models: int) -> None:
        """Raises SettingsError where this cannot merge so many models."""
        if models < 1:
            raise SettingsError("There is no model to merge; name at least one beside the base.")
        if self.method == "slerp" and models != 2:
            raise SettingsError(f"slerp merges two models, not {models}. Merge them by another method, such as ties.")
        if self.weights is not None and len(self.weights) != models:
            raise SettingsError(f"{models} models need as many weights; {len(self.weights)} were given.")

    @property
    def label(self) -> str:
        """The method and its own parameter, for people: `ties, density 0.3`."""
        if self.method == "slerp":
            return f"slerp, t {self.t:g}"
        return f"{self.method}, density {self.density:g}" if self.method in _WITH_DENSITY else self.method

    def row(self) -> dict[str, Any]:
        """What belongs to the method, as JSON has it."""
        row: dict[str, Any] = {"method": self.method, "scale": self.scale}
        if self.weights is not None:
            row["weights"] = list(self.weights)
        if self.method == "slerp":
            row["t"] = self.t
        if self.method in _WITH_DENSITY:
            row["density"] = self.density
        if self.method.startswith("dare"):
            row["seed"] = self.seed
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Recipe:
        """The recipe of a `row`; other keys are ignored."""
        known = {name: row[name] for name in ("method", "scale", "t", "density", "seed") if name in row}
        return cls(weights=tuple(row["weights"]) if row.get("weights") else None, **known)


def combine(vectors: Sequence[TaskVector], size: int, recipe: Recipe, seeds: Sequence[int]) -> Iterator[torch.Tensor]:
    """The merged task vector of one tensor with `size` elements, in the slices that `vectors` have; without `scale`.

    `seeds` are those of each vector's random choices.
    """
    method = recipe.method
    if method == "slerp":
        first, second = vectors
        yield from _summed(vectors, _on_the_arc(first, second, recipe.t))
        return
    if method.startswith("dare") and recipe.density < 1:
        vectors = [_dropped(vector, recipe.density, seed) for vector, seed in zip(vectors, seeds, strict=True)]
    if method == "ties" and recipe.density < 1:
        kept = int(recipe.density * size)
        vectors = [_trimmed(vector, kept, size) for vector in vectors]
    if method.endswith("ties"):
        yield from _elected(vectors, recipe.weights or (1.0,) * len(vectors))
    elif method == "task_arithmetic":
        yield from _summed(vectors, (1.0,) * len(vectors))
    else:
        yield from _summed(vectors, recipe.weights or (1 / len(vectors),) * len(vectors))


def _summed(vectors: Sequence[TaskVector], weights: Sequence[float]) -> Iterator[torch.Tensor]:
    return (_sum(slices, weights) for slices in zip(*vectors, strict=True))


def _sum(slices: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    total = slices[0] * weights[0]
    for one, weight in zip(slices[1:], weights[1:], strict=True):
        total.add_(one, alpha=weight)
    return total


def _on_the_arc(first: TaskVector, second: TaskVector, t: float) -> tuple[float, float]:
    """What the two are multiplied with, so that their sum lies on the arc between them."""
    product = squared = squared_too = 0.0
    for one, other in zip(first, second, strict=True):
        one, other = one.flatten().double(), other.flatten().double()
        product += float(one @ other)
        squared += float(one @ one)
        squared_too += float(other @ other)
    length, length_too = math.sqrt(squared), math.sqrt(squared_too)
    if not length or not length_too:
        return 1 - t, t
    angle = math.acos(max(-1.0, min(1.0, product / (length * length_too))))
    if math.sin(angle) < _NEARLY_PARALLEL:
        return 1 - t, t
    wanted = (1 - t) * length + t * length_too
    arc = math.sin(angle)
    return wanted * math.sin((1 - t) * angle) / arc / length, wanted * math.sin(t * angle) / arc / length_too


def _elected(vectors: Sequence[TaskVector], weights: Sequence[float]) -> Iterator[torch.Tensor]:
    """By entry: the weighted mean of those that have the sign of the weighted sum; 0 where there are none.

    It is what `peft.utils.merge_utils` does with a stack of all vectors, in a third of the memory and of the time.
    """
    import torch

    for slices in zip(*vectors, strict=True):
        total = _sum(slices, weights)
        upwards = total >= 0
        total.zero_()
        votes = torch.zeros_like(total)
        for one, weight in zip(slices, weights, strict=True):
            agreed = torch.where(upwards, one > 0, one < 0)
            total.add_(one * agreed, alpha=weight)
            votes.add_(agreed, alpha=weight)
        yield total.div_(votes.masked_fill_(votes == 0, 1))


@dataclass(frozen=True, slots=True)
class Slices:
    """Slices that are made anew each time they are gone through."""

    make: Callable[[], Iterator[torch.Tensor]]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self.make()


def _dropped(vector: TaskVector, density: float, seed: int) -> TaskVector:
    """Each entry with probability `density`, and divided by it; peft's own draws from the generator of the process."""
    import numpy as np
    import torch

    def slices() -> Iterator[torch.Tensor]:
        dice = np.random.Generator(np.random.PCG64(seed))
        for one in vector:
            kept = torch.from_numpy(dice.random(one.numel(), dtype=np.float32) < density)
            yield (one * kept.reshape(one.shape)).div_(density)

    return Slices(slices)


def _trimmed(vector: TaskVector, kept: int, size: int) -> TaskVector:
    """The `kept` entries of largest magnitude; of equals, those that come first. The others are 0."""
    import torch

    def slices() -> Iterator[torch.Tensor]:
        limit, equals = _threshold(vector, kept, size)
        for one in vector:
            magnitudes = one.abs()
            stays = magnitudes > limit
            if equals:
                same = magnitudes == limit
                found = int(same.sum())
                if found > equals:
                    same &= (same.flatten().cumsum(0) <= equals).reshape(same.shape)
                stays |= same
                equals -= min(found, equals)
            yield one * stays

    if kept:
        return Slices(slices)
    return Slices(lambda: (torch.zeros_like(one) for one in vector))


def _threshold(vector: TaskVector, kept: int, size: int) -> tuple[float, int]:
    """The smallest magnitude among the `kept` largest, and how many of exactly this magnitude are among them."""
    import numpy as np
    import torch

    magnitudes = np.empty(0, dtype=np.float32)
    at = 0
    for one in vector:
        if not at:
            magnitudes = np.empty(size, dtype=np.float64 if one.dtype == torch.float64 else np.float32)
        torch.abs(one.flatten(), out=torch.from_numpy(magnitudes[at : at + one.numel()]))
        at += one.numel()
    magnitudes.partition(size - kept)  # in place: the only copy of the tensor there is
    limit = magnitudes[size - kept]
    return float(limit), kept - int(np.count_nonzero(magnitudes[size - kept :] > limit))
