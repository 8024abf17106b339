"""Real model servers for the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from memlora_plugins.errors import MissingDependencyError, ServerStartError
from memlora_plugins.serving.server import VLLMServer


@contextmanager
def real_vllm(
    base: Path, adapters: Mapping[str, str | Path], *, name: str, log_file: Path, exact: bool = False
) -> Iterator[VLLMServer]:
    """A running vLLM server over `base`, served as `name`, with adapters under their experts' names.

    `exact`: it computes in float32, as the backend in process does on a CPU, where vLLM by itself takes bfloat16. Skips
    where vLLM is not installed or cannot start, unless MEMLORA_REQUIRE_VLLM=1, which makes that a failure.
    """
    try:
        more = ["--dtype=float32"] if exact else []
        server = VLLMServer(base, adapters, served_model_name=name, log_file=log_file, extra_args=more).start()
    except (MissingDependencyError, ServerStartError) as error:
        if os.environ.get("MEMLORA_REQUIRE_VLLM") == "1":
            raise
        pytest.skip(f"no vLLM server: {error}")
    with server:
        yield server
