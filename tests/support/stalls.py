"""How long an event loop is held by what runs on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable
from typing import Any


async def longest_stall(running: Iterable[Awaitable[Any]]) -> float:
    """The longest time, in ms, for which the loop did nothing else while all of these went on."""
    longest, done = 0.0, False

    async def tick() -> None:
        nonlocal longest
        before = time.perf_counter()
        while not done:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*running)
    done = True
    await ticking
    return longest * 1000
