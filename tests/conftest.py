"""Fixtures shared by all tests: the tiny model, a fake model server, and one real vLLM server for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_server import FakeModelServer
from servers import real_vllm
from tiny_model import TinyModel, make_tiny_model

from memlora_plugins import nano
from memlora_plugins.serving.server import VLLMServer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A random-weight base model and its `extraction`, `update` and `generation` adapters, as folders."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def tiny_nano(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> TinyModel:
    """Has the tiny model run where nano would: what runs by default, without nano's weights."""
    monkeypatch.setattr(nano, "BASE", tiny_model.path)
    monkeypatch.setattr(nano, "ADAPTERS", {expert: str(folder) for expert, folder in tiny_model.adapters.items()})
    return tiny_model


@pytest.fixture
def no_nano(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package without nano's weights, whether or not somebody made them here."""
    monkeypatch.setattr(nano, "BASE", tmp_path_factory.mktemp("no-nano"))


@pytest.fixture
def fake_server() -> Iterator[FakeModelServer]:
    """A fake model server on loopback that knows a base model called `base` and no adapters."""
    with FakeModelServer() as server:
        yield server


@pytest.fixture(scope="session")
def vllm_server(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """The real vLLM server of this test run, over `tiny_model` with its three adapters; see `servers.real_vllm`."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with real_vllm(tiny_model.path, tiny_model.adapters, name="tiny", log_file=log) as server:
        yield server


@pytest.fixture(scope="module")
def exact_vllm_server(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """Another one over `tiny_model`, in float32: for what has to be the same on the server and in process."""
    log = tmp_path_factory.mktemp("exact-vllm") / "server.log"
    with real_vllm(tiny_model.path, tiny_model.adapters, name="tiny", log_file=log, exact=True) as server:
        yield server
