"""The stores under test, each behind the same fixture."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient
from store_data import DIMENSION, EMBEDDER, run

from memlora_plugins.store.base import FactStore
from memlora_plugins.store.edge import EdgeFactStore
from memlora_plugins.store.qdrant import QdrantFactStore

Reopen = Callable[..., FactStore]
"""Opens the memory; options are those of the store."""
SERVER = os.environ.get("MEMLORA_TEST_QDRANT_URL")
"""A real Qdrant server, where there is one."""


@pytest.fixture(params=["edge", "memory", *(["server"] if SERVER else [])])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Opens the same memory, each time as a new store."""
    opened: list[FactStore] = []
    make: Reopen
    if request.param == "edge":

        def make(**options: Any) -> FactStore:
            return EdgeFactStore(tmp_path / "memory", **options)
    elif request.param == "memory":
        client = QdrantClient(":memory:")

        def make(**options: Any) -> FactStore:
            return QdrantFactStore(client=client, **options)
    else:
        assert SERVER is not None
        collection = f"memlora-test-{uuid.uuid4().hex}"

        def make(**options: Any) -> FactStore:
            return QdrantFactStore(url=SERVER, collection=collection, **options)

    def reopened(**options: Any) -> FactStore:
        store = make(**options)
        run(store.open(EMBEDDER, DIMENSION))
        opened.append(store)
        return store

    yield reopened
    for store in opened:
        store.close()
    if request.param == "server":
        QdrantClient(SERVER).delete_collection(collection)


@pytest.fixture
def store(reopen: Reopen) -> FactStore:
    """An open, empty store of each kind."""
    return reopen()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeFactStore]:
    """An open, empty Edge store."""
    store = EdgeFactStore(tmp_path / "memory")
    run(store.open(EMBEDDER, DIMENSION))
    yield store
    store.close()
