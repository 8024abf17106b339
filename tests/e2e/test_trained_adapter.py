"""An expert trained here, on the real vLLM server: loaded as it is, and its replies are those in process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lessons import QUICK, lessons, questions
from tiny_model import TinyModel

from memlora_plugins.serving.base import Request
from memlora_plugins.serving.local import LocalBackend
from memlora_plugins.serving.server import VLLMServer
from memlora_plugins.serving.vllm import VLLMBackend
from memlora_plugins.training.options import TrainingOptions
from memlora_plugins.training.trainer import train

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning"),
]

TRAIN, VALIDATION = lessons("train"), lessons("validation")
UNSEEN = [
    Request("generation", [{"role": "user", "content": text}], max_tokens=12)
    for text in ("Maria lives in Porto.", "In May I paint.", "Lisbon, then Porto?", "My sister likes tea.", "Hi")
]


@pytest.fixture(scope="module")
def expert(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "generation"
    return train("generation", tiny_model.path, TRAIN, VALIDATION, out, TrainingOptions(**QUICK)).folder


@pytest.fixture(scope="module")
def in_process(tiny_model: TinyModel, expert: Path) -> Iterator[LocalBackend]:
    backend = LocalBackend(tiny_model.path, {"generation": expert}, dtype="float32")
    yield backend
    backend.close()


def test_a_trained_expert_says_the_same_on_the_server(
    exact_vllm_server: VLLMServer, expert: Path, in_process: LocalBackend
) -> None:
    served = VLLMBackend(exact_vllm_server.base_url, exact_vllm_server.model, {"generation": expert})
    asked = [*questions(TRAIN), *UNSEEN]
    replies = [served.complete(question) for question in asked]
    served.close()
    assert {reply.model for reply in replies} == {served.adapters["generation"]}
    assert [reply.text for reply in replies[: len(TRAIN)]] == [sample.reply for sample in TRAIN]
    expected = [in_process.complete(question) for question in asked]
    assert [reply.text for reply in replies] == [reply.text for reply in expected]
    assert [reply.usage.input_tokens for reply in replies] == [reply.usage.input_tokens for reply in expected]
