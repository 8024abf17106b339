"""What a memory costs an agent: time per turn, and how long it holds the event loop. The same for every framework."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filled_memory import RandomEmbedder, chatter, fill
from scripted import FakeBackend, decides, says
from timed import report

from memlora_plugins import EdgeFactStore, Memory

USERS, TURNS_EACH = 10, 1000
AGENTS = 50
TURN_BAR, STALL_BAR = 10, 25
"""Milliseconds that a memory may add to a turn, and to the longest stall."""
_ROUNDS, _WARM_UP = 110, 10
_PAUSE = 0.1  # nobody answers before what they said last is distilled
_KINDS = ("with", "without")


def make_memory(folder: Path, embedder: Any) -> Memory:
    experts = {"extraction": lambda request: says(), "update": lambda request: decides()}
    return Memory(backend=FakeBackend(0.05, **experts), store=EdgeFactStore(folder), embedder=embedder)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    """10,000 turns, embedded at no cost."""
    with make_memory(tmp_path_factory.mktemp("10k"), RandomEmbedder()) as memory:
        fill(memory, chatter(7), users=USERS, turns_each=TURNS_EACH)
        memory.flush()
        yield memory


def added_to_a_turn(benchmark: Any, agent: str, turn: Callable[[str, bool], Awaitable[object]]) -> float:
    """What a memory adds to a turn at the median, in ms. `turn` has an agent answer, `with` memory or `without`, in a
    new thread or in one that goes on.
    """
    seconds: dict[str, list[float]] = {kind: [] for kind in _KINDS}

    async def turns() -> None:
        for number in range(_ROUNDS):
            for kind in _KINDS:
                await asyncio.sleep(_PAUSE)
                start = time.perf_counter()
                await turn(kind, number % 2 == 0)
                seconds[kind].append(time.perf_counter() - start)

    benchmark.pedantic(lambda: asyncio.run(turns()), rounds=1)

    def added(first: int, step: int = 1) -> float:
        medians = {kind: statistics.median(seconds[kind][first::step]) for kind in _KINDS}
        return (medians["with"] - medians["without"]) * 1000

    figures = {"all": added(_WARM_UP), "new": added(_WARM_UP, 2), "on": added(_WARM_UP + 1, 2)}
    report(
        benchmark,
        f"a turn of {agent}, {USERS * TURNS_EACH:,} points, embedding excluded: what the memory adds at p50",
        f"{figures['all']:.1f} ms",
        f"≤ {TURN_BAR} ms",
        without_ms_p50=round(statistics.median(seconds["without"]) * 1000, 2),
        **{f"overhead_ms_p50_{name}": round(figure, 2) for name, figure in figures.items()},
    )
    return figures["all"]


def added_to_stalls(
    benchmark: Any, agents: str, memory: Memory, run: Callable[[str], Iterable[Awaitable[Any]]]
) -> float:
    """By how many ms longer 50 agents at once hold their loop with a memory, median of 5. `run` starts them."""
    stalls: dict[str, list[float]] = {kind: [] for kind in _KINDS}

    async def runs() -> None:
        for _ in range(6):
            for kind in _KINDS:
                stalls[kind].append(await _longest_stall(run(kind)))
                await memory.aio.flush()  # what is distilled in the background is not to slow the next ones down

    fill(memory, chatter(7), users=USERS, turns_each=20)
    benchmark.pedantic(lambda: asyncio.run(runs()), rounds=1)
    medians = {kind: statistics.median(stalls[kind][1:]) for kind in _KINDS}
    report(
        benchmark,
        f"{AGENTS} {agents} on one event loop: longest stall, with the memory / without",
        f"{medians['with']:.0f} / {medians['without']:.0f} ms",
        f"at most {STALL_BAR} ms more",
    )
    return medians["with"] - medians["without"]


async def _longest_stall(running: Iterable[Awaitable[Any]]) -> float:
    """The longest time, in ms, for which the loop did nothing else while all of these went on."""
    longest, done = 0.0, False

    async def tick() -> None:
        nonlocal longest
        before = time.perf_counter()
        while not done:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*running)
    done = True
    await ticking
    return longest * 1000
