"""Tasks of an event loop act one after the other, with the loop's other work in between."""

from __future__ import annotations

import asyncio

import pytest

from memlora_plugins.store.turnstile import Turnstile


async def passes(done: asyncio.Event, log: list[str]) -> None:
    """Writes down each pass of the loop."""
    while not done.is_set():
        log.append("|")
        await asyncio.sleep(0)


async def test_one_acts_in_each_pass_in_order() -> None:
    turnstile, done, log = Turnstile(), asyncio.Event(), list[str]()
    ticking = asyncio.create_task(passes(done, log))
    await asyncio.gather(*(turnstile.act(lambda name=name: log.append(name)) for name in "abcde"))  # type: ignore[misc]
    done.set()
    await ticking
    assert [entry for entry in log if entry != "|"] == list("abcde")
    assert all(entry == "|" for entry, before in zip(log[1:], log, strict=False) if before != "|")


async def test_a_failure_lets_the_next_one_through() -> None:
    turnstile = Turnstile()
    results = await asyncio.gather(turnstile.act(lambda: 1 // 0), turnstile.act(lambda: 2), return_exceptions=True)
    assert isinstance(results[0], ZeroDivisionError)
    assert results[1] == 2


@pytest.mark.parametrize("passed", [0, 1, 2])
async def test_giving_up_lets_the_next_one_through(passed: int) -> None:
    turnstile, acted = Turnstile(), list[int]()
    tasks = [asyncio.create_task(turnstile.act(lambda n=n: acted.append(n))) for n in range(4)]  # type: ignore[misc]
    for _ in range(passed):
        await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert {0, 3} <= set(acted)
    assert await asyncio.wait_for(turnstile.act(lambda: "on it goes"), 5) == "on it goes"


def test_each_loop_has_its_own_turns() -> None:
    turnstile = Turnstile()
    for number in range(3):
        assert asyncio.run(turnstile.act(lambda number=number: number)) == number  # type: ignore[misc]
