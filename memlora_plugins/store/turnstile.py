"""Taking turns on an event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Turnstile:
    """Lets one task of an event loop act at a time, and everything else on the loop in between each two.

    What an engine in process does takes a few milliseconds at most and cannot be awaited. Without turns, fifty tasks
    that get ready in the same pass of the loop would hold it for fifty times that.
    """

    def __init__(self) -> None:
        self._gates: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def act(self, action: Callable[[], T]) -> T:
        """What `action` returns, when it is the caller's turn."""
        async with self._gates.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            try:
                return action()
            finally:
                await asyncio.sleep(0)
