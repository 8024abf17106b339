"""What a memory costs an agent of LlamaIndex: time per turn with a tool, and how long it holds the event loop."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from agent_cost import AGENTS, STALL_BAR, TURN_BAR, USERS, added_to_a_turn, added_to_stalls, make_memory, memory
from filled_memory import RandomEmbedder, chatter
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import BaseMemory, ChatMemoryBuffer
from timed import TIMED

from llama_index.memory.memlora import MemLoRAMemory
from memlora_plugins import Memory, SentenceTransformerEmbedder

__all__ = ["memory"]
pytestmark = [*TIMED, pytest.mark.timeout(900)]


def clock() -> str:
    """The time."""
    return "noon"


def _reply(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
    if messages[-1].role == MessageRole.TOOL:
        return ChatMessage(role="assistant", content="It is noon.")
    call = ToolCallBlock(tool_call_id="1", tool_name="clock", tool_kwargs={})
    return ChatMessage(role="assistant", blocks=[call])


def _agent() -> FunctionAgent:
    llm = MockFunctionCallingLLM(response_generator=_reply, is_chat_model=True)
    return FunctionAgent(llm=llm, tools=[clock], streaming=False)


def _conversations(memory: Memory, numbers: Iterator[int]) -> dict[str, Callable[[], BaseMemory]]:
    def remembered() -> BaseMemory:
        user = f"user-{next(numbers) % USERS}"
        return MemLoRAMemory.from_defaults(memory=memory, user_id=user, session_id=str(uuid4()))

    return {"with": remembered, "without": ChatMemoryBuffer.from_defaults}


def test_a_turn_of_an_agent_at_10k_points(benchmark: Any, memory: Memory) -> None:
    lines, agent, begin = chatter(8), _agent(), _conversations(memory, itertools.count())
    going_on = {kind: one() for kind, one in begin.items()}

    async def turn(kind: str, new: bool) -> None:
        await agent.run(next(lines), memory=begin[kind]() if new else going_on[kind])

    assert added_to_a_turn(benchmark, "a LlamaIndex agent with a tool call", turn) <= TURN_BAR


@pytest.mark.parametrize("embedder", [RandomEmbedder, SentenceTransformerEmbedder])
def test_fifty_agents_on_one_event_loop(benchmark: Any, tmp_path: Path, embedder: Any) -> None:
    lines, agent = chatter(9), _agent()
    with make_memory(tmp_path, embedder()) as memory:
        begin = _conversations(memory, itertools.count())

        def run(kind: str) -> Iterable[Awaitable[Any]]:
            return [agent.run(next(lines), memory=begin[kind]()) for _ in range(AGENTS)]

        named = f"LlamaIndex agents ({embedder.__name__})"
        assert added_to_stalls(benchmark, named, memory, run) <= STALL_BAR
