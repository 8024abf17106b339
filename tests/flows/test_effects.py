"""Driving flows: results, errors, concurrency, events, closing; the same in both worlds."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from scripted import FakeBackend, WordEmbedder

from memlora_plugins.errors import BackendUnavailableError
from memlora_plugins.flows.effects import (
    Call,
    Complete,
    Embed,
    Emit,
    Finished,
    Flow,
    Together,
    adrive,
    aevents,
    drive,
    events,
)
from memlora_plugins.serving.base import Request
from memlora_plugins.types import Token


class Parts:
    def __init__(self, backend: FakeBackend | None = None) -> None:
        self.backend: Any = backend or FakeBackend(generation=lambda request: "one two three")
        self.embedder: Any = WordEmbedder()


REQUEST = Request("generation", [{"role": "user", "content": "hi"}])


async def both(make: Any, parts: Parts) -> Any:
    """The flow's result, checked to be the same driven synchronously and asynchronously."""
    sync, asynchronous = drive(make(), parts), await adrive(make(), parts)
    assert sync == asynchronous
    return sync


def value(result: Any) -> Call[Any]:
    async def later() -> Any:
        await asyncio.sleep(0)
        return result

    return Call(lambda: result, later)


def failing(error: Exception) -> Call[Any]:
    def now() -> Any:
        raise error

    async def later() -> Any:
        raise error

    return Call(now, later)


async def test_a_flow_gets_what_it_yields_for() -> None:
    def flow() -> Flow[tuple[str, int, int]]:
        completion = yield from Complete(REQUEST)
        vectors = yield from Embed(["a", "b"])
        number = yield from value(7)
        return completion.text, len(vectors), number

    assert await both(flow, Parts()) == ("one two three", 2, 7)


async def test_errors_are_raised_where_the_flow_asked() -> None:
    def flow() -> Flow[str]:
        try:
            yield from failing(BackendUnavailableError("down"))
        except BackendUnavailableError as error:
            return f"handled {error}"
        return "not raised"

    assert await both(flow, Parts()) == "handled down"


async def test_an_unhandled_error_leaves_the_driver() -> None:
    def flow() -> Flow[None]:
        yield from failing(BackendUnavailableError("down"))

    with pytest.raises(BackendUnavailableError):
        drive(flow(), Parts())
    with pytest.raises(BackendUnavailableError):
        await adrive(flow(), Parts())


async def test_together_keeps_order_and_runs_flows_too() -> None:
    def inner(number: int) -> Flow[int]:
        yield from Emit("lost inside together")
        return (yield from value(number)) * 10

    def flow() -> Flow[list[Any]]:
        return (yield from Together([value(1), inner(2), value(3), Emit("nobody listens")]))

    def none() -> Flow[list[Any]]:
        return (yield from Together([]))

    assert await both(flow, Parts()) == [1, 20, 3, None]
    assert await both(none, Parts()) == []


async def test_together_is_concurrent() -> None:
    barrier = threading.Barrier(3, timeout=5)
    gate, waiting = asyncio.Event(), 0

    async def meet() -> str:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            gate.set()
        await asyncio.wait_for(gate.wait(), 5)
        return "met"

    def meeting() -> str:
        barrier.wait()
        return "met"

    def flow() -> Flow[list[Any]]:
        return (yield from Together([Call(meeting, meet)] * 3))

    assert await both(flow, Parts()) == ["met"] * 3


async def test_together_raises_the_first_error_after_the_siblings_settled() -> None:
    settled: list[str] = []

    def slow() -> None:
        time.sleep(0.05)
        settled.append("sync")

    async def aslow() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            settled.append("cancelled")
            raise

    def flow() -> Flow[None]:
        yield from Together([Call(slow, aslow), failing(BackendUnavailableError("down"))])

    with pytest.raises(BackendUnavailableError):
        drive(flow(), Parts())
    assert settled == ["sync"]
    with pytest.raises(BackendUnavailableError):
        await adrive(flow(), Parts())
    assert settled == ["sync", "cancelled"]


def streaming() -> Flow[str]:
    yield from Emit("start")
    completion = yield from Complete(REQUEST, stream=True)
    yield from Emit("end")
    return completion.text


async def test_events_and_tokens_arrive_in_order() -> None:
    expected = ["start", Token("one "), Token("two "), Token("three"), "end"]
    seen: list[Any] = []

    def listen() -> Any:
        result = yield from events(streaming(), Parts())
        seen.append(result)

    assert list(listen()) == expected
    assert seen == ["one two three"]
    seen = [item async for item in aevents(streaming(), Parts())]
    assert seen == [*expected, Finished("one two three")]
    assert await both(streaming, Parts()) == "one two three"


async def test_closing_the_driver_closes_the_flow() -> None:
    closed: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield from Emit("one")
            yield from Emit("two")
        finally:
            closed.append("closed")

    stepper = events(flow(), Parts())
    assert next(stepper) == "one"
    stepper.close()
    assert closed == ["closed"]
    items = aevents(flow(), Parts())
    assert await anext(items) == "one"
    await items.aclose()
    assert closed == ["closed", "closed"]


async def test_cancellation_reaches_the_flow() -> None:
    seen: list[str] = []

    async def forever() -> None:
        await asyncio.sleep(30)

    def flow() -> Flow[None]:
        try:
            yield from Call(lambda: None, forever)
        finally:
            seen.append("released")

    task = asyncio.create_task(adrive(flow(), Parts()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["released"]


async def test_something_that_is_no_effect_is_refused() -> None:
    def flow() -> Flow[None]:
        yield "not an effect"

    with pytest.raises(TypeError, match="not an effect"):
        drive(flow(), Parts())
    with pytest.raises(TypeError, match="not an effect"):
        await adrive(flow(), Parts())


def test_a_backend_stream_without_its_completion_is_an_error() -> None:
    class Broken(FakeBackend):
        def stream(self, request: Request) -> Any:
            yield "half"

    stepper = events(streaming(), Parts(Broken()))
    assert [next(stepper), next(stepper)] == ["start", Token("half")]
    with pytest.raises(RuntimeError, match="Completion"):
        next(stepper)


async def test_a_backend_stream_without_its_completion_is_an_error_asynchronously_too() -> None:
    class Broken(FakeBackend):
        async def astream(self, request: Request) -> Any:
            yield "half"

    with pytest.raises(RuntimeError, match="Completion"):
        [item async for item in aevents(streaming(), Parts(Broken()))]


async def test_leaving_a_stream_early_ends_the_request_at_once() -> None:
    ended: list[str] = []

    class Endless(FakeBackend):
        async def astream(self, request: Request) -> Any:
            try:
                while True:
                    yield "more "
            finally:
                ended.append("ended")

    items = aevents(streaming(), Parts(Endless()))
    assert [await anext(items), await anext(items)] == ["start", Token("more ")]
    await items.aclose()
    assert ended == ["ended"]


async def test_a_sibling_that_cancels_itself_is_no_result() -> None:
    async def gone() -> None:
        raise asyncio.CancelledError

    def flow() -> Flow[Any]:
        return (yield from Together([value(1), Call(lambda: None, gone)]))

    with pytest.raises(asyncio.CancelledError):
        await adrive(flow(), Parts())
