"""How the classes of this package do their work: as flows (see `memlora_plugins.flows`), written once for both worlds.

`traced(…)` is a part of a flow that is a run of its own in a trace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from langchain_core.callbacks import BaseCallbackManager, adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import (
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)

from memlora_plugins import Usage
from memlora_plugins.flows.effects import Call, Flow
from memlora_plugins.plugs.doors import arun, run

T = TypeVar("T")
Outcome = AIMessage | BaseException
"""What became of a model's run."""

log = logging.getLogger(__name__)

WARNING = "memlora_warning"
"""Name of the custom event that tells what memory could not do while the agent went on."""
UNSTREAMED = "nostream"
"""LangGraph's tag for model runs whose messages are not for the reader of a stream."""


def traced(name: str, given: dict[str, Any], flow: Callable[[], Flow[dict[str, Any]]]) -> Flow[dict[str, Any]]:
    """A flow as a run of its own under the current one, called `name`; its input is `given`, its result the output.
    Where nobody listens it is just the flow.
    """
    callbacks = ensure_config().get("callbacks")
    if isinstance(callbacks, BaseCallbackManager) and not callbacks.handlers:
        return (yield from flow())

    def sync(_: dict[str, Any]) -> dict[str, Any]:
        return run(flow())

    async def asynchronous(_: dict[str, Any]) -> dict[str, Any]:
        return await arun(flow())

    step = RunnableLambda(sync, asynchronous, name=name)
    return (yield from Call(lambda: step.invoke(given), lambda: step.ainvoke(given)))


def counted(usage: Usage) -> UsageMetadata:
    """What the experts took, in LangChain's words."""
    taken = usage.input_tokens, usage.output_tokens
    return UsageMetadata(input_tokens=taken[0], output_tokens=taken[1], total_tokens=sum(taken))


def report_usage(model: str, usage: Usage) -> Flow[None]:
    """Tells whoever counts tokens what the experts took: as a run of a chat model, without what was asked or said."""
    if usage.calls:
        runs = yield from _begin_model_runs("memlora_experts", model, [[]])
        yield from _end_model_runs(runs, [model_reply("", model, usage)])


def as_model_runs(
    name: str, asked: list[list[BaseMessage]], work: Call[T], outcomes: Callable[[T], Sequence[Outcome]]
) -> Flow[T]:
    """`work` as runs of a chat model called `name` under the current run, one for each of `asked`, with its outcome.
    It is for models that are none of LangChain's. Readers of a stream do not see them.
    """
    runs = yield from _begin_model_runs(name, name, asked)
    try:
        result = yield from work
    except (Exception, asyncio.CancelledError) as error:
        yield from _end_model_runs(runs, [error] * len(runs))
        raise
    yield from _end_model_runs(runs, outcomes(result))
    return result


def model_reply(text: str, model: str, usage: Usage) -> AIMessage:
    """What a model said that is none of LangChain's."""
    metadata = {"model_name": model}
    return AIMessage(content=text, usage_metadata=counted(usage), response_metadata=metadata, id=str(uuid4()))


def _begin_model_runs(name: str, model: str, asked: list[list[BaseMessage]]) -> Flow[list[Any]]:
    def sync() -> list[Any]:
        manager = get_callback_manager_for_config(ensure_config())
        manager.add_tags([UNSTREAMED], inherit=False)
        return list(manager.on_chat_model_start({"name": model}, asked, name=name))

    async def asynchronous() -> list[Any]:
        manager = get_async_callback_manager_for_config(ensure_config())
        manager.add_tags([UNSTREAMED], inherit=False)
        return list(await manager.on_chat_model_start({"name": model}, asked, name=name))

    return (yield from Call(sync, asynchronous))


def _end_model_runs(runs: list[Any], outcomes: Sequence[Outcome]) -> Flow[None]:
    def end(one: Any, outcome: Outcome) -> Any:
        if isinstance(outcome, AIMessage):
            return one.on_llm_end(LLMResult(generations=[[ChatGeneration(message=outcome)]]))
        return one.on_llm_error(outcome)

    def sync() -> None:
        for one, outcome in zip(runs, outcomes, strict=True):
            end(one, outcome)

    async def asynchronous() -> None:
        for one, outcome in zip(runs, outcomes, strict=True):
            await end(one, outcome)

    yield from Call(sync, asynchronous)


def warn(stage: str, error: Exception, writer: Callable[[Any], None], **more: Any) -> Flow[None]:
    """Says that memory fell short while the agent goes on: to the log, as the custom event `memlora_warning` (to
    callbacks and `astream_events`) and in LangGraph's stream mode `custom`.
    """
    told = {"stage": stage, "error": type(error).__name__, "message": str(error), **more}
    log.warning("memory fell short: %s (%s)", stage, type(error).__name__)
    writer({"type": WARNING, **told})
    if get_callback_manager_for_config(ensure_config()).parent_run_id is not None:
        yield from Call(lambda: dispatch_custom_event(WARNING, told), lambda: adispatch_custom_event(WARNING, told))
