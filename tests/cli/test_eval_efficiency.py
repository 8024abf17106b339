"""`memlora eval efficiency`: in process on the tiny model, and over servers that are fakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from commands import Memlora
from fake_server import FakeModelServer
from tiny_model import TinyModel, make_adapter

from memlora_plugins.errors import ServerStartError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {"role": "user", "content": f"I live in {city}.", "id": city, "created_at": f"2025-05-0{day}"}
        for day, city in enumerate(("Lisbon", "Porto", "Faro"), start=1)
    ]
    rows += [{"question": f"When in {row['id']}?", "answer": "May", "evidence": [row["id"]]} for row in rows]
    file = tmp_path / "talk.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def words(data: Path) -> list[str]:
    return ["eval", "efficiency", "--data", str(data), "--out", "out", "--turns", "2", "--questions", "1"]


@pytest.fixture
def server(model_server: FakeModelServer) -> FakeModelServer:
    model_server.reply("extraction", lambda body: json.dumps({"facts": [_city(body)]}))
    model_server.reply("update", '{"memory":[{"id":"0","text":"x","event":"NONE","old_memory":""}]}')
    return model_server


def _city(body: dict[str, Any]) -> str:
    said = str(body["messages"]).rpartition("I live in ")[2]
    return f"I live in the city of {said.partition('.')[0]}"


class OneThatIsThere:
    """In the place of `VLLMServer`: it starts nothing, the fake server is there already."""

    at: ClassVar[FakeModelServer]
    fails = False
    made: ClassVar[list[OneThatIsThere]]

    def __init__(self, model: Path, adapters: dict[str, str], **options: Any) -> None:
        self.options = options
        self.base_url = self.at.base_url
        self.model = self.at.model
        self.stopped = False
        self.started = False
        self.made.append(self)

    def start(self, *, timeout: float, progress: Any) -> None:
        if self.fails:
            raise ServerStartError("The vLLM server ended with status 1 while starting.")
        self.started = True

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def vllm(server: FakeModelServer, monkeypatch: pytest.MonkeyPatch) -> type[OneThatIsThere]:
    class Server(OneThatIsThere):
        at = server
        made: ClassVar[list[OneThatIsThere]] = []

    monkeypatch.setattr("memlora_plugins.serving.server.VLLMServer", Server)
    return Server


def test_one_command_measures_both_places(
    memlora: Memlora, tiny_nano: TinyModel, vllm: type[OneThatIsThere], words: list[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("memlora_plugins.nano.shipped", lambda: True)
    monkeypatch.setenv("MEMLORA_API_KEY", "hush")
    done = memlora(*words, "--base", "nano", "--serve", "--runs", "1", "--concurrency", "2", "--first-text")
    lines = [line.split("  ")[0].strip() for line in done.stdout.splitlines()]
    for label in ("nano, in process", "nano + experts, in process", "nano, vLLM", "nano + experts, vLLM"):
        assert lines.count(label) >= 7
    for told in ("(Table 3)", "(Table A6)", "(Table A7)", "tok/s, 2 at once", "first text", "out/report.md"):
        assert told in done.stdout
    [made] = vllm.made
    assert made.started
    assert made.stopped
    assert made.options["extra_args"] == ["--dtype=float32"]
    assert {body["model"] for body in vllm.at.requests} == {"base", "extraction", "update", "generation"}
    report = Path("out/report.md").read_text()
    said = "memlora eval efficiency --base nano --data talk.jsonl --out out --serve"
    assert report.startswith(f"# Efficiency\n\n```\n{said}")
    assert "2 turns of 1 conversation remembered, 1 questions asked" in report
    assert "hush" not in done.output + report + Path("out/efficiency.json").read_text()
    assert Path("out/efficiency.png").exists()

    asked = len(vllm.at.requests)  # what is measured already is not measured again, nor is a server started for it
    told = json.loads(
        memlora(
            *(*words, "--base", "nano", "--serve", "--runs", "1", "--concurrency", "2", "--first-text", "--json")
        ).stdout
    )
    assert len(vllm.at.requests) == asked
    assert [made.started for made in vllm.made] == [True, False]
    assert [row["student"]["label"] for row in told["rows"]][:2] == ["nano, in process", "nano + experts, in process"]
    alone = told["rows"][2]["runs"][0]["alone"]
    assert {stage: used["calls"] for stage, used in alone.items()} == {"extraction": 2, "update": 1, "generation": 1}
    assert told["figures"]["nano, vLLM"]["seconds"]["mean"]["sd"] is None


def test_another_base_adds_its_rows_and_other_work_is_refused(
    memlora: Memlora, server: FakeModelServer, tiny_model: TinyModel, words: list[str]
) -> None:
    given = [*words, "--runs", "1", "--base-url", server.base_url, "--served-name", server.model]
    alone = [*given, "--concurrency", "1"]
    memlora(*alone, "--base", "far", "--adapter", "update=update")
    told = json.loads(memlora(*alone, "--base", str(tiny_model.path), "--server-only", "--json").stdout)
    assert [row["student"]["label"] for row in told["rows"]] == ["far, vLLM", "far + experts, vLLM", "base, vLLM"]
    assert [row["student"]["base"] is None for row in told["rows"]] == [True, True, False]
    assert [command.split()[4] for command in told["commands"]] == ["far", "base"]
    assert "throughput" not in told["figures"]["base, vLLM"]
    for more, message in (
        ([*alone, "--base", "far"], "another model called far"),
        ([*given, "--base", "far", "--adapter", "update=update"], "another concurrency"),
        ([*alone, "--base", "other", "--turns", "1"], "another portion of conversations"),
    ):
        assert message in memlora(*more, code=1).stderr


def test_figures_of_another_engine_are_kept_apart(
    memlora: Memlora, server: FakeModelServer, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*words, "--runs", "1", "--base-url", server.base_url, "--served-name", server.model, "--concurrency", "1"]
    memlora(*given, "--base", "far")
    monkeypatch.setattr("memlora_plugins.evaluation.efficiency.students.server_version", lambda *_: "vLLM 99")
    asked = len(server.requests)
    assert "another engine, vLLM" in memlora(*given, "--base", "other", code=1).stderr
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    ("words_more", "code", "message"),
    [
        ([], 2, "name the model with --base"),
        (["--base", "no/such/folder"], 1, "no model folder no/such/folder"),
        (["--base", "far", "--base-url", "http://127.0.0.1:9"], 1, "No model server answers"),
        (["--base", "far", "--base-url", "http://127.0.0.1:9", "--serve"], 2, "give one of them"),
        (["--base", "TINY", "--server-only"], 2, "needs a server"),
        (["--base", "TINY", "--adapter", "vision=x"], 2, "no stage of the pipeline"),
        (["--base", "TINY", "--adapter", "update=OTHER"], 1, "another base model"),
        (["--base", "TINY", "--conversation", "ben"], 1, "No conversation ben"),
    ],
)
def test_wrong_usage(
    memlora: Memlora, tiny_model: TinyModel, words: list[str], words_more: list[str], code: int, message: str
) -> None:
    named = {"TINY": str(tiny_model.path), "update=OTHER": "update=other"}
    if "update=OTHER" in words_more:
        _of_another_size(make_adapter(tiny_model.path, Path("other")))
    done = memlora(*words, *(named.get(word, word) for word in words_more), code=code)
    assert message in " ".join(done.stderr.split())
    assert not Path("out/efficiency.json").exists()


def _of_another_size(adapter: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    weights = {name: torch.zeros(8, 64) if "lora_A" in name else one for name, one in load_file(file).items()}
    save_file(weights, file)


def test_a_server_that_does_not_start(
    memlora: Memlora, tiny_model: TinyModel, vllm: type[OneThatIsThere], words: list[str]
) -> None:
    vllm.fails = True
    done = memlora(*words, "--base", str(tiny_model.path), "--server-only", "--serve", code=1)
    assert "ended with status 1" in done.stderr
    assert vllm.made[0].stopped
