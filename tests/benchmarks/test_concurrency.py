"""32 people talk at once: how much of the model's time is overlapped.

The model is a fake on loopback that takes 0.5 s a call, in a process of its own as a model server is; everything else
(HTTP client, flows, store, MiniLM) is real.
Each person has a near fact already, so both stages run: 64 model calls.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from scripted import WordEmbedder
from slow_model import slow_model
from timed import TIMED, report

from memlora_plugins import (
    AddResult,
    AsyncMemory,
    EdgeFactStore,
    Message,
    Scope,
    SentenceTransformerEmbedder,
    VLLMBackend,
)

pytestmark = TIMED

PEOPLE = 32
MODEL_SECONDS = 0.5
ROUNDS = 3


class Shared:
    """An embedder that outlives the memories it is lent to."""

    def __init__(self, embedder: Any) -> None:
        self._embedder = embedder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


@pytest.mark.parametrize(("embedder", "bar"), [("none", 1.3), ("MiniLM", 1.9)])
def test_32_concurrent_adds(benchmark: Any, tmp_path: Path, embedder: str, bar: float) -> None:
    people = [Scope(f"person-{n}") for n in range(PEOPLE)]
    real: Any = SentenceTransformerEmbedder() if embedder == "MiniLM" else WordEmbedder()
    seconds: list[float] = []

    async def everybody(memory: AsyncMemory, text: str) -> list[AddResult]:
        return list(await asyncio.gather(*(memory.add([Message("user", text)], scope=person) for person in people)))

    async def measured() -> None:
        backend = VLLMBackend(*model.names())
        store = EdgeFactStore(tmp_path / str(len(seconds)))
        async with AsyncMemory(backend=backend, store=store, embedder=Shared(real)) as memory:
            model.take(0.0)
            await everybody(memory, "I live in Lisbon.")
            model.take(MODEL_SECONDS)
            start = time.perf_counter()
            results = await everybody(memory, "I moved to Porto.")
            seconds.append(time.perf_counter() - start)
        assert all([event.operation for event in result.events] == ["UPDATE"] for result in results)
        assert model.count() == 2 * PEOPLE

    with slow_model() as model:
        benchmark.pedantic(lambda: asyncio.run(measured()), rounds=ROUNDS)
    real.close()
    median = statistics.median(seconds)
    with_what = "without embedding" if embedder == "none" else f"with {embedder}"
    report(
        benchmark,
        f"{PEOPLE} concurrent `add` of {PEOPLE} users, {2 * PEOPLE} model calls of {MODEL_SECONDS} s each, {with_what} "
        f"(median of {ROUNDS})",
        f"{median:.2f} s",
        f"< {bar} s",
        seconds_worst=round(max(seconds), 3),
    )
    assert median < bar
