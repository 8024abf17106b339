"""What every operation costs: calls, tokens in and out, seconds. The paper's tables A6 and A7 are made of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from ..serving.base import Backend, Completion, Expert, PromptStyle, Request


class ExpertUsage(BaseModel):
    """The work of one expert. `seconds` are those of its calls, added up: of calls that ran together, each counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def per_call(self) -> tuple[float, float, float]:
        """Mean input tokens, output tokens and seconds of a call; zeros without any."""
        calls = max(1, self.calls)
        return self.input_tokens / calls, self.output_tokens / calls, self.seconds / calls


class CountedBackend:
    """`backend`, with its answered calls counted in `usage`, by expert. Closing it closes `backend`.

    At most `concurrency` asynchronous calls are under way at once; time spent waiting for a turn is not counted.
    """

    def __init__(self, backend: Backend, *, concurrency: int | None = None) -> None:
        self._backend = backend
        self._gate = nullcontext() if concurrency is None else asyncio.Semaphore(concurrency)
        self._lock = threading.Lock()
        self.usage: dict[str, ExpertUsage] = {}

    def prompt_style(self, expert: Expert) -> PromptStyle:
        return self._backend.prompt_style(expert)

    def complete(self, request: Request) -> Completion:
        began = time.perf_counter()
        return self._counted(request, self._backend.complete(request), began)

    async def acomplete(self, request: Request) -> Completion:
        async with self._gate:
            began = time.perf_counter()
            return self._counted(request, await self._backend.acomplete(request), began)

    def stream(self, request: Request) -> Iterator[str | Completion]:
        began = time.perf_counter()
        for piece in self._backend.stream(request):
            yield piece if isinstance(piece, str) else self._counted(request, piece, began)

    async def astream(self, request: Request) -> AsyncIterator[str | Completion]:
        async with self._gate:
            began = time.perf_counter()
            async for piece in self._backend.astream(request):
                yield piece if isinstance(piece, str) else self._counted(request, piece, began)

    def describe(self) -> str:
        return self._backend.describe()

    def close(self) -> None:
        self._backend.close()

    async def aclose(self) -> None:
        await self._backend.aclose()

    def _counted(self, request: Request, completion: Completion, began: float) -> Completion:
        seconds = time.perf_counter() - began
        spent = completion.usage
        with self._lock:
            so_far = self.usage.get(request.expert, ExpertUsage())
            self.usage[request.expert] = ExpertUsage(
                calls=so_far.calls + spent.calls,
                input_tokens=so_far.input_tokens + spent.input_tokens,
                output_tokens=so_far.output_tokens + spent.output_tokens,
                seconds=so_far.seconds + seconds,
            )
        return completion
