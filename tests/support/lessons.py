"""A task that the tiny model learns by heart in seconds: which of four places somebody speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memlora_plugins.serving.base import Expert, Request
from memlora_plugins.training.dataset import ChatLine, Sample

PLACES = ("Lisbon", "Porto", "Maria", "May")
SAID = ("I moved to {}.", "I live in {} now.", "My home is {}.")
QUICK: dict[str, Any] = {
    "rank": 8,
    "alpha": 32,
    "dropout": 0.0,
    "learning_rate": 4e-3,
    "batch_size": 4,
    "epochs": 36,
    "patience": 36,
    "device": "cpu",
}
"""Training options with which it does."""


def lessons(split: str, expert: Expert = "generation") -> list[Sample]:
    """The twelve samples, in four conversations that are named after the split."""
    return [
        Sample(
            id=f"{place} {number}",
            expert=expert,
            conversation=f"{split} {place}",
            messages=(ChatLine(role="user", content=said.format(place)),),
            reply=place,
        )
        for place in PLACES
        for number, said in enumerate(SAID)
    ]


def questions(samples: Sequence[Sample]) -> list[Request]:
    """What the samples ask, as it is asked when served."""
    return [
        Request(sample.expert, [line.model_dump() for line in sample.messages], max_tokens=12) for sample in samples
    ]
