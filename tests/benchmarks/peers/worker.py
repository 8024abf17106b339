"""One library in one process, driven by JSON lines: `{"verb": …}` in, `{"result": …}` or `{"error": …}` out.

Each `*_worker.py` is run by the interpreter of its library and describes it as a `Library`. Only the standard library
is used here. Times are measured in this process, around the library's own calls alone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import guard

BATCH = 500
"""Memories that a fill hands over at once."""


class Setup(NamedTuple):
    """Where everything is. `several` asks for the door that takes calls at the same time, where there are two."""

    folder: str
    url: str
    embedder: str
    dimension: int
    several: bool = False


class Library:
    """What the harness does with a memory; each method by what the library documents for it.

    `notes` say what stands behind a verb, by its name. A verb that the library does not offer raises
    `NotImplementedError` with the reason.
    """

    notes: ClassVar[dict[str, str]] = {}

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.loop = asyncio.new_event_loop()

    def now(self, call: Any) -> Any:
        """The result of a call that may be a coroutine."""
        return self.loop.run_until_complete(call) if asyncio.iscoroutine(call) else call

    def add(self, user: str, said: str, answer: str | None = None) -> Any:
        """Remember what was said; a coroutine where the library is asynchronous, and where it was opened `several`."""
        raise NotImplementedError

    def search(self, user: str, text: str, limit: int) -> Iterable[str]:
        """The texts that are found."""
        raise NotImplementedError

    def fill(self, rows: Sequence[tuple[str, str]]) -> None:
        """Store (user, text) without asking the model, by whatever way in bulk there is."""
        raise NotImplementedError

    def filled(self) -> None:
        """After the last `fill`, where there is something to do."""

    def settle(self, user: str) -> None:
        """Have the model asked about what was added last, where the library waits with that."""

    def flush(self) -> None:
        """Try again what the model failed to do."""
        raise NotImplementedError("no such call")

    def rows(self, user: str) -> dict[str, int]:
        """Rows of that person by the store they are in."""
        raise NotImplementedError

    def erase_at_once(self, user: str) -> None:
        """Erase a person with the one call that there is for it."""
        raise NotImplementedError("no such call")

    def erase(self, user: str) -> None:
        """Erase a person with everything that the library and its store offer for one."""
        self.erase_at_once(user)

    def warns(self, stored: int) -> str | None:
        """What the library itself says against so many memories in this set-up."""
        return None

    def close(self) -> None:
        raise NotImplementedError("no such call")


class _Verbs:
    def __init__(self, library: Callable[[Setup], Library]) -> None:
        self._make = library
        self._library: Any = None

    def open(self, **setup: Any) -> dict[str, str]:
        self._library = self._make(Setup(**setup))
        return dict(self._library.notes)

    def add(self, user: str, said: str, answer: str | None = None) -> None:
        self._library.now(self._library.add(user, said, answer))

    def adds(self, what: list[list[str]], budget: float) -> list[tuple[float, float]]:
        """(start, end) of each add, in seconds of the wall clock; fewer than asked for where `budget` runs out."""
        return self._timed(lambda user, said: self.add(user, said), what, budget)

    def searches(self, what: list[list[str]], limit: int, budget: float) -> list[tuple[float, float]]:
        return self._timed(lambda user, text: list(self._library.search(user, text, limit)), what, budget)

    def search(self, user: str, text: str, limit: int) -> list[str]:
        return list(self._library.search(user, text, limit))

    def concurrent(self, what: list[list[str]]) -> dict[str, Any]:
        """Everything added at the same time: the seconds it took, and the errors."""

        async def all_of_it() -> list[Any]:
            return await asyncio.gather(*(self._library.add(*one) for one in what), return_exceptions=True)

        started = time.time()
        results = self._library.loop.run_until_complete(all_of_it())
        ended = time.time()
        errors = [_told(result) for result in results if isinstance(result, BaseException)]
        return {"span": (started, ended), "errors": errors}

    def fill(self, file: str) -> float:
        """All lines of a JSONL file of [user, text]; seconds."""
        began = time.time()
        with Path(file).open() as lines:
            rows = (tuple(json.loads(line)) for line in lines)
            for batch in _batches(rows):
                self._library.fill(batch)
        self._library.filled()
        return time.time() - began

    def settle(self, user: str) -> None:
        self._library.settle(user)

    def flush(self) -> None:
        self._library.flush()

    def rows(self, user: str) -> dict[str, int]:
        return self._library.rows(user)

    def erase_at_once(self, user: str) -> None:
        self._library.erase_at_once(user)

    def erase(self, user: str) -> None:
        self._library.erase(user)

    def warns(self, stored: int) -> str | None:
        told: str | None = self._library.warns(stored)
        return told

    def close(self) -> None:
        self._library.close()

    def _timed(
        self, call: Callable[[str, str], Any], what: list[list[str]], budget: float
    ) -> list[tuple[float, float]]:
        spans: list[tuple[float, float]] = []
        for user, text in what:
            started = time.time()
            call(user, text)
            spans.append((started, time.time()))
            if spans[-1][1] - spans[0][0] > budget:
                break
        return spans


def run(library: Callable[[Setup], Library]) -> None:
    """Serve until `exit`; the network is cut, but for loopback."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is none of our answers
    guard.cut(os.environ["PEERS_FOREIGN"])
    verbs = _Verbs(library)
    with ThreadPoolExecutor(1) as here:  # every call on one thread; a future keeps whatever a library raises
        for line in sys.stdin:
            asked = json.loads(line)
            verb = asked.pop("verb")
            if verb == "exit":
                break
            future: Future[Any] = here.submit(getattr(verbs, verb), **asked)
            error = future.exception()
            missing = isinstance(error, NotImplementedError)
            told = {"error": _told(error), "missing": missing} if error else {"result": future.result()}
            answers.write(json.dumps(told) + "\n")
    answers.write(json.dumps({"result": time.time()}) + "\n")


def _told(error: BaseException) -> str:
    """The name and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _batches(rows: Iterable[tuple[str, ...]]) -> Iterator[list[Any]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch
