"""The one thread that runs a model in process: whoever waits joins the running batch before its next step."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..batching import Batcher
from ..errors import BackendError, BackendUnavailableError, ClosedError, MemloraError
from ..types import Usage
from .adapters import Adapter
from .base import Completion, Request

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .generation import Batch, Row, TextStream

log = logging.getLogger(__name__)

_PREFILL_TOKENS = 8192
"""Padded prompt tokens read in one pass, so that running replies never stall for long."""


@dataclass(frozen=True, slots=True)
class Source:
    """What to load. `adapters` are pairs of expert and adapter."""

    folder: Path
    adapters: tuple[tuple[str, Adapter], ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way. `on_piece` hears the reply's text as it comes; cancelling `future` abandons the job."""

    request: Request
    model: str
    on_piece: Callable[[str], None] | None = None
    future: Future[Completion] = field(default_factory=Future)
    row: Row | None = None
    text: TextStream | None = None
    pieces: list[str] = field(default_factory=list)

    def say(self, piece: str) -> None:
        """Hand over a piece of the reply."""
        if piece and self.on_piece is not None:
            self.pieces.append(piece)
            try:
                self.on_piece(piece)
            except RuntimeError:  # the listener's event loop is gone
                self.future.cancel()

    def fail(self, error: BaseException) -> None:
        """Raise `error` where the job is awaited."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def finish(self, completion: Completion) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(completion)


class Engine:
    """Loads `source` with the first job and answers jobs in batches of up to `max_batch`.

    `max_batch_tokens` bounds the keys and values held at once: rows times the longest prompt and reply among them. A
    job that is longer than that runs alone. Safe to call from many threads.
    """

    def __init__(self, source: Source, max_batch: int, max_batch_tokens: int) -> None:
        self._source = source
        self._max_batch = max_batch
        self._max_batch_tokens = max_batch_tokens
        # The batcher brings the thread, and the rules for closing and forking. One call of `_advance` is one step;
        # while there are rows it asks for the next step itself, by submitting None.
        self._batcher: Batcher[Job | None, None] = Batcher(
            self._advance, max_batch=sys.maxsize, name=f"the model in {source.folder}"
        )
        self._waiting: deque[Job] = deque()
        self._running: dict[Row, Job] = {}
        self._checkpoint: Checkpoint | None = None
        self._batch: Batch | None = None

    def submit(self, job: Job) -> None:
        """Queue `job`.

        Raises:
            ClosedError, ForkedError
        """
        self._batcher.submit(job).add_done_callback(lambda taken: _tell([job], taken.exception()))

    def load(self) -> None:
        """Load the model now instead of with the first job. Raises what `Checkpoint` raises."""
        self._batcher.call(None)

    def close(self, timeout: float | None = None) -> None:
        """Fail what waits and what runs with `ClosedError`, and free the model. Idempotent."""
        self._batcher.close(timeout)
        self._checkpoint = self._batch = None

    def _advance(self, jobs: list[Job | None]) -> list[None]:
        """One step. What it raises, every one of `jobs` gets to hear."""
        checkpoint, batch = self._loaded()
        self._waiting.extend(job for job in jobs if job is not None)
        self._drop_abandoned(batch)
        if rows := self._admissible(checkpoint, batch):
            self._attempt(checkpoint, batch, rows, lambda: batch.admit(rows))
        if batch.rows:
            self._attempt(checkpoint, batch, batch.rows, batch.step)
        if self._waiting or self._running:
            self._continue()
        return [None] * len(jobs)

    def _loaded(self) -> tuple[Checkpoint, Batch]:
        if self._checkpoint is None or self._batch is None:
            try:
                from .checkpoint import Checkpoint
                from .generation import Batch

                checkpoint = Checkpoint(self._source)
            except Exception as error:
                raise _typed(error) from error
            self._checkpoint = checkpoint
            self._batch = Batch(checkpoint.forward, checkpoint.device, checkpoint.padding)
        return self._checkpoint, self._batch

    def _drop_abandoned(self, batch: Batch) -> None:
        for row in [row for row, job in self._running.items() if job.future.cancelled()]:
            del self._running[row]
        batch.keep(self._running.keys())

    def _admissible(self, checkpoint: Checkpoint, batch: Batch) -> list[Row]:
        """The jobs at the head of the queue that fit in, as rows; those that cannot be rows are told why."""
        rows: list[Row] = []
        while self._waiting and len(batch.rows) + len(rows) < self._max_batch:
            job = self._waiting[0]
            if not job.future.cancelled():
                try:
                    row = job.row = job.row or checkpoint.row(job.request)
                except BackendError as error:
                    job.fail(error)
                else:
                    if not self._fits(row, rows, batch):
                        break
                    rows.append(row)
                    self._running[row] = job
                    job.text = checkpoint.text_stream() if job.on_piece else None
            self._waiting.popleft()
        return rows

    def _fits(self, row: Row, rows: Sequence[Row], batch: Batch) -> bool:
        others = [*batch.rows, *rows]
        if not others:
            return True
        held = (len(others) + 1) * max(other.longest for other in [*others, row])
        read = (len(rows) + 1) * max(len(other.prompt) for other in [*rows, row])
        return held <= self._max_batch_tokens and (not rows or read <= _PREFILL_TOKENS)

    def _attempt(self, checkpoint: Checkpoint, batch: Batch, rows: Iterable[Row], work: Callable[[], None]) -> None:
        """Do `work`, which gives each of `rows` a token, and hand over what came of it."""
        rows = list(rows)
        try:
            work()
        except Exception as error:  # noqa: BLE001 (the model's boundary: those who wait get it, typed)
            log.warning("the model in %s failed: %s", self._source.folder, type(error).__name__)
            for row in rows:
                self._running.pop(row).fail(_typed(error))
        else:
            for row in rows:
                self._hand_over(checkpoint, row)
        batch.keep(self._running.keys())

    def _hand_over(self, checkpoint: Checkpoint, row: Row) -> None:
        job = self._running[row]
        if row.error is not None:
            del self._running[row]
            job.fail(row.error)
            return
        if job.text is not None and row.tokens[-1] not in row.stops:
            job.say(job.text.push(row.tokens[-1]))
        if row.finish is not None:
            del self._running[row]
            if job.text is not None:
                job.say(job.text.rest())
                text = "".join(job.pieces)
            else:
                text = checkpoint.text(row.said)
            usage = Usage(1, len(row.prompt), len(row.tokens))
            sure = None if row.logprobs is None else tuple(row.logprobs)
            job.finish(Completion(text, row.finish, usage, job.model, sure))

    def _continue(self) -> None:
        try:
            following = self._batcher.submit(None)
        except ClosedError as error:
            self._abandon(error)
        else:
            following.add_done_callback(lambda taken: self._abandon(taken.exception()))

    def _abandon(self, error: BaseException | None) -> None:
        """Tell every job that there is no next step."""
        _tell([*self._running.values(), *self._waiting], error)


def _tell(jobs: Iterable[Job], error: BaseException | None) -> None:
    if error is not None:
        for job in jobs:
            job.fail(error)


def _typed(error: Exception) -> MemloraError:
    if isinstance(error, MemloraError):
        return error
    failure = BackendUnavailableError(
        f"The model in process failed: {type(error).__name__}: {error}. If memory ran out, lower max_batch or "
        "max_batch_tokens."
    )
    failure.__cause__ = error
    return failure
