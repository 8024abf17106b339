"""Write-behind: background threads that distil what `add(wait=False)` kept."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from .errors import ClosedError, MemloraError
from .flows.remember import combine
from .types import AddResult, Failure, Scope

log = logging.getLogger(__name__)


_LINGER = 1.0
"""Seconds: to start a thread takes longer than to keep what is added."""
_MOST_UNTOLD = 20  # failures of a person
_HEADWAY = 0.02
"""Seconds that a thread without work lets whoever brings some get on with their reply."""


class Worker:
    """Runs `distil(scope, turn ids)` on daemon threads: one at a time for a person, several persons at once.

    Threads start when there is work and end when there was none for a while, so an idle memory costs none. What is not
    finished at `close()` or at the end of the process stays pending in the store.
    """

    def __init__(self, distil: Callable[[Scope, list[str]], AddResult], threads: int) -> None:
        self._distil = distil
        self._most = threads
        self._lock = threading.Lock()
        self._work_there = threading.Condition(self._lock)
        self._idle = 0
        self._queue: OrderedDict[Scope, list[str]] = OrderedDict()
        self._busy: set[Scope] = set()
        self._threads: set[threading.Thread] = set()
        self._waiting: list[_Waiting] = []
        self._untold: dict[Scope, tuple[Failure, ...]] = {}
        self._closed = False

    def submit(self, scope: Scope, ids: Iterable[str]) -> None:
        """Queue turns of one person.

        Raises:
            ClosedError: after `close()`.
        """
        person = scope.without_session()
        with self._lock:
            if self._closed:
                raise ClosedError("The memory is closed; open it again.")
            self._queue.setdefault(person, []).extend(ids)
            if not self._queue[person]:
                del self._queue[person]
                return
            if self._idle:
                self._work_there.notify_all()  # one may be giving headway and not be free
            if len(self._threads) < self._most and len(self._queue.keys() - self._busy) > self._idle:
                thread = threading.Thread(target=self._work, name="memlora-distil", daemon=True)
                thread.start()
                self._threads.add(thread)

    def failures(self, scope: Scope) -> tuple[Failure, ...]:
        """What fell short in the work for a person and nobody was told yet."""
        with self._lock:
            return self._untold.pop(scope.without_session(), ())

    def done(self) -> Future[AddResult]:
        """A future of everything done from now until what is queued or under way now is finished.

        Work that is submitted later does not keep it waiting. It cannot be cancelled.
        """
        future: Future[AddResult] = Future()
        future.set_running_or_notify_cancel()  # a caller who gives up must not take the worker's result away from it
        with self._lock:
            jobs = Counter([*self._queue, *self._busy])
            if jobs:
                self._waiting.append(_Waiting(future, jobs))
                self._work_there.notify_all()
                return future
        future.set_result(AddResult())
        return future

    def close(self, grace: float = 1.0) -> None:
        """Take nothing new, drop the queue, and wait at most `grace` seconds for what is under way."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            self._work_there.notify_all()
            threads = list(self._threads)
            waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.future.set_exception(ClosedError("The memory was closed during a flush; the rest stays pending."))
        for thread in threads:
            thread.join(grace / len(threads))

    def _work(self) -> None:
        rested = True
        while (job := self._take(rested)) is not None:
            rested = False
            scope, ids = job
            try:
                result = self._distil(scope, ids)
            except Exception as error:  # noqa: BLE001 (the thread's own boundary: reported by flush, never lost)
                known = error if isinstance(error, MemloraError) else MemloraError(f"{type(error).__name__}: {error}")
                result = AddResult(errors=(Failure("distil", known, tuple(ids)),))
            for failure in result.errors:
                if isinstance(failure.error, ClosedError):  # closed meanwhile: what is left is resumed by the next open
                    continue
                log.warning("distilling fell short: %s (%s)", failure.stage, type(failure.error).__name__)
            self._done(scope, ids, result)

    def _take(self, rested: bool) -> tuple[Scope, list[str]] | None:
        """The next job; None after `_LINGER` seconds without one."""
        with self._lock:
            if self._next() is None and not self._closed:
                self._idle += 1
                self._work_there.wait_for(lambda: self._closed or self._next() is not None, _LINGER)
                self._idle -= 1
                rested = True
            if rested and self._next() is not None:
                self._idle += 1
                self._work_there.wait_for(lambda: self._closed or bool(self._waiting), _HEADWAY)
                self._idle -= 1
            scope = self._next()
            if scope is None:
                self._threads.discard(threading.current_thread())
                return None
            self._busy.add(scope)
            return scope, self._queue.pop(scope)

    def _next(self) -> Scope | None:
        return next((scope for scope in self._queue if scope not in self._busy), None)

    def _done(self, scope: Scope, ids: list[str], result: AddResult) -> None:
        with self._lock:
            self._busy.discard(scope)
            tried = set(ids)
            before = (failure for failure in self._untold.pop(scope, ()) if not tried.issuperset(failure.turn_ids))
            untold = (*before, *result.errors)[-_MOST_UNTOLD:]
            if untold:
                self._untold[scope] = untold
            for one in self._waiting:
                one.results.append(result)
                one.jobs -= Counter([scope])
            finished = [one for one in self._waiting if not one.jobs]
            self._waiting = [one for one in self._waiting if one.jobs]
        for one in finished:
            one.future.set_result(combine(one.results))


@dataclass(slots=True)
class _Waiting:
    """Somebody who waits for jobs: how many of each person, and what was done meanwhile."""

    future: Future[AddResult]
    jobs: Counter[Scope]
    results: list[AddResult] = field(default_factory=list)
