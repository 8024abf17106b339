"""Counting what experts cost, by every way of asking."""

from __future__ import annotations

import pytest
from scripted import FakeBackend

from memlora_plugins.errors import BackendError
from memlora_plugins.evaluation.usage import CountedBackend, ExpertUsage
from memlora_plugins.serving.base import Backend, Completion, Request

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
