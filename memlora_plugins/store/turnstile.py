"""Taking turns on an event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Turnstile:
    """Lets one task act in each pass of an event loop; the others wait for the next passes, in order.

    What an engine in process does takes a few milliseconds at most and cannot be awaited. Without turns, fifty tasks
    that get ready in the same pass would hold the loop, and everything else on it, for fifty times that.
    """

    def __init__(self) -> None:
        self._gates: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Gate] = weakref.WeakKeyDictionary()

    async def act(self, action: Callable[[], T]) -> T:
        """What `action` returns, when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        gate = self._gates.setdefault(loop, _Gate())
        await gate.enter(loop)
        loop.call_soon(gate.leave)
        return action()


class _Gate:
    """The turns of one loop. Whoever leaves hands over to the one who waits longest."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._taken:
            self._taken = True
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it had been handed over already
                self.leave()
            turn.cancel()
            raise

    def leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False
