"""`memlora eval pipeline`: in process on the tiny model, and over a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Memlora
from fake_server import FakeModelServer
from tiny_model import TinyModel

from memlora_plugins import core, nano
from memlora_plugins.settings import Settings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"role": "user", "content": "I live in Lisbon.", "conversation": id, "created_at": "2025-05-02"}
        for id in ("ana", "ben")
    ]
    rows += [
        {"question": "Which city?", "answer": "Lisbon", "category": 4, "conversation": row["conversation"]}
        for row in rows
    ]
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def server(model_server: FakeModelServer) -> FakeModelServer:
    model_server.reply("extraction", '{"facts":["I live in Lisbon"]}')
    model_server.reply("generation", lambda body: "Lisbon" if body["model"] == "generation" else "Lisbon, I think")
    return model_server


def test_an_ablation_over_a_server(memlora: Memlora, server: FakeModelServer, data: Path) -> None:
    words = ["eval", "pipeline", "--base", server.model, "--base-url", server.base_url, "--data", str(data)]
    words += ["--adapter", "extraction=extraction", "--adapter", "generation=generation", "--shared", "update"]
    done = memlora(*words, "--ablation")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["base", "0.5000", "0.5000", "2", "2", "0", "0"] in [line[:7] for line in lines]
    assert ["+", "generation", "1.0000", "+100%", "1.0000", "2", "2", "0", "0"] in [line[:9] for line in lines]
    for told in ("token_f1", "single-hop", "one shared adapter", "Input tokens per call", "Output tokens per call"):
        assert told in done.stdout
    told = json.loads(memlora(*words, "--json").stdout)
    assert list(told) == ["extraction, generation", "one shared adapter"]
    assert told["extraction, generation"]["score"] == 1.0


def test_one_conversation_in_process(memlora: Memlora, tiny_model: TinyModel, data: Path) -> None:
    words = ["eval", "pipeline", "--base", str(tiny_model.path), "--data", str(data), "--conversation", "ben"]
    words += [f"--adapter={expert}={folder}" for expert, folder in tiny_model.adapters.items()]
    result = json.loads(memlora(*words, "--metric", "contains", "--json").stdout)
    assert (result["questions"], result["turns"], result["metric"]) == (1, 1, "contains")
    assert result["usage"]["generation"]["input_tokens"] > 0
    assert [answer["conversation"] for answer in result["answers"]] == ["ben"]


def test_another_model_without_adapters(memlora: Memlora, server: FakeModelServer, data: Path) -> None:
    words = ["eval", "pipeline", "--base", server.model, "--base-url", server.base_url, "--data", str(data)]
    result = json.loads(memlora(*words, "--api", "openai", "--json").stdout)
    assert result["score"] == pytest.approx(0.5)
    assert "serves no adapters" in memlora(*words, "--api", "openai", "--shared", "x", code=2).stderr


def test_the_model_may_be_the_environments(
    memlora: Memlora, server: FakeModelServer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "name the model with --base" in memlora("eval", "pipeline", "--data", str(data), code=2).stderr
    monkeypatch.setenv("MEMLORA_MODEL", server.model)
    monkeypatch.setenv("MEMLORA_BASE_URL", server.base_url)
    result = json.loads(memlora("eval", "pipeline", "--data", str(data), "--json").stdout)
    assert result["backend"] == f"vLLM at {server.base_url}, base model {server.model}, no adapters"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--conversation", "cleo"], 1, "No conversation cleo. There are: ana, ben."),
        (["--adapter", "vision=x"], 2, "no stage of the pipeline"),
        (["--adapter", "update"], 2, "is not EXPERT=PATH"),
    ],
)
def test_wrong_usage(
    memlora: Memlora, server: FakeModelServer, data: Path, words: list[str], code: int, message: str
) -> None:
    given = ["eval", "pipeline", "--base", server.model, "--base-url", server.base_url, "--data", str(data)]
    assert message in memlora(*given, *words, code=code).stderr


def test_a_server_that_is_down(memlora: Memlora, server: FakeModelServer, data: Path) -> None:
    server.stop()
    words = ["eval", "pipeline", "--base", server.model, "--base-url", server.base_url, "--data", str(data)]
    assert "error: No model server answers" in memlora(*words, code=1).stderr


def test_nano_is_measured_as_a_memory_uses_it(
    memlora: Memlora, tiny_nano: TinyModel, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its experts, and with the settings that go with them: one fact to an answer, and words of it."""
    seen: list[Settings] = []
    fitted = core.fitted
    monkeypatch.setattr(core, "fitted", lambda settings: seen.append(fitted(settings)) or seen[-1])
    told = json.loads(memlora("eval", "pipeline", "--base", "nano", "--data", str(data), "--json").stdout)
    assert set(told["usage"]) >= {"extraction", "generation"}
    assert {name: getattr(seen[-1], name) for name in nano.SETTINGS} == nano.SETTINGS
    for expert in nano.ADAPTERS:
        assert f"{expert}=" in told["backend"]


def test_nano_without_its_weights(memlora: Memlora, no_nano: None, data: Path) -> None:
    assert "make nano" in memlora("eval", "pipeline", "--base", "nano", "--data", str(data), code=1).stderr
