"""One thread that owns something (a model, usually), and batches whatever callers are waiting for.

While a batch runs, new requests collect and form the next one: a single caller never waits for company, and many
callers share the cost of a batch.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from .errors import ClosedError, ForkedError

Req = TypeVar("Req")
Res = TypeVar("Res")

_EXIT_GRACE = 0.5  # seconds the end of the process waits for a running batch


class Batcher(Generic[Req, Res]):
    """Hands waiting requests to `run` in batches, in order of arrival, always on the same thread.

    `run` gets 1 to `max_batch` requests and returns one item for each: the result, or an exception for just that
    request. If `run` itself raises, the whole batch gets that exception. The thread is a daemon, starts with the first
    request and lives until `close()`. Safe to call from many threads and tasks, except from inside `run`.

    Raises (submit, call, acall):
        ClosedError: after `close()`; ForkedError: made in another process.
    """

    def __init__(
        self,
        run: Callable[[list[Req]], Sequence[Res | BaseException]],
        *,
        max_batch: int = 64,
        name: str = "memlora-batcher",
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._name = name
        self._pid = os.getpid()
        self._wake = threading.Condition()
        self._waiting: deque[tuple[Req, Future[Res]]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, request: Req) -> Future[Res]:
        """Queue `request`. Cancelling the future drops it if its batch has not begun."""
        if os.getpid() != self._pid:  # before touching a lock that the parent may have held when it forked
            raise ForkedError(f"{self._name} was started before the process forked; make a new one in the child.")
        future: Future[Res] = Future()
        with self._wake:
            if self._closed:
                raise ClosedError(f"{self._name} is closed; open a new one.")
            self._waiting.append((request, future))
            if self._thread is None:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
                _running.add(self)
            self._wake.notify()
        return future

    def call(self, request: Req) -> Res:
        """The result of `request`; blocks this thread only."""
        return self.submit(request).result()

    async def acall(self, request: Req) -> Res:
        """The result of `request`, without blocking the event loop; cancelling drops it if it still waits."""
        return await asyncio.wrap_future(self.submit(request))

    def close(self, timeout: float | None = None) -> None:
        """Fail what waits with `ClosedError` and wait for the running batch, `timeout` seconds at most. Idempotent."""
        if os.getpid() != self._pid:
            return
        with self._wake:
            self._closed = True
            dropped = list(self._waiting)
            self._waiting.clear()
            self._wake.notify()
        for _, future in dropped:
            if future.set_running_or_notify_cancel():
                future.set_exception(ClosedError(f"{self._name} was closed before this request began."))
        _running.discard(self)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _work(self) -> None:
        while batch := self._take():
            self._answer(batch)
            del batch  # an idle thread keeps nobody's data

    def _answer(self, batch: list[tuple[Req, Future[Res]]]) -> None:
        results: Sequence[Res | BaseException]
        try:
            results = self._run([request for request, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{self._name}: {len(results)} results for {len(batch)} requests")
        except BaseException as error:  # noqa: BLE001 (handed to the callers; the thread must outlive it)
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _take(self) -> list[tuple[Req, Future[Res]]]:
        """The next batch, waiting for one; empty once closed."""
        batch: list[tuple[Req, Future[Res]]] = []
        with self._wake:
            while not batch:
                while not self._waiting:
                    if self._closed:
                        return []
                    self._wake.wait()
                while self._waiting and len(batch) < self._max_batch:
                    request, future = self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((request, future))
        return batch


_running: weakref.WeakSet[Batcher[Any, Any]] = weakref.WeakSet()


def _stop_all() -> None:
    """Let no thread run native code while the interpreter is being taken down."""
    for batcher in list(_running):
        batcher.close(_EXIT_GRACE)
    if "torch" in sys.modules:
        gc.freeze()  # the last collection would walk all that torch and transformers made: over a second, for nothing


atexit.register(_stop_all)
