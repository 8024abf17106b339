"""Muon for a model's matrices, AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration that brings all singular values near 1 (Jordan et al., 2024)."""
_ITERATIONS = 5
_LIKE_ADAM = 0.2
"""The root mean square of an update, for a learning rate of 1: about that of AdamW (Liu et al., 2025)."""


class MuonAdamW(torch.optim.AdamW):
    """Muon in the groups with `"muon": True`, whose parameters are all matrices; AdamW in the others.

    `torch.optim.Muon` does the same to one matrix after the other, in bfloat16; on processors that have none, a step
    of a small model took two to three times as long. Here all matrices of one shape go at once, as they are.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **defaults: Any) -> None:
        super().__init__([{"muon": False, **group} for group in groups], **defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. The gradients of the matrices are gone after it."""
        if closure is not None:
            raise TypeError("closures are not supported: gradients are of one step")
        for group in self.param_groups:
            if group["muon"]:
                self._turn(group)
        return super().step()

    def _turn(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[torch.Size, torch.device], list[torch.Tensor]] = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is not None:
                alike[weight.shape, weight.device].append(weight)
        for (shape, _), weights in alike.items():
            updates = []
            for weight in weights:
                gradient: Any = weight.grad
                momentum = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                momentum.lerp_(gradient, 1 - _MOMENTUM)
                updates.append(torch.lerp(gradient, momentum, _MOMENTUM))
                weight.grad = None  # so that AdamW leaves it alone
            rate = group["lr"] * _LIKE_ADAM * max(shape) ** 0.5
            for weight, update in zip(weights, orthogonal(torch.stack(updates)), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values come out between 0.7 and 1.2.

    `matrices` has the shape (count, rows, columns).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    wide: torch.Tensor = matrices.mT if tall else matrices
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-9)
    first, second, third = _QUINTIC
    for _ in range(_ITERATIONS):
        square = wide @ wide.mT
        wide = first * wide + (second * square + third * square @ square) @ wide
    return wide.mT if tall else wide
