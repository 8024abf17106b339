"""How a plug works through a memory: flows (see `memlora_plugins.flows`), written once for both worlds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import BackendError, EmbeddingError, StoreError
from ..flows.effects import CALLS_ONLY, Call, Flow, adrive, drive
from ..memory import Memory

T = TypeVar("T")

UNAVAILABLE = (StoreError, EmbeddingError, BackendError)
"""What stops a memory and need not stop an agent."""


def run(flow: Flow[T]) -> T:
    """A flow's result, in ordinary code."""
    return drive(flow, CALLS_ONLY)


async def arun(flow: Flow[T]) -> T:
    """A flow's result, on an event loop."""
    return await adrive(flow, CALLS_ONLY)


def through(memory: Memory, action: Callable[[Any], Any]) -> Call[Any]:
    """What `action` does with a door of the memory: with `memory` or, on an event loop, with `memory.aio`."""
    return Call(lambda: action(memory), lambda: action(memory.aio))
