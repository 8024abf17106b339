"""What the tests of the integrations have in common: two people, a store that can be out of reach, and a memory over
the real embedded store with a fake model, for which what stands between « and » in a message is a fact.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import FakeBackend, WordEmbedder, decides, says, user_line

from memlora_plugins import EdgeFactStore, Memory, Message, Scope, StoreUnavailableError
from memlora_plugins.flows.effects import Call, Flow
from memlora_plugins.serving.base import Request

ANA, BOB = Scope("ana"), Scope("bob")


class FlakyStore(EdgeFactStore):
    """The embedded store, which is out of reach while `down`, and says so after a moment: what a server can do, and a
    folder cannot.
    """

    down = False

    def search(self, *args: Any, **kwargs: Any) -> Any:
        return self._if_up(super().search(*args, **kwargs))

    def turns(self, *args: Any, **kwargs: Any) -> Any:
        return self._if_up(super().turns(*args, **kwargs))

    def put_turns(self, *args: Any, **kwargs: Any) -> Any:
        return self._if_up(super().put_turns(*args, **kwargs))

    def _if_up(self, flow: Flow[Any]) -> Flow[Any]:
        if self.down:
            flow.close()
            yield from Call(lambda: time.sleep(0.01), lambda: asyncio.sleep(0.01))
            raise StoreUnavailableError("The Qdrant server does not answer.")
        return (yield from flow)


def facts_of(request: Request) -> str:
    shown = user_line(request)
    return says(*(part.split("»")[0] for part in shown.split("«")[1:]))


@pytest.fixture
def store(tmp_path: Path) -> FlakyStore:
    return FlakyStore(tmp_path / "store")


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(extraction=facts_of, update=lambda request: decides(), generation=lambda request: "?")


@pytest.fixture
def memory(store: FlakyStore, backend: FakeBackend) -> Iterator[Memory]:
    with Memory(backend=backend, store=store, embedder=WordEmbedder()) as memory:
        yield memory


@pytest.fixture
def told(memory: Memory) -> Memory:
    """A memory that was told something by two people."""
    memory.add([Message("user", "I moved. «Ana lives in Porto»", id="m1")], scope=Scope("ana", session_id="first"))
    memory.add([Message("user", "I play. «Ana plays the cello»", id="m2")], scope=Scope("ana", session_id="first"))
    memory.add([Message("user", "I moved. «Bob lives in Rome»", id="m3")], scope=BOB)
    return memory
