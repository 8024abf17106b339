"""The two steps of measuring a memory on a conversation: the conversation is remembered, then its questions are asked.

What comes of a step can be written to a journal, so that a run that was killed need not repeat it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from ...errors import (
    AdapterError,
    BackendError,
    BackendNotConfiguredError,
    BackendRequestError,
    BackendTimeoutError,
    BackendUnavailableError,
    ConflictError,
    DatasetError,
    EmbeddingError,
    MemloraError,
    ReplyError,
    StoreError,
)
from ...types import Failure
from .usage import ExpertUsage, usage_here

if TYPE_CHECKING:
    from ...memory import AsyncMemory
    from ..conversations import Conversation, Question

Progress = Callable[[int, int], None]
"""(turns and questions done, of how many)."""

_ENDING = (
    *(BackendNotConfiguredError, BackendUnavailableError, AdapterError),
    *(EmbeddingError, StoreError, DatasetError),
)
"""A score without the model, the embedder or the store would say nothing, nor would a record of calls that cannot be
written."""
_PASSING = frozenset(kind.__name__ for kind in (BackendTimeoutError, BackendRequestError, ConflictError))
"""What may go well another time. A reply that cannot be read may not: it is on record."""


class FailureCount(BaseModel):
    """Failures of one kind. `stage` is the operation, `example` what the first one said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    error: str
    count: int
    example: str


class Remembered(BaseModel):
    """What a memory made of one conversation.

    `facts` are those current at the end, `retired` the versions that are not; `events` counts what happened to facts by
    operation, `pending` the turns left undistilled. `usage` is by expert. `seconds` are wall-clock, in which
    calls that were on record take next to none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    conversation: str
    turns: int
    facts: int
    retired: int
    pending: int
    events: dict[str, int]
    failures: tuple[FailureCount, ...]
    usage: dict[str, ExpertUsage]
    seconds: float

    @property
    def spoiled(self) -> bool:
        """Whether a call took too long or was refused, so that the memory may be another one if it is made again."""
        return any(failure.error in _PASSING for failure in self.failures)


class Said(BaseModel):
    """What a memory said to one question; `answer` is None where that failed, which `failure` tells.

    `sources` are the ids of the messages that it was answered from, `cut_off` says that the answer reached the limit of
    its length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    conversation: str
    question: str
    answer: str | None
    cut_off: bool = False
    sources: tuple[str, ...] = ()
    failure: FailureCount | None = None
    usage: dict[str, ExpertUsage]


class Steps:
    """Tells `progress` how many of `total` turns and questions are done."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def done(self, items: int) -> None:
        """So many more are."""
        self._done = min(self._done + items, self._total)  # a memory that was lost is made twice
        if self._progress is not None:
            self._progress(self._done, self._total)


async def remember(
    memory: AsyncMemory, talk: Conversation, steps: Steps, *, undated: datetime | None = None
) -> Remembered:
    """Add every session of `talk` to `memory`; sessions and dates are the file's, and `undated` that of messages
    without a date (default: now).

    A turn that fails is counted.

    Raises:
        BackendUnavailableError, BackendNotConfiguredError, AdapterError: the model or an adapter is out of reach.
        EmbeddingError, StoreError: the embedder or the store failed. DatasetError: a call cannot be recorded.
    """
    began = time.perf_counter()
    events: Counter[str] = Counter()
    failures: list[FailureCount] = []
    with usage_here() as usage:
        for scope, messages in talk.sessions(undated=undated):
            result = await memory.add(messages, scope=scope)
            events.update(event.operation for event in result.events)
            failures += [_noted(failure) for failure in result.errors]
            steps.done(len(messages))
    counts = await memory.count(scope=talk.scope)
    return Remembered(
        conversation=talk.id,
        **counts,
        events=dict(sorted(events.items())),
        failures=tallied(failures),
        usage=usage,
        seconds=time.perf_counter() - began,
    )


async def ask(
    memory: AsyncMemory, talk: Conversation, question: Question, steps: Steps, *, undated: datetime | None = None
) -> Said:
    """Ask `memory` a question as on the day the conversation ended (`undated` where nothing in it has a date).

    A question that fails is told as a failure, of the stage `generation` or, before that, `recall`.

    Raises:
        as `remember`.
    """
    with usage_here() as usage:
        try:
            answer = await memory.answer(question.text, scope=talk.scope, now=talk.ended or undated)
        except MemloraError as error:
            stage = "generation" if isinstance(error, BackendError | ReplyError) else "recall"
            failure = _noted(Failure(stage, error))
            return Said(conversation=talk.id, question=question.text, answer=None, failure=failure, usage=usage)
        finally:
            steps.done(1)
    return Said(
        conversation=talk.id,
        question=question.text,
        answer=answer.text,
        cut_off=answer.truncated,
        sources=tuple(dict.fromkeys(id for hit in answer.hits for id in hit.sources)),
        usage=usage,
    )


def happened(kept: Iterable[Remembered]) -> dict[str, int]:
    """What happened to facts in all of it, by operation."""
    events: Counter[str] = Counter()
    for talk in kept:
        events.update(talk.events)
    return dict(sorted(events.items()))


def tallied(failures: Iterable[FailureCount]) -> tuple[FailureCount, ...]:
    """One count for each kind, the commonest first."""
    kinds: dict[tuple[str, str], FailureCount] = {}
    for failure in failures:
        kind = failure.stage, failure.error
        so_far = kinds.get(kind)
        kinds[kind] = failure if so_far is None else so_far.model_copy(update={"count": so_far.count + failure.count})
    return tuple(sorted(kinds.values(), key=lambda failure: (-failure.count, failure.stage, failure.error)))


def _noted(failure: Failure) -> FailureCount:
    """The failure as a count of one.

    Raises:
        MemloraError: it is one that ends the measurement.
    """
    error = failure.error
    if isinstance(error, _ENDING) and not isinstance(error, BackendTimeoutError):
        raise error
    return FailureCount(stage=failure.stage, error=type(error).__name__, count=1, example=str(error))
