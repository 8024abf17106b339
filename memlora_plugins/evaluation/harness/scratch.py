"""A memory for a measurement or a dataset: its store is in a folder of the caller's, its embedder is only lent."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...memory import AsyncMemory
from ...store.ranking import DEFAULT

if TYPE_CHECKING:
    from ...embedding import Embedder, Vectors
    from ...serving.base import Backend
    from ...settings import Settings

T = TypeVar("T")


def scratch_memory(backend: Backend, folder: Path, embedder: Embedder, settings: Settings | None) -> AsyncMemory:
    """A memory with an embedded store in `folder`, ranked as `settings` say. Closing it closes `backend` and leaves
    `embedder` open."""
    from ...store.edge import EdgeFactStore

    store = EdgeFactStore(folder, ranking=DEFAULT if settings is None else settings.ranking)
    return AsyncMemory(backend=backend, store=store, embedder=Lent(embedder), settings=settings)


class Lent:
    """An embedder that stays open when the memory closes, and may serve one event loop after another: it is called
    on a thread, because an asynchronous client belongs to the loop that opened it.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.name, self.dimension = embedder.name, embedder.dimension

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._embedder.embed(texts)

    async def aembed(self, texts: Sequence[str]) -> Vectors:
        return await asyncio.to_thread(self.embed, texts)

    def close(self) -> None:
        """Whoever lent it closes it."""

    async def aclose(self) -> None:
        """Whoever lent it closes it."""


async def together(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently; results in order. The first error is raised once the others are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
