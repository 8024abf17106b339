"""The processes of a run: the model server, and one worker per measure, with what they are allowed and for how long."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

HERE = Path(__file__).parent
HASHED, MINILM, DIMENSION = "hashed-384", "all-MiniLM-L6-v2", 384
LIMIT, SIZES = 600.0, (1_000, 10_000, 100_000)
"""Seconds that a step of a measure may take, and numbers of stored memories, unless told otherwise."""
MODULES = {"mem0": "mem0_worker", "langmem": "langmem_worker", "llama-index": "llama_index_worker",
           "memlora": "memlora_worker"}  # fmt: skip
_OURS = ("MEMLORA_", "MEM0_", "OPENAI_", "OPENROUTER_", "LANGSMITH_", "LANGCHAIN_", "ANONYMIZED_", "PYTHON")
_QUIET = {"MEM0_TELEMETRY": "False", "ANONYMIZED_TELEMETRY": "False"}
Span = tuple[float, float]


class FailedError(Exception):
    """The library raised, or its process ended; the message is the error's first line."""


class NotOfferedError(Exception):
    """The library has no such call."""


class OverTheLimitError(Exception):
    """It took longer than a measure may take."""


class Scale(NamedTuple):
    """How much of everything; `embedder` is the one that is used where speed is not measured."""

    searches: int = 100
    adds: int = 20
    concurrent: int = 32
    identical: int = 16
    erased: int = 20
    imports: int = 5
    exits: int = 3
    embedder: str = MINILM


SMALL = Scale(searches=5, adds=2, concurrent=4, identical=4, erased=3, imports=1, exits=1, embedder=HASHED)


class Model:
    """The server of `server.py`, running."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise FailedError("the model server did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def set(self, *, delay: float = 0.0, malformed: str | None = None) -> None:
        """So many seconds a chat request from now on; counts start at nothing."""
        self._ask("control", json.dumps({"delay": delay, "malformed": malformed}).encode())

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self._ask("stats", None)
        if stats["not_understood"]:
            raise FailedError(f"the fake model got {stats['not_understood'][0]}")
        return stats

    def _ask(self, path: str, body: bytes | None) -> Any:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self.url}/{path}", data=body, timeout=60) as answer:
            return json.load(answer)


class Worker:
    """A library in a process of its own; every call may take `limit` seconds. `notes` are its `Library.notes`."""

    def __init__(self, python: Path, library: str, folder: Path, *, limit: float, as_shipped: bool = False) -> None:
        self.folder, self.limit = folder, limit
        self.notes: dict[str, str] = {}
        self.foreign_file, self._errors = folder / "foreign.txt", folder / "stderr.txt"
        self.foreign_file.touch()
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [str(python), str(HERE / f"{MODULES[library]}.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                env=environment(folder, as_shipped) | {"PEERS_FOREIGN": str(self.foreign_file)},
                cwd=folder,
            )

    def call(self, verb: str, *, times: float = 1, **asked: Any) -> Any:
        """What the library says; within `times` the limit.

        Raises:
            FailedError, NotOfferedError, OverTheLimitError: it did not; after the last the process is gone.
        """
        self._say({"verb": verb, **asked})
        answer = self._hear(times)
        if "error" in answer:
            raise (NotOfferedError if answer["missing"] else FailedError)(answer["error"])
        return answer["result"]

    def exit(self) -> float:
        """End the program; the seconds from its last statement until the process was gone."""
        self._say({"verb": "exit"})
        last_word = float(self._hear()["result"])
        watchdog = threading.Timer(self.limit, self._process.kill)
        watchdog.start()
        self._process.wait()
        ended = time.time()
        watchdog.cancel()
        if ended - last_word >= self.limit:
            raise OverTheLimitError
        return ended - last_word

    def foreign(self) -> list[str]:
        """The hosts it tried to reach, attempt by attempt."""
        return self.foreign_file.read_text().split()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _say(self, asked: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise FailedError(self._last_error()) from None

    def _hear(self, times: float = 1) -> Any:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            if not ready.select(self.limit * times):
                self.kill()
                raise OverTheLimitError
        line = self._process.stdout.readline()
        if not line:
            raise FailedError(self._last_error())
        return json.loads(line)

    def _last_error(self) -> str:
        lines = self._errors.read_text().strip().splitlines()
        return lines[-1][:300] if lines else "the process ended without a word"


class Bench:
    """What a measure works with."""

    def __init__(self, model: Model, pythons: dict[str, Path], scale: Scale, *, limit: float) -> None:
        self.model, self.pythons, self.scale, self.limit = model, pythons, scale, limit

    @contextmanager
    def worker(
        self, library: str, *, embedder: str = HASHED, several: bool = False, as_shipped: bool = False
    ) -> Iterator[Worker]:
        """An open memory in an empty folder."""
        with TemporaryDirectory(prefix="peers-") as folder:
            worker = Worker(self.pythons[library], library, Path(folder), limit=self.limit, as_shipped=as_shipped)
            try:
                (Path(folder) / "memory").mkdir()
                worker.notes = worker.call(
                    "open",
                    folder=f"{folder}/memory",
                    url=self.model.url,
                    embedder=embedder,
                    dimension=DIMENSION,
                    several=several,
                )
                yield worker
            finally:
                worker.kill()


def environment(folder: Path, as_shipped: bool) -> dict[str, str]:
    """This one's, without settings of the libraries; a home of its own. Telemetry is off unless `as_shipped`."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_OURS)}
    kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    home = {"HOME": str(folder), "MEM0_DIR": str(folder / ".mem0"), "OMP_NUM_THREADS": "1"}
    return kept | home | ({} if as_shipped else _QUIET)


def apart(spans: Sequence[Span], busy: Sequence[Span]) -> list[float]:
    """Seconds of each span in which the server was not at work."""
    return [end - start - _overlap(start, end, busy) for start, end in spans]


def _overlap(start: float, end: float, busy: Sequence[Span]) -> float:
    """Seconds between `start` and `end` that any of `busy` covers."""
    covered, reached = 0.0, start
    for first, last in sorted(busy):
        first, last = max(first, reached), min(last, end)
        if last > first:
            covered += last - first
            reached = last
    return covered


Measure = Callable[[Bench, str], dict[str, Any]]
