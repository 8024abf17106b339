"""What a memory costs an agent of LangChain: time per turn, and how long it holds the event loop."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from agent_cost import AGENTS, STALL_BAR, TURN_BAR, USERS, added_to_a_turn, added_to_stalls, make_memory, memory
from brain import ScriptedChatModel
from filled_memory import RandomEmbedder, chatter
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from timed import TIMED

from langchain_memlora import MemLoRAMiddleware
from memlora_plugins import Memory, SentenceTransformerEmbedder

__all__ = ["memory"]
pytestmark = [*TIMED, pytest.mark.timeout(900)]


class Idle(AgentMiddleware):
    """Has the hooks of a memory and does nothing in them: what LangGraph takes for that is not a memory's."""

    def before_agent(self, state: Any, runtime: Any) -> None: ...

    async def abefore_agent(self, state: Any, runtime: Any) -> None: ...

    def after_agent(self, state: Any, runtime: Any) -> None: ...

    async def aafter_agent(self, state: Any, runtime: Any) -> None: ...


def _agent(*middleware: AgentMiddleware) -> Any:
    return create_agent(ScriptedChatModel(script=lambda messages: "I see."), middleware=middleware)


def _turn(number: int, lines: Iterator[str], *, new: bool = True) -> tuple[Any, Any]:
    """What an agent is run with: in a new thread, or in one that goes on."""
    thread = str(uuid4()) if new else "the same"
    config = {"configurable": {"user_id": f"user-{number % USERS}", "thread_id": thread}}
    return {"messages": [("user", next(lines))]}, config


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_turn_of_an_agent_at_10k_points(benchmark: Any, memory: Memory, way: str) -> None:
    lines, numbers = chatter(8), itertools.count()
    agents = {"with": _agent(MemLoRAMiddleware(memory=memory)), "without": _agent(Idle())}

    async def turn(kind: str, new: bool) -> None:
        given, config = _turn(next(numbers), lines, new=new)
        if way == "invoke":
            agents[kind].invoke(given, config)
        else:
            await agents[kind].ainvoke(given, config)

    assert added_to_a_turn(benchmark, f"a LangChain agent, by `{way}`", turn) <= TURN_BAR


@pytest.mark.parametrize("embedder", [RandomEmbedder, SentenceTransformerEmbedder])
def test_fifty_agents_on_one_event_loop(benchmark: Any, tmp_path: Path, embedder: Any) -> None:
    lines, numbers = chatter(9), itertools.count()
    with make_memory(tmp_path, embedder()) as memory:
        agents = {"with": _agent(MemLoRAMiddleware(memory=memory)), "without": _agent()}

        def run(kind: str) -> Iterable[Awaitable[Any]]:
            return [agents[kind].ainvoke(*_turn(next(numbers), lines)) for _ in range(AGENTS)]

        named = f"LangChain agents ({embedder.__name__})"
        assert added_to_stalls(benchmark, named, memory, run) <= STALL_BAR
