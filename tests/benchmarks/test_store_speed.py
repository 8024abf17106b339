"""Search and write speed at 100,000 points of 100 users, in the default configuration, embedding excluded."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filled_memory import RandomEmbedder, fill, sentence, sentences
from timed import TIMED, report

from memlora_plugins import EdgeFactStore, Memory, Message, Scope
from memlora_plugins.serving.unconfigured import UnconfiguredBackend

pytestmark = [*TIMED, pytest.mark.timeout(1200)]

USERS, TURNS_EACH = 100, 1000


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    folder: Path = tmp_path_factory.mktemp("100k")
    with Memory(backend=UnconfiguredBackend(), store=EdgeFactStore(folder), embedder=RandomEmbedder()) as memory:
        fill(memory, sentences(7), users=USERS, turns_each=TURNS_EACH)
        yield memory


def test_search_at_100k_points(benchmark: Any, memory: Memory) -> None:
    dice = random.Random(8)
    seconds: list[float] = []

    def once() -> None:
        scope, question = Scope(f"user-{dice.randrange(USERS)}"), sentence(dice)
        start = time.perf_counter()
        hits = memory.search(question, scope=scope, limit=10)
        seconds.append(time.perf_counter() - start)
        assert len(hits) == 10

    benchmark.pedantic(once, rounds=300, warmup_rounds=20)
    p50, p95 = (statistics.quantiles(seconds[20:], n=100)[n - 1] * 1000 for n in (50, 95))
    points = f"{USERS * TURNS_EACH:,} points of {USERS} users"
    what = f"search for 10, {points}, embedding excluded, p50 / p95"
    report(benchmark, what, f"{p50:.1f} / {p95:.1f} ms", "≤ 6 / ≤ 12 ms")
    assert p50 <= 6
    assert p95 <= 12


def test_add_without_waiting_at_100k_points(benchmark: Any, memory: Memory) -> None:
    dice = random.Random(9)
    seconds: list[float] = []

    def once() -> None:
        scope, message = Scope(f"user-{dice.randrange(USERS)}", session_id="one"), Message("user", sentence(dice))
        start = time.perf_counter()
        memory.add([message], scope=scope, wait=False)
        seconds.append(time.perf_counter() - start)

    benchmark.pedantic(once, rounds=300, warmup_rounds=20)
    p50 = statistics.median(seconds[20:]) * 1000
    what = f"`add(wait=False)` at {USERS * TURNS_EACH:,} points, embedding excluded, p50"
    report(benchmark, what, f"{p50:.1f} ms", "≤ 3 ms")
    assert p50 <= 3
