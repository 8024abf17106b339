"""Taking turns on an event loop."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_SHARE = 0.002
"""Seconds of one pass of the loop after which nobody else begins in it."""


class Turnstile:
    """Lets tasks act for a share of each pass of an event loop; the others wait for the next passes, in order.

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
        begun = time.perf_counter()
        try:
            return action()
        finally:
            gate.spend(time.perf_counter() - begun, loop)


class _Gate:
    """The turns of one loop: one who had to wait acts in each pass, and lets the next one in with the pass after it."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._renewing = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._spent < _SHARE and not self._waiting:
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it had been let in already
                self._let_in()
            turn.cancel()
            raise

    def spend(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._spent += seconds
        if not self._renewing:
            self._renewing = True
            loop.call_soon(self._renew)

    def _renew(self) -> None:
        self._spent, self._renewing = 0.0, False
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
