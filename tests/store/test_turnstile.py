"""Tasks of an event loop act for a share of each pass, with the loop's other work in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from memlora_plugins.store.turnstile import Turnstile


async def passes(done: asyncio.Event, log: list[str]) -> None:
    """Writes down each pass of the loop."""
    while not done.is_set():
        log.append("|")
        await asyncio.sleep(0)


def acting(log: list[Any], name: Any, seconds: float = 0.003) -> Callable[[], None]:
    def act() -> None:
        time.sleep(seconds)
        log.append(name)

    return act


async def test_what_takes_long_is_done_one_by_one_in_order() -> None:
    turnstile, done, log = Turnstile(), asyncio.Event(), list[str]()
    ticking = asyncio.create_task(passes(done, log))
    await asyncio.gather(*(turnstile.act(acting(log, name)) for name in "abcde"))
    done.set()
    await ticking
    assert [entry for entry in log if entry != "|"] == list("abcde")
    assert all(entry == "|" for entry, before in zip(log[1:], log, strict=False) if before != "|")


async def test_what_is_quick_is_done_together() -> None:
    turnstile, done, log = Turnstile(), asyncio.Event(), list[str]()
    ticking = asyncio.create_task(passes(done, log))
    await asyncio.gather(*(turnstile.act(acting(log, name, 0)) for name in "abcde"))
    done.set()
    await ticking
    assert "abcde" in "".join(log)


async def test_a_failure_lets_the_next_one_through() -> None:
    def fail() -> None:
        time.sleep(0.003)
        raise ZeroDivisionError

    turnstile = Turnstile()
    results = await asyncio.gather(turnstile.act(fail), turnstile.act(lambda: 2), return_exceptions=True)
    assert isinstance(results[0], ZeroDivisionError)
    assert results[1] == 2


@pytest.mark.parametrize("passed", [0, 1, 2, 3])
async def test_giving_up_lets_the_next_one_through(passed: int) -> None:
    turnstile, acted = Turnstile(), list[int]()
    tasks = [asyncio.create_task(turnstile.act(acting(acted, number))) for number in range(4)]
    for _ in range(passed):
        await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert {0, 3} <= set(acted)
    assert await asyncio.wait_for(turnstile.act(lambda: "on it goes"), 5) == "on it goes"


@pytest.mark.parametrize("passed", [1, 2])
async def test_a_waiting_one_that_is_closed_lets_the_next_one_through(passed: int) -> None:
    turnstile, acted = Turnstile(), list[int]()
    await turnstile.act(acting(acted, 0))
    closed = turnstile.act(acting(acted, 1))
    closed.send(None)  # it waits
    behind = asyncio.create_task(turnstile.act(acting(acted, 2)))
    for _ in range(passed):
        await asyncio.sleep(0)
    closed.close()
    await asyncio.wait_for(behind, 5)
    assert acted == [0, 2]


def test_each_loop_has_its_own_turns() -> None:
    turnstile, acted = Turnstile(), list[int]()
    for number in range(3):
        asyncio.run(turnstile.act(acting(acted, number)))
    assert acted == [0, 1, 2]
