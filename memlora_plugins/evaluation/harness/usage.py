"""What every operation costs: calls, tokens in and out, seconds. The paper's tables A6 and A7 are made of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from ...serving.base import Backend, Completion, Expert, PromptStyle, Request
    from ...training.calls import Call, CallLog


class ExpertUsage(BaseModel):
    """The work of one expert. `seconds` are those of its calls, added up: of calls that ran together, each counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: ExpertUsage) -> ExpertUsage:
        return ExpertUsage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            seconds=self.seconds + other.seconds,
        )

    def per_call(self) -> tuple[float, float, float]:
        """Mean input tokens, output tokens and seconds of a call; zeros without any."""
        calls = max(1, self.calls)
        return self.input_tokens / calls, self.output_tokens / calls, self.seconds / calls


UsageByExpert = dict[str, ExpertUsage]


def total(usages: Iterable[Mapping[str, ExpertUsage]]) -> UsageByExpert:
    """All of it, by expert."""
    summed: UsageByExpert = {}
    for usage in usages:
        for expert, spent in usage.items():
            summed[expert] = summed.get(expert, ExpertUsage()) + spent
    return summed


_here: ContextVar[UsageByExpert | None] = ContextVar("memlora_usage", default=None)


@contextmanager
def usage_here() -> Iterator[UsageByExpert]:
    """What the calls cost that a `CountedBackend` answers within the block, also those of tasks begun in it."""
    spent: UsageByExpert = {}
    token = _here.set(spent)
    try:
        yield spent
    finally:
        _here.reset(token)


class CallRecord:
    """Calls that were made before, in `log`, and are not made again; those that are new are kept before they are used.

    `who` says what answers as an expert: base model and adapter. Calls of one content to one of these are one call.
    """

    def __init__(self, log: CallLog, who: Callable[[str], str]) -> None:
        self._log = log
        self._who = who
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ask(self, request: Request, make: Callable[[], Awaitable[Call]]) -> Call:
        """The call on record, or the one that `make` makes.

        Raises:
            DatasetError: the record cannot be written.
        """
        from ...training.calls import call_key

        key = call_key(request, self._who(request.expert))
        async with self._asking.setdefault(key, asyncio.Lock()):  # one call, however many ask the same at once
            call = self._log.get(key)
            if call is None:
                call = await make()
                self._log.add(key, request, call)
            return call


class CountedBackend:
    """`backend`, with its answered calls counted in `usage`, by expert. Closing it closes `backend`.

    At most `concurrency` asynchronous calls are under way at once; time spent waiting for a turn is not counted. With a
    `record`, asynchronous calls that it holds are answered and counted from it; streamed ones are not recorded. Around
    another one, both have their own `usage`, and `usage_here` counts a call once.
    """

    def __init__(self, backend: Backend, *, concurrency: int | None = None, record: CallRecord | None = None) -> None:
        self._backend = backend
        self._around = isinstance(backend, CountedBackend)  # which tells `usage_here` of the calls that reach it
        self._gate: AbstractAsyncContextManager[None] = (
            nullcontext() if concurrency is None else asyncio.Semaphore(concurrency)
        )
        self._record = record
        self._lock = threading.Lock()
        self.usage: UsageByExpert = {}

    def prompt_style(self, expert: Expert) -> PromptStyle:
        return self._backend.prompt_style(expert)

    def complete(self, request: Request) -> Completion:
        began = time.perf_counter()
        return self._counted(request, self._backend.complete(request), time.perf_counter() - began)

    async def acomplete(self, request: Request) -> Completion:
        if self._record is None:
            call, made = await self._make(request), True
        else:
            made = False

            async def make() -> Call:
                nonlocal made
                made = True
                return await self._make(request)

            call = await self._record.ask(request, make)
        return self._counted(request, call.completion, call.seconds, made=made)

    def stream(self, request: Request) -> Iterator[str | Completion]:
        began = time.perf_counter()
        for piece in self._backend.stream(request):
            yield piece if isinstance(piece, str) else self._counted(request, piece, time.perf_counter() - began)

    async def astream(self, request: Request) -> AsyncIterator[str | Completion]:
        async with self._gate:
            began = time.perf_counter()
            async for piece in self._backend.astream(request):
                yield piece if isinstance(piece, str) else self._counted(request, piece, time.perf_counter() - began)

    def describe(self) -> str:
        return self._backend.describe()

    def close(self) -> None:
        self._backend.close()

    async def aclose(self) -> None:
        await self._backend.aclose()

    async def _make(self, request: Request) -> Call:
        from ...training.calls import Call

        async with self._gate:
            began = time.perf_counter()
            said = await self._backend.acomplete(request)
            return Call(said, time.perf_counter() - began)

    def _counted(self, request: Request, completion: Completion, seconds: float, *, made: bool = True) -> Completion:
        spent = ExpertUsage(
            calls=completion.usage.calls,
            input_tokens=completion.usage.input_tokens,
            output_tokens=completion.usage.output_tokens,
            seconds=seconds,
        )
        here = None if self._around and made else _here.get()
        with self._lock:
            for counts in (self.usage,) if here is None else (self.usage, here):
                counts[request.expert] = counts.get(request.expert, ExpertUsage()) + spent
        return completion
