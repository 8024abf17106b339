"""Muon for a model's matrices, AdamW for the rest, as one optimizer."""

from __future__ import annotations

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

    It is `torch.optim.Muon` but for the number format: that one computes in bfloat16, and on processors that have none
    the steps of a small model took two to three times as long.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **defaults: Any) -> None:
        super().__init__([{"muon": False, **group} for group in groups], **defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As Adam wants it when a state is loaded: each weight with its number of steps, whether it is used or not."""
        for held in state.get("state", {}).values():
            held.setdefault("step", torch.zeros(()))
        adam: Any = super()
        adam.__setstate__(state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. The gradients of the matrices are gone after it."""
        if closure is not None:
            raise TypeError("closures are not supported: gradients are of one step")
        for group in self.param_groups:
            if group["muon"]:
                for weight in group["params"]:
                    self._turn(weight, group["lr"], group["weight_decay"])
        return super().step()

    def _turn(self, weight: torch.Tensor, rate: float, decay: float) -> None:
        gradient = weight.grad
        if gradient is None:
            return
        momentum = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        direction = orthogonal(torch.lerp(gradient, momentum, _MOMENTUM))
        weight.mul_(1 - rate * decay).add_(direction, alpha=-rate * _LIKE_ADAM * max(weight.shape) ** 0.5)
        weight.grad = None  # so that AdamW leaves it alone


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: its singular values are between 0.7 and 1.2."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    wide = wide / (wide.norm() + 1e-9)
    first, second, third = _QUINTIC
    for _ in range(_ITERATIONS):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=second, alpha=third), wide, beta=first)
    return wide.T if tall else wide
