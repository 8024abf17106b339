"""How long a turn takes to be distilled by nano, in process: extraction, search of what is near, update, commit."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from timed import TIMED, report

from memlora_plugins import Memory, Message, Scope
from memlora_plugins.nano.recipe.dialogue import Author
from memlora_plugins.nano.recipe.relations import RELATIONS, pools

pytestmark = TIMED

TURNS = 40


def test_a_turn_is_distilled(benchmark: Any, tmp_path: Path) -> None:
    author = Author(RELATIONS, pools(), 77, "values")
    lines = [author.scene().exchange.user_text for _ in range(TURNS)]
    ana = Scope("ana")
    seconds: list[float] = []

    def talk() -> None:
        with Memory.open(path=tmp_path / str(len(seconds))) as memory:
            memory.add([Message("user", "Hello!")], scope=ana)  # loads what is loaded once
            for line in lines:
                start = time.perf_counter()
                memory.add([Message("user", line)], scope=ana)
                seconds.append(time.perf_counter() - start)

    benchmark.pedantic(talk, rounds=1)
    p50 = statistics.median(seconds)
    p95 = sorted(seconds)[int(0.95 * TURNS)]
    what = "nano in process: a turn distilled (extraction, search, update, commit), p50"
    report(benchmark, what, f"{p50:.2f} s", "≤ 1.5 s", seconds_p95=round(p95, 3))
    assert p50 <= 1.5
