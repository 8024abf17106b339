"""Turns at a model: who goes next, and that none is lost."""

from __future__ import annotations

import asyncio

import pytest

from memlora_plugins.training.turns import Turns


async def test_the_lowest_rank_goes_next_and_of_equals_who_came_first() -> None:
    turns = Turns(1)
    went: list[str] = []

    async def go(name: str, rank: int) -> None:
        async with turns.turn(rank):
            went.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*(go(name, int(name[1])) for name in ("a1", "b2", "c0", "d1", "e0")))
    assert went == ["a1", "c0", "e0", "d1", "b2"]  # the first found the turn free


async def test_no_turn_is_lost_when_who_waits_or_has_it_goes_away() -> None:
    turns = Turns(1)

    async def hold(seconds: float) -> None:
        async with turns.turn():
            await asyncio.sleep(seconds)

    holder, waiting, given = (asyncio.create_task(hold(60)) for _ in range(3))
    await asyncio.sleep(0)
    waiting.cancel()  # while it waits
    holder.cancel()  # gives the turn to the third …
    await asyncio.sleep(0)
    given.cancel()  # … which may not have noticed yet
    await asyncio.wait((holder, waiting, given))
    await asyncio.wait_for(hold(0), 5)


@pytest.mark.parametrize("size", [1, 3])
async def test_how_busy_the_model_was_counts_while_there_is_enough_to_do(size: int) -> None:
    turns = Turns(size)
    assert turns.occupancy is None

    async def call() -> None:
        async with turns.turn():
            with turns.flight():
                await asyncio.sleep(0.05)

    await asyncio.gather(*(call() for _ in range(4 * size)))
    assert turns.occupancy == pytest.approx(1, abs=0.1)
    if size > 1:
        alone = Turns(size)
        async with alone.turn():
            with alone.flight():
                await asyncio.sleep(0.01)
        assert alone.occupancy is None
