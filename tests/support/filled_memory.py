"""A memory with much in it, for benchmarks: made-up lines of many users, embedded at no cost."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import numpy as np

from memlora_plugins import Memory, Message, Scope
from memlora_plugins.nano.recipe.dialogue import Author
from memlora_plugins.nano.recipe.relations import RELATIONS, pools

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
    """Out of few words, so that each is in very many sentences."""
    return " ".join(dice.choices(WORDS, k=dice.randint(5, 25))) + "."


def sentences(seed: int) -> Iterator[str]:
    dice = random.Random(seed)
    while True:
        yield sentence(dice)


def chatter(seed: int) -> Iterator[str]:
    """What people say of themselves, as nano's recipe makes it up: thousands of words, most of them rare."""
    author = Author(RELATIONS, pools(), seed, "values")
    while True:
        yield author.scene().exchange.user_text


def fill(memory: Memory, lines: Iterator[str], *, users: int, turns_each: int) -> None:
    """Turns of `user-0`, `user-1` … in their session `one`."""
    for user in range(users):
        said = [
            Message("user", line, created_at=STARTED + timedelta(minutes=n))
            for n, line in enumerate(islice(lines, turns_each))
        ]
        memory.add(said, scope=Scope(f"user-{user}", session_id="one"), distil=False)
    memory.flush()
