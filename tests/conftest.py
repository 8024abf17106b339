"""Fixtures shared by all tests: the tiny model, a fake model server, and one real vLLM server for the whole run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fake_server import FakeModelServer
from tiny_model import TinyModel, make_tiny_model

from memlora_plugins.errors import MissingDependencyError, ServerStartError
from memlora_plugins.serving.server import VLLMServer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A random-weight base model and its `extraction`, `update` and `generation` adapters, as folders."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def fake_server() -> Iterator[FakeModelServer]:
    """A fake model server on loopback that knows a base model called `base` and no adapters."""
    with FakeModelServer() as server:
        yield server


@pytest.fixture(scope="session")
def vllm_server(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """The real vLLM server of this test run, over `tiny_model` with its three adapters under their experts' names.

    Skips where vLLM is not installed or cannot start, unless MEMLORA_REQUIRE_VLLM=1, which makes that a failure.
    """
    try:
        log = tmp_path_factory.mktemp("vllm") / "server.log"
        server = VLLMServer(tiny_model.path, dict(tiny_model.adapters), served_model_name="tiny", log_file=log).start()
    except (MissingDependencyError, ServerStartError) as error:
        if os.environ.get("MEMLORA_REQUIRE_VLLM") == "1":
            raise
        pytest.skip(f"no vLLM server: {error}")
    yield server
    server.stop()
