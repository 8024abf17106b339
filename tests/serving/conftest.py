"""Both worlds: the same test, calling a backend synchronously and asynchronously."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from memlora_plugins.serving.base import Backend, Completion, Request


class World:
    """Calls a backend one way or the other, and closes what it was given."""

    def __init__(self, name: str) -> None:
        self.asynchronous = name == "async"
        self._backends: list[Backend] = []

    def open(self, backend: Backend) -> Backend:
        self._backends.append(backend)
        return backend

    async def complete(self, backend: Backend, request: Request) -> Completion:
        return await backend.acomplete(request) if self.asynchronous else backend.complete(request)

    async def stream(self, backend: Backend, request: Request) -> list[str | Completion]:
        if self.asynchronous:
            return [piece async for piece in backend.astream(request)]
        return list(backend.stream(request))

    async def swap(self, backend: Backend, expert: str, adapter: object) -> str:
        return (
            await backend.aswap_adapter(expert, adapter) if self.asynchronous else backend.swap_adapter(expert, adapter)
        )

    async def close(self) -> None:
        for backend in self._backends:
            await backend.aclose()


@pytest.fixture(params=["sync", "async"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    world = World(request.param)
    yield world
    await world.close()
