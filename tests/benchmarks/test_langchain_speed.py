"""What a memory costs an agent of LangChain: time per turn, and how long it holds the event loop."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from brain import ScriptedChatModel
from filled_memory import RandomEmbedder, chatter, fill
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from scripted import FakeBackend, decides, says
from stalls import longest_stall
from timed import TIMED

from langchain_memlora import MemLoRAMiddleware
from memlora_plugins import EdgeFactStore, Memory, SentenceTransformerEmbedder

pytestmark = [*TIMED, pytest.mark.timeout(900)]

USERS, TURNS_EACH = 10, 1000
ROUNDS = 110
AGENTS = 50


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    with _memory(tmp_path_factory.mktemp("10k"), RandomEmbedder()) as memory:
        fill(memory, chatter(7), users=USERS, turns_each=TURNS_EACH)
        yield memory


def _memory(folder: Path, embedder: Any) -> Memory:
    experts = {"extraction": lambda request: says(), "update": lambda request: decides()}
    return Memory(backend=FakeBackend(0.05, **experts), store=EdgeFactStore(folder), embedder=embedder)


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
    seconds: dict[str, list[float]] = {"with": [], "without": []}

    async def turn(agent: Any, new: bool) -> float:
        given, config = _turn(next(numbers), lines, new=new)
        start = time.perf_counter()
        if way == "invoke":
            agent.invoke(given, config)
        else:
            await agent.ainvoke(given, config)
        return time.perf_counter() - start

    async def turns() -> None:
        for number in range(ROUNDS):
            for kind, agent in agents.items():
                await asyncio.sleep(0.1)  # nobody answers before what they said last is distilled
                seconds[kind].append(await turn(agent, new=number % 2 == 0))

    memory.flush()
    benchmark.pedantic(lambda: asyncio.run(turns()), rounds=1)

    def overhead(turns: slice) -> float:
        """What a memory adds to a turn at the median, in ms."""
        return (statistics.median(seconds["with"][turns]) - statistics.median(seconds["without"][turns])) * 1000

    figures = {
        "all": overhead(slice(10, None)),
        "new": overhead(slice(10, None, 2)),
        "on": overhead(slice(11, None, 2)),
    }
    without = statistics.median(seconds["without"]) * 1000
    benchmark.extra_info |= {f"overhead_ms_p50_{name}": round(figure, 2) for name, figure in figures.items()}
    benchmark.extra_info |= {"without_ms_p50": round(without, 2)}
    assert figures["all"] <= 10


@pytest.mark.parametrize("embedder", [RandomEmbedder, SentenceTransformerEmbedder])
def test_fifty_agents_on_one_event_loop(benchmark: Any, tmp_path: Path, embedder: Any) -> None:
    lines, numbers = chatter(9), itertools.count()

    with _memory(tmp_path, embedder()) as memory:
        fill(memory, chatter(7), users=USERS, turns_each=20)
        agents = {"with": _agent(MemLoRAMiddleware(memory=memory)), "without": _agent()}
        stalls: dict[str, list[float]] = {"with": [], "without": []}

        async def runs() -> None:
            for _ in range(6):
                for kind, agent in agents.items():
                    running = (agent.ainvoke(*_turn(next(numbers), lines)) for _ in range(AGENTS))
                    stalls[kind].append(await longest_stall(running))
                await memory.aio.flush()

        benchmark.pedantic(lambda: asyncio.run(runs()), rounds=1)
    with_memory, without = (statistics.median(stalls[kind][1:]) for kind in ("with", "without"))
    benchmark.extra_info |= {"stall_ms": round(with_memory, 1), "without_ms": round(without, 1)}
    assert with_memory - without <= 25
