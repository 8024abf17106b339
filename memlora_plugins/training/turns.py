"""Turns at a model: so many calls at once, and of those that wait, the ones with the longest way to go first."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count


class Turns:
    """At most `size` turns at once. The next one goes to the lowest rank that waits, of equals to who came first.

    `occupancy` is the mean number of calls in flight as a share of `size`, over the time in which that many or more
    were wanted; it begins with the first call. None while there never was so much to do.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._order = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._taken = 0
        self._wanted = 0
        self._in_flight = 0
        self._since: float | None = None
        self._seconds = self._flown = 0.0

    @property
    def occupancy(self) -> float | None:
        return self._flown / (self.size * self._seconds) if self._seconds else None

    @asynccontextmanager
    async def turn(self, rank: int = 0) -> AsyncIterator[None]:
        """Wait for a turn, and have it."""
        self._measure()
        self._wanted += 1
        try:
            await self._take(rank)
            try:
                yield
            finally:
                self._taken -= 1
                self._pass_on()
        finally:
            self._measure()
            self._wanted -= 1

    @contextmanager
    def flight(self) -> Iterator[None]:
        """A call is under way."""
        self._measure()
        self._since = self._since or time.perf_counter()
        self._in_flight += 1
        try:
            yield
        finally:
            self._measure()
            self._in_flight -= 1

    async def _take(self, rank: int) -> None:
        if self._taken < self.size:  # then nobody waits
            self._taken += 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), mine))
        try:
            await mine  # whoever passes the turn on leaves it taken
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._taken -= 1
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting and self._taken < self.size:
            _, _, next_one = heapq.heappop(self._waiting)
            if not next_one.done():  # who waited was cancelled
                self._taken += 1
                next_one.set_result(None)

    def _measure(self) -> None:
        """Count the time since the last change, if there was enough to do."""
        if self._since is None:
            return
        now = time.perf_counter()
        if self._wanted >= self.size:
            self._seconds += now - self._since
            self._flown += self._in_flight * (now - self._since)
        self._since = now
