"""Running `memlora` in this process, with a word-count embedder in place of MiniLM (but see `real_embedder`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Memlora, NamedWordEmbedder, run_memlora
from fake_server import FakeModelServer

from memlora_plugins.embedding import SentenceTransformerEmbedder


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `MEMLORA_*` variables, a wide terminal without colours, and a folder of its own."""
    for name in [name for name in os.environ if name.startswith("MEMLORA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TQDM_DELAY", "2")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def memlora(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Memlora:
    """Runs a command in this process; see `commands.Memlora`."""
    monkeypatch.setattr("memlora_plugins.embedding.SentenceTransformerEmbedder", NamedWordEmbedder)
    return run_memlora


@pytest.fixture
def real_embedder(memlora: Memlora, monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniLM after all."""
    monkeypatch.setattr("memlora_plugins.embedding.SentenceTransformerEmbedder", SentenceTransformerEmbedder)


@pytest.fixture
def model_server() -> Iterator[FakeModelServer]:
    """A fake model server that serves the three experts under their own names."""
    with FakeModelServer(adapters={"extraction": "/e", "update": "/u", "generation": "/g"}) as server:
        yield server


@pytest.fixture
def with_model(model_server: FakeModelServer) -> list[str]:
    """The options that point at the fake model server."""
    options = ["--base-url", model_server.base_url, "--model", model_server.model]
    for expert in model_server.adapters:
        options += ["--adapter", f"{expert}={expert}"]
    return options
