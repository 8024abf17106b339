"""A memory with much in it, for benchmarks: made-up sentences of many users, embedded at no cost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from memlora_plugins import Memory, Message, Scope

WORDS = [
    first + second for first in ("ba", "co", "du", "fe", "gi", "ho", "ju") for second in ("lan", "mer", "nit", "pod")
]
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


class RandomEmbedder:
    """Unit vectors at no cost: what is measured is everything but the embedding."""

    name, dimension = "random", 384

    def __init__(self) -> None:
        rows = np.random.default_rng(7).standard_normal((4096, self.dimension)).astype(np.float32)
        self._rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self._next = 0

    def embed(self, texts: Sequence[str]) -> Any:
        self._next += len(texts)
        return self._rows[np.arange(self._next - len(texts), self._next) % len(self._rows)]

    async def aembed(self, texts: Sequence[str]) -> Any:
        return self.embed(texts)

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


def sentence(dice: random.Random) -> str:
    return " ".join(dice.choices(WORDS, k=dice.randint(5, 25))) + "."


def fill(memory: Memory, *, users: int, turns_each: int) -> None:
    """Turns of `user-0`, `user-1` … in their session `one`."""
    dice = random.Random(7)
    for user in range(users):
        said = [Message("user", sentence(dice), created_at=STARTED + timedelta(minutes=n)) for n in range(turns_each)]
        memory.add(said, scope=Scope(f"user-{user}", session_id="one"), distil=False)
    memory.flush()
