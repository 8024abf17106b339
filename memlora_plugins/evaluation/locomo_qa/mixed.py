"""A memory of two models: some of its experts are another model's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...serving.base import Backend, Completion, Expert, PromptStyle, Request


class MixedBackend:
    """Every expert is answered by the backend that `instead` names for it, all others by `backend`.

    Closing it closes all of them.
    """

    def __init__(self, backend: Backend, instead: Mapping[str, Backend]) -> None:
        self._backend = backend
        self._instead = dict(instead)

    def prompt_style(self, expert: Expert) -> PromptStyle:
        return self._of(expert).prompt_style(expert)

    def complete(self, request: Request) -> Completion:
        return self._of(request.expert).complete(request)

    async def acomplete(self, request: Request) -> Completion:
        return await self._of(request.expert).acomplete(request)

    def stream(self, request: Request) -> Iterator[str | Completion]:
        return self._of(request.expert).stream(request)

    def astream(self, request: Request) -> AsyncIterator[str | Completion]:
        return self._of(request.expert).astream(request)

    def describe(self) -> str:
        others = (f"{expert} by {backend.describe()}" for expert, backend in self._instead.items())
        return "; ".join([self._backend.describe(), *others])

    def close(self) -> None:
        with ExitStack() as all_of_them:  # whatever fails, the others are closed
            for backend in self._each():
                all_of_them.callback(backend.close)

    async def aclose(self) -> None:
        async with AsyncExitStack() as all_of_them:
            for backend in self._each():
                all_of_them.push_async_callback(backend.aclose)

    def _of(self, expert: str) -> Backend:
        return self._instead.get(expert, self._backend)

    def _each(self) -> list[Backend]:
        return list({id(backend): backend for backend in (self._backend, *self._instead.values())}.values())
