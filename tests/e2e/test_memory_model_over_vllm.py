"""A Memory model on the real vLLM server: it says the same as in process, and is as sure of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from lessons import QUICK, lessons, questions
from servers import real_vllm
from tiny_model import TinyModel

from memlora_plugins import LocalBackend, MemoryModel, VLLMBackend
from memlora_plugins.memo.card import MemoCard, write_card
from memlora_plugins.memo.models import NAME, served_as
from memlora_plugins.serving.base import Request
from memlora_plugins.serving.server import VLLMServer
from memlora_plugins.training.options import TrainingOptions
from memlora_plugins.training.trainer import train

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning"),
]

KNOWN = [str(question.messages[0]["content"]) for question in questions(lessons("train"))]
UNSEEN = ["Maria lives in Porto.", "In May I paint.", "Lisbon, then Porto?", "My sister likes tea.", "Hi"]


@pytest.fixture(scope="module")
def folder(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA Memory model that learned its answers."""
    out = tmp_path_factory.mktemp("memory-model") / "memory"
    train("generation", tiny_model.path, lessons("train"), lessons("validation"), out, TrainingOptions(**QUICK))
    write_card(out, MemoCard(abstain_below=0.81))
    return out


@pytest.fixture(scope="module")
def server(folder: Path, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """As `memlora memo serve` starts one."""
    base, adapters = served_as(folder, base=tiny_model.path)
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with real_vllm(Path(base), adapters, name="tiny", log_file=log, exact=True) as server:
        yield server


def models_of(server: VLLMServer) -> list[str]:
    return [card["id"] for card in httpx.get(f"{server.base_url}/v1/models", trust_env=False).json()["data"]]


def test_tokens_are_as_likely_as_in_process(server: VLLMServer, folder: Path, tiny_model: TinyModel) -> None:
    asked = [
        Request(NAME, [{"role": "user", "content": text}], max_tokens=12, temperature=temperature, logprobs=True)
        for text in (*KNOWN, *UNSEEN)
        for temperature in (0.0, 1.0)
    ]
    served = VLLMBackend(server.base_url, server.model, {NAME: NAME})
    in_process = LocalBackend(tiny_model.path, {NAME: folder}, dtype="float32")
    ended = same = 0
    for request in asked:
        one, other = served.complete(request), in_process.complete(request)
        for reply in (one, other):
            assert len(reply.logprobs or ()) == reply.usage.output_tokens  # the token that ends it is among them
        ended += one.finish_reason == "stop"
        if one.text == other.text:  # at temperature 1 few are
            same += 1
            assert one.logprobs == pytest.approx(other.logprobs, abs=5e-3)
    served.close()
    in_process.close()
    assert ended
    assert same >= len(asked) // 2


async def test_it_says_the_same_and_is_as_sure(server: VLLMServer, folder: Path, tiny_model: TinyModel) -> None:
    with MemoryModel.open(folder, base=tiny_model.path, dtype="float32", max_tokens=12) as in_process:
        expected = in_process.ask([*KNOWN, *UNSEEN])
    assert [answer.abstained for answer in expected[: len(KNOWN)]] == [False] * len(KNOWN)
    assert any(answer.abstained for answer in expected)
    async with MemoryModel.open(folder, base_url=server.base_url, max_tokens=12) as served:
        answers = await served.aask([*KNOWN, *UNSEEN])
    by_name = MemoryModel(server.base_url, max_tokens=12, abstain_below=0.81)
    for told in (answers, by_name.ask([*KNOWN, *UNSEEN])):
        assert [(one.text, one.withheld) for one in told] == [(one.text, one.withheld) for one in expected]
        assert [one.confidence for one in told] == pytest.approx([one.confidence for one in expected], abs=5e-3)
    by_name.close()
    assert len(models_of(server)) == 3  # nothing was loaded besides what it was started with
