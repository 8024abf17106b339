"""Counting what experts cost, by every way of asking."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest
from scripted import FakeBackend

from memlora_plugins.errors import BackendError
from memlora_plugins.evaluation.harness.usage import CallRecord, CountedBackend, ExpertUsage, total, usage_here
from memlora_plugins.serving.base import Backend, Completion, Request
from memlora_plugins.training.calls import CallLog

QUESTION = Request("generation", [{"role": "user", "content": "Where?"}])


async def test_every_way_of_asking_is_counted() -> None:
    backend = FakeBackend(delay=0.01, generation=lambda request: "In Lisbon.")
    counted = CountedBackend(backend)
    assert isinstance(counted, Backend)
    assert counted.complete(QUESTION).text == "In Lisbon."
    assert (await counted.acomplete(QUESTION)).text == "In Lisbon."
    pieces = [list(counted.stream(QUESTION)), [piece async for piece in counted.astream(QUESTION)]]
    for heard in pieces:
        assert heard[:-1] == ["In ", "Lisbon."]
        assert isinstance(heard[-1], Completion)
    spent = counted.usage["generation"]
    assert (spent.calls, spent.input_tokens, spent.output_tokens) == (4, 40, 20)
    assert spent.per_call()[:2] == (10.0, 5.0)
    assert spent.seconds >= 0.04
    assert (counted.describe(), counted.prompt_style("generation")) == ("fake backend", "short")
    counted.close()
    assert backend.closed


def test_a_call_that_fails_is_not_counted() -> None:
    counted = CountedBackend(FakeBackend(generation=lambda request: BackendError("no")))
    with pytest.raises(BackendError):
        counted.complete(QUESTION)
    assert counted.usage == {}
    assert ExpertUsage().per_call() == (0.0, 0.0, 0.0)


async def test_what_is_spent_within_a_block_is_told_apart() -> None:
    counted = CountedBackend(FakeBackend(generation=lambda request: "In Lisbon."))

    async def asked(times: int) -> int:
        with usage_here() as spent:
            await asyncio.gather(*(counted.acomplete(QUESTION) for _ in range(times)))
        return spent["generation"].calls

    assert await asyncio.gather(asked(2), asked(3)) == [2, 3]
    await counted.acomplete(QUESTION)
    assert counted.usage["generation"].calls == 6
    assert total([counted.usage, {"update": ExpertUsage(calls=1)}])["update"].calls == 1


async def test_a_call_through_two_counters_is_told_once(tmp_path: Path) -> None:
    inner = CountedBackend(FakeBackend(generation=lambda request: "In Lisbon."))
    with closing(CallLog(tmp_path / "calls.jsonl")) as log:
        outer = CountedBackend(inner, record=CallRecord(log, lambda expert: "base"))
        for _ in range(2):
            with usage_here() as spent:
                await outer.acomplete(QUESTION)
            assert spent["generation"].calls == 1
    assert (inner.usage["generation"].calls, outer.usage["generation"].calls) == (1, 2)


async def test_calls_on_record_are_not_made_again(tmp_path: Path) -> None:
    """By one expert; another one is asked, and what was spent is told as it was then."""
    backend = FakeBackend(delay=0.02, generation=lambda request: "In Lisbon.")
    for who, made in (("base", 1), ("base", 1), ("base + adapter", 2)):
        with closing(CallLog(tmp_path / "calls.jsonl")) as log:
            counted = CountedBackend(backend, concurrency=1, record=CallRecord(log, lambda expert, who=who: who))
            both = await asyncio.gather(counted.acomplete(QUESTION), counted.acomplete(QUESTION))
        assert [said.text for said in both] == ["In Lisbon.", "In Lisbon."]
        assert len(backend.requests) == made
        assert counted.usage["generation"].calls == 2
        assert counted.usage["generation"].seconds >= 0.04
