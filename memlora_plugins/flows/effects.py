"""Flows: logic that yields what it wants done and is handed the result.

A flow is a generator. It never does I/O: it yields an `Effect`, a driver carries the effect out, synchronously
(`drive`) or natively asynchronously (`adrive`), and sends the result back. So every pipeline is written once.

    def remember(turn) -> Flow[list[str]]:
        completion = yield from Complete(request)      # `yield from` keeps the result's type
        vectors = yield from Embed(texts)
        return texts

`Together([a, b])` runs effects concurrently, `Emit(event)` tells whoever listens. Errors of an effect are raised
inside the flow, at its `yield`. Closing the driver closes the flow.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from ..types import Token

if TYPE_CHECKING:
    from ..embedding import Embedder, Vectors  # noqa: F401 (Vectors is named in a string below)
    from ..serving.base import Backend, Completion, Request

T = TypeVar("T")
Flow = Generator["Effect[Any]", Any, T]


class Effect(Generic[T]):
    """Something a flow wants done. `yield from effect` evaluates to the result."""

    def __iter__(self) -> Flow[T]:
        result: T = yield self
        return result


@dataclass(frozen=True, slots=True)
class Complete(Effect["Completion"]):
    """Ask an expert. With `stream`, its text is also emitted piece by piece as `Token` events."""

    request: Request
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Embed(Effect["Vectors"]):
    """Embed texts: a float32 array of shape (len(texts), dimension), unit length."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Call(Effect[T]):
    """Any other I/O, given once for each world: how stores and Executives reach their clients."""

    sync: Callable[[], T]
    asynchronous: Callable[[], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Emit(Effect[None]):
    """Tell whoever listens."""

    event: Any


@dataclass(frozen=True, slots=True)
class Together(Effect[list[Any]]):
    """Run effects, or whole flows, concurrently; results in order.

    The first error is raised once its siblings have settled or been cancelled. Events of flows run like this are lost.
    The synchronous driver runs so many at once as `threads` says; in the asynchronous one all are under way.
    """

    effects: Sequence[Effect[Any] | Flow[Any]]
    threads: int = 16


class IO(Protocol):
    """What a driver needs to carry effects out. Either part may be missing where no flow asks for it."""

    @property
    def backend(self) -> Backend: ...
    @property
    def embedder(self) -> Embedder: ...


CALLS_ONLY = cast(IO, None)
"""The `io` of flows that yield nothing but `Call` and `Emit`."""

_NO_COMPLETION = "a backend's stream ended without its Completion"


def drive(flow: Flow[T], io: IO) -> T:
    """Run `flow` to its result. Events are dropped; use `events` to see them."""
    stepper = events(flow, io, streaming=False)
    while True:
        try:
            next(stepper)
        except StopIteration as stop:
            result: T = stop.value
            return result


def events(flow: Flow[T], io: IO, *, streaming: bool = True) -> Generator[Any, None, T]:
    """Run `flow`, yielding its events (and the tokens of streamed replies); the generator returns the result."""
    try:
        effect = next(flow)
        while True:
            try:
                if isinstance(effect, Emit):
                    yield effect.event
                    result = None
                elif isinstance(effect, Complete) and effect.stream and streaming:
                    result = yield from _stream(effect, io)
                else:
                    result = _perform(effect, io)
            except Exception as error:  # noqa: BLE001 (handed to the flow, which handles it or lets it out)
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        flow.close()


async def adrive(flow: Flow[T], io: IO) -> T:
    """`drive`, asynchronously."""
    async with aclosing(aevents(flow, io, streaming=False)) as items:
        finished = [item async for item in items if isinstance(item, Finished)]
    result: T = finished[0].result
    return result


@dataclass(frozen=True, slots=True)
class Finished:
    """The last item of `aevents`: async generators cannot return a value."""

    result: Any


async def aevents(flow: Flow[Any], io: IO, *, streaming: bool = True) -> AsyncGenerator[Any, None]:
    """`events`, asynchronously; the last item is `Finished(result)`."""
    try:
        effect = next(flow)
        while True:
            try:
                if isinstance(effect, Emit):
                    yield effect.event
                    result = None
                elif isinstance(effect, Complete) and effect.stream and streaming:
                    result = None
                    shown = _Shown()
                    async with _closing(io.backend.astream(effect.request)) as pieces:
                        async for piece in pieces:
                            if not isinstance(piece, str):
                                result = piece
                            elif text := shown.next(piece):
                                yield Token(text)
                    if result is None:
                        raise RuntimeError(_NO_COMPLETION)
                else:
                    result = await _aperform(effect, io)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (as above)
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as stop:
        yield Finished(stop.value)
    finally:
        flow.close()


@asynccontextmanager
async def _closing(pieces: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T]]:
    """A listener who leaves early ends the request at once, not when the garbage is collected."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


class _Shown:
    """The pieces of a reply as they are shown: without the space that many models begin with."""

    def __init__(self) -> None:
        self._begun = False

    def next(self, piece: str) -> str:
        text = piece if self._begun else piece.lstrip()
        self._begun = self._begun or bool(text)
        return text


def _stream(effect: Complete, io: IO) -> Generator[Token, None, Completion]:
    shown = _Shown()
    for piece in io.backend.stream(effect.request):
        if not isinstance(piece, str):
            return piece
        if text := shown.next(piece):
            yield Token(text)
    raise RuntimeError(_NO_COMPLETION)


def _perform(effect: Effect[Any] | Flow[Any], io: IO) -> Any:
    match effect:
        case Complete():
            return io.backend.complete(effect.request)
        case Embed():
            return io.embedder.embed(effect.texts)
        case Call():
            return effect.sync()
        case Together():
            return _together(effect.effects, io, effect.threads)
        case Emit():
            return None
        case Generator():
            return drive(effect, io)
    raise TypeError(f"a flow yielded {effect!r}, which is not an effect this driver knows here")


async def _aperform(effect: Effect[Any] | Flow[Any], io: IO) -> Any:
    match effect:
        case Complete():
            return await io.backend.acomplete(effect.request)
        case Embed():
            return await io.embedder.aembed(effect.texts)
        case Call():
            return await effect.asynchronous()
        case Together():
            return await _atogether(effect.effects, io)
        case Emit():
            return None
        case Generator():
            return await adrive(effect, io)
    raise TypeError(f"a flow yielded {effect!r}, which is not an effect this driver knows here")


def _together(effects: Sequence[Effect[Any] | Flow[Any]], io: IO, threads: int) -> list[Any]:
    if len(effects) < 2:
        return [_perform(effect, io) for effect in effects]
    with ThreadPoolExecutor(min(len(effects), threads), "memlora-together") as pool:
        context = contextvars.copy_context
        futures = [pool.submit(context().run, _perform, effect, io) for effect in effects]
        _, waiting = wait(futures, return_when="FIRST_EXCEPTION")
        for future in waiting:
            future.cancel()
    for future in futures:  # everything has settled here; the first error in order wins
        if not future.cancelled() and (error := future.exception()):
            raise error
    return [future.result() for future in futures]


async def _atogether(effects: Sequence[Effect[Any] | Flow[Any]], io: IO) -> list[Any]:
    tasks = [asyncio.ensure_future(_aperform(effect, io)) for effect in effects]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        settled = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [outcome for outcome in settled if isinstance(outcome, BaseException)]
    for error in sorted(failed, key=lambda one: isinstance(one, asyncio.CancelledError)):  # a cause before its victims
        raise error
    return list(settled)
