"""A memory over the real embedded store, with a fake model: what stands between « and » in a message is a fact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flaky_store import BOB, FlakyStore
from scripted import FakeBackend, WordEmbedder, decides, says, user_line

from memlora_plugins import Memory, Message, Scope
from memlora_plugins.serving.base import Request


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
