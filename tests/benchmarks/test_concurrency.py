"""32 people talk at once: how much of the model's time is overlapped.

The model is a fake on loopback that takes 0.5 s a call; everything else (HTTP client, flows, store, MiniLM) is real.
Each person has a near fact already, so both stages run: 64 model calls.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from scripted import FakeBackend, WordEmbedder, decides, says, user_line

from memlora_plugins import AsyncMemory, EdgeFactStore, Memory, Message, Scope, SentenceTransformerEmbedder
from memlora_plugins.serving.base import Request

pytestmark = pytest.mark.benchmark_suite

PEOPLE = 32
MODEL_SECONDS = 0.5


def extraction(request: Request) -> str:
    return says("Lives in Porto" if "Porto" in user_line(request) else "Lives in Lisbon")


def update(request: Request) -> str:
    return decides(("0", "UPDATE", "Lives in Porto"))


@pytest.mark.parametrize(("embedder", "bar"), [("none", 1.3), ("MiniLM", 1.9)])
def test_32_concurrent_adds(benchmark: Any, tmp_path: Path, embedder: str, bar: float) -> None:
    backend = FakeBackend(extraction=extraction, update=update)
    people = [Scope(f"person-{n}") for n in range(PEOPLE)]
    real: Any = SentenceTransformerEmbedder() if embedder == "MiniLM" else WordEmbedder()
    with Memory(backend=backend, store=EdgeFactStore(tmp_path), embedder=real) as memory:
        for person in people:
            memory.add([Message("user", "I live in Lisbon.")], scope=person)
        backend.requests.clear()
        backend.delay = MODEL_SECONDS

        async def all_at_once() -> float:
            aio: AsyncMemory = memory.aio
            start = time.perf_counter()
            results = await asyncio.gather(
                *(aio.add([Message("user", "I moved to Porto.")], scope=person) for person in people)
            )
            took = time.perf_counter() - start
            assert all([event.operation for event in result.events] == ["UPDATE"] for result in results)
            return took

        took = benchmark.pedantic(lambda: asyncio.run(all_at_once()), rounds=1)
        benchmark.extra_info["seconds"] = took
        assert len(backend.requests) == 2 * PEOPLE
        assert took < bar
