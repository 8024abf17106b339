"""What the tests of the LlamaIndex integration have in common: a scripted chat model that records what it is shown,
what the instrumentation is told, a `MemLoRAMemory` over the memory of `two_people`, and the parts of a router and of
a sub-question engine that an LLM would be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.prompts.mixin import PromptMixin
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.schema import QueryBundle
from two_people import FlakyStore

from llama_index.memory.memlora import MemLoRAMemory
from memlora_plugins import Memory

Heard = list[list[ChatMessage]]


class Brain:
    """A scripted chat model: it calls `clock` when asked for the time, and acknowledges everything else."""

    def __init__(self) -> None:
        self.heard: Heard = []
        self.failing: Exception | None = None
        self.llm = MockFunctionCallingLLM(response_generator=self._reply, is_chat_model=True)

    def _reply(self, messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        if self.failing:
            raise self.failing
        self.heard.append([message.model_copy(deep=True) for message in messages])
        last = messages[-1]
        if last.role == MessageRole.TOOL:
            return ChatMessage(role="assistant", content=f"It is {last.content}.")
        if "time" in (last.content or "").rpartition("</memlora-memories>")[2]:
            return ChatMessage(role="assistant", blocks=[call("clock")])
        return ChatMessage(role="assistant", content="I see.")

    def agent(self, **more: Any) -> FunctionAgent:
        return FunctionAgent(llm=self.llm, tools=[clock], **{"streaming": False, **more})

    @property
    def shown(self) -> str:
        """The last messages that it was shown, as lines."""
        return "\n".join(f"{message.role.value}: {message.content}" for message in self.heard[-1])


class Told(BaseEventHandler):
    """Collects events."""

    events: list[Any] = []  # noqa: RUF012

    def handle(self, event: Any, **_: Any) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class NoPrompts(PromptMixin):
    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: Any) -> None: ...


class Questions(NoPrompts, BaseQuestionGenerator):
    """Asks each tool what is made of its name."""

    def __init__(self, about: Callable[[str | None], str]) -> None:
        self.about = about

    def generate(self, tools: Sequence[Any], query: QueryBundle) -> list[SubQuestion]:
        return [SubQuestion(sub_question=self.about(tool.name), tool_name=tool.name) for tool in tools]

    async def agenerate(self, tools: Sequence[Any], query: QueryBundle) -> list[SubQuestion]:
        return self.generate(tools, query)


class Chooses(NoPrompts, BaseSelector):
    """Chooses the tools that are named in the query."""

    def _select(self, choices: Sequence[Any], query: QueryBundle) -> SelectorResult:
        named = [index for index, choice in enumerate(choices) if choice.name in query.query_str]
        return SelectorResult(selections=[SingleSelection(index=index, reason="named") for index in named])

    async def _aselect(self, choices: Sequence[Any], query: QueryBundle) -> SelectorResult:
        return self._select(choices, query)


def saying(replies: Sequence[Any], heard: Heard | None = None) -> MockFunctionCallingLLM:
    """An LLM that says one reply after the other (JSON, where it is no text), the last one for ever."""
    left = [reply if isinstance(reply, str) else json.dumps(reply) for reply in replies]

    def script(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        if heard is not None:
            heard.append(list(messages))
        return ChatMessage(left.pop(0) if len(left) > 1 else left[0], role="assistant")

    return MockFunctionCallingLLM(response_generator=script, is_chat_model=True)


def clock() -> str:
    """The time."""
    return "noon"


def call(name: str) -> ToolCallBlock:
    return ToolCallBlock(tool_call_id="1", tool_name=name, tool_kwargs={})


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def reply(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


def texts(messages: Sequence[ChatMessage]) -> list[str | None]:
    return [message.content for message in messages]


@pytest.fixture
def brain() -> Brain:
    return Brain()


@pytest.fixture
def told_events() -> Iterator[Told]:
    dispatcher, handler = get_dispatcher(), Told()
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


@pytest.fixture
def spans() -> Iterator[SimpleSpanHandler]:
    dispatcher, handler = get_dispatcher(), SimpleSpanHandler()
    dispatcher.add_span_handler(handler)
    yield handler
    dispatcher.span_handlers.remove(handler)


@pytest.fixture
def made(memory: Memory) -> Callable[..., MemLoRAMemory]:
    """Makes a memory for LlamaIndex, by default of Ana's conversation on Monday."""
    return lambda session_id="monday", user_id="ana", **more: MemLoRAMemory.from_defaults(
        memory=memory, user_id=user_id, session_id=session_id, **more
    )


Make = Callable[..., MemLoRAMemory]


@pytest.fixture
def searches(memory: Memory, monkeypatch: pytest.MonkeyPatch, store: FlakyStore) -> list[str]:
    """The queries that the store is searched with."""
    asked: list[str] = []
    search = store.search

    def counted(scope: Any, text: str, *more: Any, **named: Any) -> Any:
        asked.append(text)
        return search(scope, text, *more, **named)

    monkeypatch.setattr(store, "search", counted)
    return asked
