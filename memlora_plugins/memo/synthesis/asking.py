"""One question to the Generator: one retry, and a failure that is noted instead of ending the run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from ...errors import BackendError, PromptTooLongError, ReplyError
from ...flows.asking import RETRY_TEMPERATURE
from ...serving.base import Request
from ...training.recorded import RecordedModel
from ..reflections import Step
from . import steps
from .options import SynthesisOptions

logger = logging.getLogger(__name__)

_SMALLER = "Chunk the corpus smaller, or give replies less room (max_tokens)."
_FEWER = "Show fewer pairs in a request (pairs_per_request), or give replies less room (max_tokens)."
_ADVICE: dict[Step, str] = {"1a": _SMALLER, "1b": _SMALLER, "2": _FEWER, "3": _SMALLER, "4": _FEWER, "5": _FEWER}

_RANKS: dict[Step, int] = {"1a": 0, "1b": 0, "2": 1, "3": 2, "4": 3, "5": 4}
"""The earlier a step, the more is to follow from it: it goes first, and at the end no chunk is left with all its way to
go, alone."""


class StepFailure(BaseModel):
    """A step that failed for a chunk, a document, or two compared chunks (`unit`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: Step
    unit: str
    error: str
    message: str


@dataclass(slots=True)
class Piece:
    """A step of one chunk, one document, or two chunks; `failures` are messages."""

    step: Step
    unit: str
    failures: list[str] = field(default_factory=list)


class _Readable(Protocol):
    @property
    def truncated(self) -> bool: ...


R = TypeVar("R", bound=_Readable)


class Asking:
    """Asks `model` as `options` say. `failures` of all pieces, and replies without an end (`cut_off`), are counted."""

    def __init__(self, model: RecordedModel, options: SynthesisOptions) -> None:
        self.model = model
        self._options = options
        self.failures: list[StepFailure] = []
        self.cut_off: Counter[Step] = Counter()

    async def ask(self, piece: Piece, data: str, read: Callable[[str], R], *, again: bool = False) -> R | None:
        """The reading of a reply, None if there is none: then the failure is noted.

        A reply that cannot be read is asked for once more, with twice the room if it was cut off before anything was
        said; one that can be read in part is taken as it is. With `again`, this is a second time already.

        Raises:
            BackendError: the Generator cannot be asked any more.
            DatasetError: the record of calls cannot be written.
        """
        step = piece.step
        first = Request(
            steps.EXPERTS[step],
            steps.messages(step, data),
            steps.SCHEMAS[step],
            self._options.max_tokens,
            0.0 if step == "3" else self._options.temperature,
        )
        warmer = replace(first, temperature=first.temperature + RETRY_TEMPERATURE)
        rank = _RANKS[step]
        try:
            said = await self.model.ask(warmer if again else first, retry=again, rank=rank)
            try:
                reading = read(said.text)
            except ReplyError:
                if again:
                    raise
                longer = replace(first, max_tokens=2 * first.max_tokens)
                cut = said.finish_reason == "length"
                said = await self.model.ask(longer if cut else warmer, retry=True, rank=rank)
                reading = read(said.text)
        except (BackendError, ReplyError) as error:
            self.model.check()
            self._failed(piece, error)
            return None
        if said.finish_reason == "length" or reading.truncated:
            self.cut_off[step] += 1
        return reading

    def _failed(self, piece: Piece, error: BackendError | ReplyError) -> None:
        advice = f" {_ADVICE[piece.step]}" if isinstance(error, PromptTooLongError) else ""
        failure = StepFailure(step=piece.step, unit=piece.unit, error=type(error).__name__, message=f"{error}{advice}")
        self.failures.append(failure)
        piece.failures.append(failure.message)
        logger.info("step %s of %s failed: %s", failure.step, failure.unit, failure.message)
