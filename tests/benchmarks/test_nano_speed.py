"""How long a turn takes to be distilled by nano in this process: extraction, search for near facts, update, commit."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from memlora_plugins import Memory, Message, Scope, nano
from memlora_plugins.nano.recipe.dialogue import Author
from memlora_plugins.nano.recipe.relations import RELATIONS, pools

pytestmark = [pytest.mark.benchmark_suite, pytest.mark.timeout(600)]

TURNS = 60


def test_a_turn_distilled(benchmark: Any, tmp_path: Path) -> None:
    author = Author(RELATIONS, pools(), 60, "values")
    ana = Scope("ana")
    seconds: list[float] = []
    asked: list[int] = []
    named = {"model": str(nano.BASE), "adapters": nano.ADAPTERS, **nano.SETTINGS}  # whatever the environment says
    with Memory.open(path=tmp_path, **named) as memory:

        def once() -> None:
            scene = author.scene()
            while not scene.facts:
                scene = author.scene()
            start = time.perf_counter()
            result = memory.add([Message("user", scene.exchange.user_text)], scope=ana)
            seconds.append(time.perf_counter() - start)
            asked.append(result.usage.calls)
            assert result.pending == ()

        benchmark.pedantic(once, rounds=TURNS, warmup_rounds=10)
    p50, p95 = (statistics.quantiles(seconds[10:], n=100)[n - 1] for n in (50, 95))
    benchmark.extra_info |= {"p50_s": round(p50, 3), "p95_s": round(p95, 3), "calls": sum(asked[10:])}
    assert sum(asked[10:]) > 1.5 * TURNS  # both experts were at work
    assert p50 <= 1.5
