"""Memory for `create_agent`: recalled before a run, shown to the model, and told what was said after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, NotRequired, TypeVar

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ModelRequest,
    ModelResponse,
    PrivateStateAttr,
)
from langchain_core.messages import AnyMessage, BaseMessage, SystemMessage
from langchain_core.tools import BaseTool
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.config import get_stream_writer
from langgraph.runtime import Runtime

from memlora_plugins import (
    AddResult,
    Hit,
    Memory,
    Message,
    Scope,
    TextPart,
    Turn,
    as_context,
)
from memlora_plugins.flows.effects import Flow
from memlora_plugins.plugs.doors import UNAVAILABLE, arun, run, through
from memlora_plugins.plugs.recalled import introduced, unseen
from memlora_plugins.plugs.tools import told_events

from .messages import by_person, exchange, parts_of, said
from .scoping import Owner
from .steps import counted, report_usage, traced, warn

ResponseT = TypeVar("ResponseT")

_MOST_LEFT = 50  # turns of earlier runs that are distilled with one


class MemLoRAState(AgentState[Any]):
    """What the middleware keeps while an agent runs; none of it is input or output.

    `memlora_recalled` is in no checkpoint: what a person wants forgotten must not live on there. `memlora_unkept` are
    messages that the store could not take; they are tried again in the thread's next run. `memlora_open` are ids of
    messages that were kept and did not come to be distilled.
    """

    memlora_recalled: NotRequired[Annotated[str, UntrackedValue, PrivateStateAttr]]
    memlora_unkept: NotRequired[Annotated[list[AnyMessage], PrivateStateAttr]]
    memlora_open: NotRequired[Annotated[list[str], PrivateStateAttr]]


class MemLoRAMiddleware(AgentMiddleware[MemLoRAState, Any, Any]):
    """Long-term memory of the person an agent talks with.

    - *Before a run* what is remembered about the person's words is recalled, and the words are stored as pending: they
      are kept even if the model fails.
    - *Per model call* the memories stand at the end of the system message. They never become part of the messages.
    - *After a run* the reply is stored and the exchange distilled: what the person and the agent said, without tool
      traffic, keyed by message id, so that a thread that is resumed adds nothing twice. What a failed or interrupted
      run left is distilled with the next run of its thread, or by `memory.flush()`.

    The person is `user_id` of the run's context, or of `config["configurable"]`; the session is its `thread_id`. The
    runs `memlora_recall` and `memlora_distil` appear in a trace. Where the store, the embedder or the model of the
    experts is out of reach, the agent goes on and the custom event `memlora_warning` says so.

    Args:
        memory: the open memory; it stays the caller's to close.
        limit: how many facts and turns are shown at most; `Settings.token_budget` bounds their size.
        wait: True distils before the run ends; False (the default) in the background, and never delays the reply.
        tools: tools that the agent gets along with it, such as `MemLoRAToolkit(memory=memory).get_tools()`.
        agent_id: keeps this agent's memory apart from that of others of the same person.

    Raises (by the run):
        ScopeError: nobody is named. ClosedError, ForkedError: the memory cannot be used any more.
    """

    state_schema = MemLoRAState

    def __init__(
        self,
        *,
        memory: Memory,
        limit: int = 10,
        wait: bool = False,
        tools: Sequence[BaseTool] = (),
        agent_id: str | None = None,
    ) -> None:
        super().__init__()
        self.memory = memory
        self.limit = limit
        self.wait = wait
        self.tools = list(tools)
        self._owner = Owner(agent_id=agent_id)

    def before_agent(self, state: MemLoRAState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Recall, and keep the person's words."""
        return run(self._begin(state))

    async def abefore_agent(self, state: MemLoRAState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """As `before_agent`."""
        return await arun(self._begin(state))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[ResponseT]]
    ) -> ModelResponse[ResponseT]:
        """Show the memories to the model."""
        return handler(run(self._shown(request)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[ResponseT]]]
    ) -> ModelResponse[ResponseT]:
        """As `wrap_model_call`."""
        return await handler(await arun(self._shown(request)))

    def after_agent(self, state: MemLoRAState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Keep the reply and distil the exchange."""
        return run(self._end(state))

    async def aafter_agent(self, state: MemLoRAState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """As `after_agent`."""
        return await arun(self._end(state))

    def _begin(self, state: MemLoRAState) -> Flow[dict[str, Any]]:
        scope = self._owner.scope()
        heard = said(_new(state))
        try:
            result: AddResult = yield from through(self.memory, lambda door: door.keep(heard, scope=scope))
        except UNAVAILABLE as error:
            yield from warn("keep", error, get_stream_writer(), unkept=[message.id for message in heard])
        else:
            yield from _tell(result)
        recalled = yield from self._recall(state["messages"], scope)
        heard_before = state.get("memlora_open") or ()
        return {"memlora_recalled": recalled, "memlora_open": [*heard_before, *(message.id for message in heard)]}

    def _shown(self, request: ModelRequest[Any]) -> Flow[ModelRequest[Any]]:
        recalled: Any = request.state.get("memlora_recalled")
        if recalled is None:  # a run that was resumed: what was recalled before is in no checkpoint
            recalled = yield from self._recall(request.messages, self._owner.scope())
        if not recalled:
            return request
        block = introduced(recalled)
        before = request.system_message
        if before is None or not before.content:
            system = SystemMessage(content=block)
        elif isinstance(before.content, str):
            system = before.model_copy(update={"content": f"{before.content}\n\n{block}"})
        else:
            system = before.model_copy(update={"content": [*before.content, {"type": "text", "text": block}]})
        return request.override(system_message=system)

    def _end(self, state: MemLoRAState) -> Flow[dict[str, Any] | None]:
        scope = self._owner.scope()
        new = _new(state)
        messages = said(new)
        if not messages and not state.get("memlora_open"):
            return None

        def distil() -> Flow[dict[str, Any]]:
            here = {message.id for message in messages}
            left = [] if here.issuperset(state.get("memlora_open") or ()) else (yield from self._left(scope))
            result: AddResult = yield from through(
                self.memory, lambda door: door.add([*left, *messages], scope=scope, wait=self.wait)
            )
            yield from report_usage(self.memory.settings.model or "nano", result.usage)
            yield from _tell(result)
            return {
                "events": told_events(result),
                "pending": [turn.id for turn in result.pending],
                "errors": [str(error) for error in result.errors],
                "usage_metadata": dict(counted(result.usage)),
            }

        given = {"messages": [message.id for message in messages], "wait": self.wait}
        try:
            yield from traced("memlora_distil", given, distil)
        except UNAVAILABLE as error:
            unkept = [message.id for message in messages]
            yield from warn("keep", error, get_stream_writer(), unkept=unkept)
            return {"memlora_unkept": new}
        return {"memlora_open": [], "memlora_unkept": []}

    def _left(self, scope: Scope) -> Flow[list[Message]]:
        """What earlier runs of the thread kept and did not come to distil, wherever it is in the thread by now."""
        if scope.session_id is None:
            return []
        turns: list[Turn] = yield from through(
            self.memory, lambda door: door.turns(scope=scope, pending=True, limit=_MOST_LEFT)
        )
        return [Message(turn.role, turn.text, id=turn.message_id) for turn in turns]

    def _recall(self, messages: Sequence[BaseMessage], scope: Scope) -> Flow[str]:
        """The memories for the person's last words, as lines for a prompt; nothing where memory is out of reach."""
        asked = [message for message in exchange(messages) if by_person(message)]
        parts = parts_of(asked[-1]) if asked else []
        query = "\n".join(part.text for part in parts if isinstance(part, TextPart))
        if not query:
            return ""
        here = {message.id for message in messages}
        found: list[Hit] = []

        def search() -> Flow[dict[str, Any]]:
            found.extend((yield from unseen(self.memory, query, scope=scope, limit=self.limit, here=here)))
            return {"memories": [{"id": h.id, "kind": h.kind, "text": h.text, "score": h.score} for h in found]}

        try:
            yield from traced("memlora_recall", {"query": query, "limit": self.limit}, search)
        except UNAVAILABLE as error:
            yield from warn("recall", error, get_stream_writer())
        return as_context(found, token_budget=self.memory.settings.token_budget)


def _new(state: MemLoRAState) -> list[BaseMessage]:
    """What of the thread is to be kept: the exchange at its end, and what the store could not take before."""
    messages = state["messages"]
    latest = exchange(messages)
    here = {message.id for message in latest}
    return [*(message for message in state.get("memlora_unkept") or () if message.id not in here), *latest]


def _tell(result: AddResult) -> Flow[None]:
    """What fell short, and which turns wait for it."""
    for failure in result.errors:
        yield from warn(failure.stage, failure.error, get_stream_writer(), pending=list(failure.turn_ids))
