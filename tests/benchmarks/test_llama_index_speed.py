"""What a memory costs an agent of LlamaIndex: time per turn with a tool, and how long it holds the event loop."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from filled_memory import RandomEmbedder, chatter, fill
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import BaseMemory, ChatMemoryBuffer
from scripted import FakeBackend, decides, says
from stalls import longest_stall
from timed import TIMED

from llama_index.memory.memlora import MemLoRAMemory
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


def _remembering(memory: Memory, number: int) -> BaseMemory:
    return MemLoRAMemory.from_defaults(memory=memory, user_id=f"user-{number % USERS}", session_id=str(uuid4()))


def test_a_turn_of_an_agent_at_10k_points(benchmark: Any, memory: Memory) -> None:
    lines, numbers, agent = chatter(8), itertools.count(), _agent()
    make: dict[str, Callable[[], BaseMemory]] = {
        "with": lambda: _remembering(memory, next(numbers)),
        "without": ChatMemoryBuffer.from_defaults,
    }
    on = {kind: one() for kind, one in make.items()}
    seconds: dict[str, list[float]] = {"with": [], "without": []}

    async def turn(kind: str, new: bool) -> float:
        start = time.perf_counter()
        await agent.run(next(lines), memory=make[kind]() if new else on[kind])
        return time.perf_counter() - start

    async def turns() -> None:
        for number in range(ROUNDS):
            for kind in make:
                await asyncio.sleep(0.1)  # nobody answers before what they said last is distilled
                seconds[kind].append(await turn(kind, new=number % 2 == 0))

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
    lines, numbers, agent = chatter(9), itertools.count(), _agent()
    with _memory(tmp_path, embedder()) as memory:
        fill(memory, chatter(7), users=USERS, turns_each=20)
        make: dict[str, Callable[[], BaseMemory]] = {
            "with": lambda: _remembering(memory, next(numbers)),
            "without": ChatMemoryBuffer.from_defaults,
        }
        stalls: dict[str, list[float]] = {"with": [], "without": []}

        async def runs() -> None:
            for _ in range(6):
                for kind, one in make.items():
                    running = [agent.run(next(lines), memory=one()) for _ in range(AGENTS)]
                    stalls[kind].append(await longest_stall(running))
                await memory.aio.flush()

        benchmark.pedantic(lambda: asyncio.run(runs()), rounds=1)
    with_memory, without = (statistics.median(stalls[kind][1:]) for kind in ("with", "without"))
    benchmark.extra_info |= {"stall_ms": round(with_memory, 1), "without_ms": round(without, 1)}
    assert with_memory - without <= 25
