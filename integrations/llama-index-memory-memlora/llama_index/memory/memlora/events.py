"""What the memory tells LlamaIndex's instrumentation, and how."""

from __future__ import annotations

import logging
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]
from pydantic import Field

from memlora_plugins import AddResult, Memory, Usage
from memlora_plugins.plugs.tools import told_events

dispatcher = get_dispatcher("llama_index.memory.memlora")
log = logging.getLogger("llama_index.memory.memlora")


class MemoryWarningEvent(BaseEvent):
    """Memory fell short while the agent goes on.

    `stage` is what was tried (`history`, `recall`, `keep`, `extraction`, `update`…), `error` the error's class,
    `message` its text. `pending` are ids of turns that are kept and not distilled yet, `unkept` how many messages the
    store could not take; they are tried again with the next one.
    """

    stage: str
    error: str
    message: str
    pending: list[str] = Field(default_factory=list)
    unkept: int = 0

    @classmethod
    def class_name(cls) -> str:
        """The name that handlers know it by."""
        return "MemoryWarningEvent"


class MemoryAddEvent(BaseEvent):
    """What became of messages: `events` on facts (operation, id, text), ids of turns still `pending`, `errors`."""

    events: list[dict[str, str]] = Field(default_factory=list)
    pending: list[str] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        """The name that handlers know it by."""
        return "MemoryAddEvent"


class ExpertEndEvent(BaseEvent):
    """The work of the experts or of a Memory model behind one step: the model, its calls, and the tokens they took."""

    model: str
    calls: int
    input_tokens: int
    output_tokens: int

    @classmethod
    def class_name(cls) -> str:
        """The name that handlers know it by."""
        return "ExpertEndEvent"


def is_heard(callbacks: CallbackManager) -> bool:
    """Whether anybody listens to the dispatcher or to the callback manager: nodes are not made for nobody."""
    at: Any = dispatcher
    while at is not None:
        if any(not isinstance(handler, NullEventHandler) for handler in at.event_handlers):
            return True
        at = at.parent if at.propagate else None
    return bool(callbacks.handlers)


def warn(stage: str, error: Exception, **more: Any) -> None:
    """Say that memory fell short: to the log and the dispatcher."""
    log.warning("memory fell short: %s (%s)", stage, type(error).__name__)
    dispatcher.event(MemoryWarningEvent(stage=stage, error=type(error).__name__, message=str(error), **more))


def report(result: AddResult, memory: Memory, callbacks: CallbackManager | None) -> None:
    """Say what became of what was added, what fell short and what the experts took."""
    pending, errors = [turn.id for turn in result.pending], [str(failure) for failure in result.errors]
    dispatcher.event(MemoryAddEvent(events=told_events(result), pending=pending, errors=errors))
    report_usage(result.usage, model_of(memory), callbacks)
    for failure in result.errors:
        warn(failure.stage, failure.error, pending=list(failure.turn_ids))


def report_usage(usage: Usage, model: str, callbacks: CallbackManager | None) -> None:
    """Tell whoever counts tokens what the experts took, without what was asked or said: to the dispatcher, and to the
    callback manager as a call of an LLM. `model` is what they run on.
    """
    if not usage.calls:
        return
    taken = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    dispatcher.event(ExpertEndEvent.model_validate({"model": model, "calls": usage.calls, **taken}))
    if callbacks is not None and callbacks.handlers:
        response = ChatResponse(message=ChatMessage(role="assistant", content=""), raw={"model": model, "usage": taken})
        with callbacks.event(CBEventType.LLM, payload={EventPayload.MESSAGES: []}) as event:
            event.on_end(payload={EventPayload.MESSAGES: [], EventPayload.RESPONSE: response})


def model_of(memory: Memory) -> str:
    """The name of the model that the experts run on."""
    return memory.settings.model or "nano"
