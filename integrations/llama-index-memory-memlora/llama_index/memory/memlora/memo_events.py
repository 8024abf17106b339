"""What MeMo tells LlamaIndex's instrumentation while a question is on its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any, cast

from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]
from pydantic import Field

from memlora_plugins import BackendError, Stage, Usage
from memlora_plugins.memo.answers import AnswersQuestions, MemoryAnswer
from memlora_plugins.memo.protocol import Event, Interaction, Protocol, ProtocolResult
from memlora_plugins.plugs.memo import interaction_row

from .events import dispatcher, report_usage, warn


class MeMoStageEvent(BaseEvent):
    """A stage of the protocol begins: `grounding`, `entity`, `answer` or `synthesis`.

    `detail` of `answer` has the `entity` that the question turns on (or None) and whether it is `confirmed`.
    """

    stage: str
    detail: Mapping[str, Any] = Field(default_factory=dict)

    @classmethod
    def class_name(cls) -> str:
        """The name that handlers know it by."""
        return "MeMoStageEvent"


class MeMoInteractionEvent(BaseEvent):
    """The Executive replied, and the Memory model answered what it asked: `interaction` is a row of the trace."""

    interaction: Mapping[str, Any]

    @classmethod
    def class_name(cls) -> str:
        """The name that handlers know it by."""
        return "MeMoInteractionEvent"


def conclude(protocol: Protocol, question: str, callbacks: CallbackManager | None) -> ProtocolResult:
    """Runs the protocol, and tells what happens to the dispatcher and the callback manager.

    Raises:
        InvalidInputError: a blank question. Whatever the Executive raises.
    """
    with closing(protocol.stream(question)) as events:
        for event in events:
            _tell(event, protocol.memory_model, callbacks)
    return cast(ProtocolResult, event)  # the last one


async def aconclude(protocol: Protocol, question: str, callbacks: CallbackManager | None) -> ProtocolResult:
    """As `conclude`."""
    async with aclosing(protocol.astream(question)) as events:
        async for event in events:
            _tell(event, protocol.memory_model, callbacks)
    return cast(ProtocolResult, event)  # the last one


def report_answers(
    answers: Sequence[MemoryAnswer], memory_model: AnswersQuestions, callbacks: CallbackManager | None
) -> None:
    """Say what the Memory model took, and which questions it could not be asked."""
    report_usage(sum((answer.usage for answer in answers), Usage()), _name(memory_model), callbacks)
    failed = [answer.error for answer in answers if answer.error is not None]
    if failed:
        said = f"{len(failed)} of {len(answers)} questions could not be asked of the Memory model. {failed[0]}"
        warn("ask", BackendError(said))


def _tell(event: Event, memory_model: AnswersQuestions, callbacks: CallbackManager | None) -> None:
    if isinstance(event, Stage):
        dispatcher.event(MeMoStageEvent(stage=event.name, detail=event.detail))
    elif isinstance(event, Interaction):
        report_answers(event.answers, memory_model, callbacks)
        dispatcher.event(MeMoInteractionEvent(interaction=interaction_row(event)))


def _name(memory_model: AnswersQuestions) -> str:
    """What a Memory model is called where tokens are counted."""
    name = getattr(memory_model, "model", None)
    return name if isinstance(name, str) and name else type(memory_model).__name__
