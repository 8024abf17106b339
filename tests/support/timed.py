"""The marks of a test that holds a time against a bar, and how a measured figure gets into the report."""

from __future__ import annotations

from typing import Any

import pytest

TIMED = [
    pytest.mark.benchmark_suite,
    # a shared machine has minutes at a third of its speed: the bar stays, a miss is measured again later
    pytest.mark.flaky(reruns=4, reruns_delay=20, only_rerun=["AssertionError"]),
]


def report(benchmark: Any, what: str, measured: str, bar: str, **figures: float) -> None:
    """Put a row into the benchmark's JSON, of which `tests/benchmarks/report.py` makes the tables of the README."""
    benchmark.extra_info |= {"what": what, "measured": measured, "bar": bar, **figures}
