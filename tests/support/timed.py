"""The marks of a test that holds a time against a bar."""

from __future__ import annotations

import pytest

TIMED = [
    pytest.mark.benchmark_suite,
    # a shared machine has minutes at a third of its speed: the bar stays, a miss is measured again later
    pytest.mark.flaky(reruns=4, reruns_delay=20, only_rerun=["AssertionError"]),
]
