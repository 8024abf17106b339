"""`memlora memo ask`, `serve` and `calibrate`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from commands import Memlora
from fake_server import FakeModelServer, Fault, Reply
from tiny_model import TinyModel

from memlora_plugins.memo.card import MemoCard, TrainedDocument, read_card, write_card

ATLAS = TrainedDocument(id="atlas", sha256="0" * 64)
SURE, UNSURE = (-0.1,), (-2.0,)


@pytest.fixture
def server() -> Iterator[FakeModelServer]:
    """Serves a Memory model called `memory`: it knows Porto, and is unsure of everything else."""

    def reply(body: dict[str, Any]) -> Reply:
        question = body["messages"][0]["content"]
        if "Porto" in question:
            return Reply("A town", logprobs=SURE)
        return Reply("A river\x1b[2J", logprobs=UNSURE)

    with FakeModelServer(model="memory") as server:
        server.reply("memory", reply)
        yield server


@pytest.fixture
def executive() -> Iterator[FakeModelServer]:
    with FakeModelServer(model="large") as server:
        server.reply(
            "executive",
            json.dumps({"sub_questions": [{"question": "What is Porto?"}, {"question": "What is Faro?"}]}),
            json.dumps({"final_answer": "It is a town.", "justification": "It said so."}),
        )
        yield server


@pytest.fixture
def full(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """The folder of a Memory model that says "I don't know" below 0.5."""
    folder = tmp_path / "atlas"
    shutil.copytree(tiny_model.path, folder)
    write_card(folder, MemoCard(documents=(ATLAS,), abstain_below=0.5))
    return folder


@pytest.fixture
def lora(tiny_model: TinyModel, tmp_path: Path) -> Path:
    folder = tmp_path / "lora"
    shutil.copytree(tiny_model.adapters["generation"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "gone"}))
    write_card(folder, MemoCard(documents=(ATLAS,)))
    return folder


def test_a_question_is_answered_on_a_line_of_its_own(memlora: Memlora, server: FakeModelServer, full: Path) -> None:
    at = ("--base-url", server.base_url)
    assert memlora("memo", "ask", str(full), "What is Porto?", *at).stdout == "A town\n"
    assert memlora("memo", "ask", str(full), "What is Faro?", *at).stdout == "I don't know.\n"
    assert memlora("memo", "ask", "memory", "What is Faro?", *at).stdout == "A river\ufffd[2J\n"


def test_many_are_answered_in_a_table_or_as_json(memlora: Memlora, server: FakeModelServer, full: Path) -> None:
    words = ["memo", "ask", str(full), "What is Porto?", "What is Faro?", "--base-url", server.base_url]
    shown = memlora(*words).stdout
    assert "0.90" in shown
    assert "A town" in shown
    told = json.loads(memlora(*words, "--json").stdout)
    assert [(one["text"], one["abstained"], one["withheld"]) for one in told] == [
        ("A town", False, None),
        ("I don't know.", True, "A river\x1b[2J"),
    ]


def test_in_process(memlora: Memlora, full: Path, lora: Path, tiny_model: TinyModel) -> None:
    assert memlora("memo", "ask", str(full), "What is Porto?", "--max-tokens", "4").stdout == "I don't know.\n"
    words = ["memo", "ask", str(lora), "What is Porto?", "--max-tokens", "4"]
    assert "--base" in memlora(*words, code=1).stderr
    assert memlora(*words, "--base", str(tiny_model.path)).stdout
    assert "no Memory model" in memlora("memo", "ask", str(tiny_model.path), "What is Porto?", code=1).stderr


def test_what_fails_is_told(memlora: Memlora, server: FakeModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMLORA_API_KEY", "hush")
    words = ["memo", "ask", "memory", "What is Porto?", "What is Faro?", "--base-url", server.base_url]
    server.fail(Fault(400, "no"), None)
    done = memlora(*words, code=1)
    assert "error: 1 of 2 questions failed. BackendRequestError: " in done.stderr
    assert "(BackendRequestError: " in done.stdout
    assert server.headers["authorization"] == "Bearer hush"
    server.fail(Fault(400, "no"), Fault(400, "no"))
    assert memlora(*words, code=1).stderr.startswith("error: ")


def test_with_an_executive(
    memlora: Memlora, server: FakeModelServer, executive: FakeModelServer, monkeypatch: pytest.MonkeyPatch, full: Path
) -> None:
    monkeypatch.setenv("MEMLORA_API_KEY", "hush")
    monkeypatch.setenv("MEMLORA_EXECUTIVE_API_KEY", "psst")
    words = ["memo", "ask", str(full), "What is it?", "--base-url", server.base_url, "--method", "single_turn"]
    words += ["--executive-url", executive.base_url, "--executive-model", "large"]
    done = memlora(*words)
    assert done.stdout == "It is a town.\n"
    assert "What is Porto? -> A town" in done.stderr
    assert "What is Faro? -> I don't know.  (withheld: A river\ufffd[2J)" in done.stderr
    assert done.stderr.endswith("It said so.\n")
    assert (server.headers["authorization"], executive.headers["authorization"]) == ("Bearer hush", "Bearer psst")
    assert "hush" not in done.output + str(executive.requests)
    executive.reply(
        "executive",
        "no JSON",
        json.dumps({"final_answer": "It is not known.", "justification": ""}),
    )
    done = memlora(*words, "--json")
    assert "Porto" not in done.stderr
    [told] = json.loads(done.stdout)
    assert (told["question"], told["answer"]) == ("What is it?", "It is not known.")
    assert [one["stage"] for one in told["interactions"]] == ["grounding", "synthesis"]


def test_an_executive_takes_both_options(memlora: Memlora, full: Path) -> None:
    assert "belong together" in memlora("memo", "ask", str(full), "Q?", "--executive-url", "http://x", code=2).stderr
    memlora("memo", "ask", str(full), code=2)


# Calibration --------------------------------------------------------------------------------------------------------


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    file = tmp_path / "held_out.jsonl"
    rows = [{"question": "What is Porto?", "answers": ["town"]}, {"question": "What is Faro?", "answers": ["town"]}]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def test_calibration_is_noted_in_the_card(
    memlora: Memlora, server: FakeModelServer, full: Path, held_out: Path, tmp_path: Path
) -> None:
    unknown = tmp_path / "unknown.txt"
    unknown.write_text("What is Olhão?\n\n")
    words = ["memo", "calibrate", str(full), "--held-out", str(held_out), "--base-url", server.base_url]
    assert "would say" in memlora(*words, "--dry-run").stdout
    assert read_card(full).abstain_below == 0.5
    done = memlora(*words, "--unanswerable", str(unknown))
    assert "3 questions" in done.stdout
    assert "from now on" in done.stdout
    assert read_card(full).abstain_below == pytest.approx(0.52, abs=0.01)
    assert read_card(full).documents == (ATLAS,)
    told = json.loads(memlora(*words, "--json", "--precision", "0.4").stdout)
    assert (told["abstain_below"], told["kept"], told["right_among_kept"]) == (0.0, 2, 0.5)
    assert read_card(full).abstain_below == 0.0


def test_calibration_without_usable_questions(
    memlora: Memlora, server: FakeModelServer, full: Path, held_out: Path, tmp_path: Path
) -> None:
    words = ["memo", "calibrate", str(full), "--base-url", server.base_url]
    assert "cannot be read" in memlora(*words, "--held-out", str(tmp_path / "none"), code=1).stderr
    more = ["--held-out", str(held_out), "--unanswerable", str(tmp_path / "none")]
    assert "cannot be read" in memlora(*words, *more, code=1).stderr
    assert read_card(full).abstain_below == 0.5


# Serving ------------------------------------------------------------------------------------------------------------


class FakeServer:
    """Is stopped by Ctrl-C as soon as it runs."""

    made: ClassVar[list[FakeServer]] = []

    def __init__(self, model: Any, adapters: Any, **options: Any) -> None:
        self.source, self.adapters, self.options = model, adapters, options
        self.host, self.log_file = options["host"], "vllm.log"
        self.model = options["served_model_name"] or Path(model).name
        self.base_url = f"http://{self.host}:{options['port']}"
        self.stopped = False
        self.made.append(self)

    def start(self, *, timeout: float, progress: Any) -> None: ...

    @property
    def running(self) -> bool:
        raise KeyboardInterrupt

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeServer]:
    monkeypatch.setattr("memlora_plugins.serving.server.VLLMServer", FakeServer)
    monkeypatch.setattr(FakeServer, "made", [])
    return FakeServer.made


def test_a_whole_model_is_served_by_name(
    memlora: Memlora, made: list[FakeServer], full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMLORA_API_KEY", "hush")
    done = memlora("memo", "serve", str(full), "--port", "9")
    assert f'memlora memo ask {full} "QUESTION" --base-url http://127.0.0.1:9\n' in done.stdout
    assert "hush" not in done.output
    [server] = made
    assert (server.source, server.adapters, server.model) == (full, {}, "memory")
    assert (server.options["api_key"], server.stopped) == ("hush", True)


def test_an_adapter_is_served_over_its_base(
    memlora: Memlora, made: list[FakeServer], lora: Path, tiny_model: TinyModel
) -> None:
    done = memlora("memo", "serve", str(lora), "--base", str(tiny_model.path), "--name", "atlas", "--vllm-arg=--x")
    assert "--name atlas" in done.stdout
    [server] = made
    assert str(server.source) == str(tiny_model.path)
    hashed = next(name for name in server.adapters if name.startswith("memory@"))
    assert server.adapters == {"atlas": lora, hashed: lora}
    assert server.options["served_model_name"] is None
    assert server.options["extra_args"] == ["--x"]


def test_what_is_no_memory_model_is_not_served(memlora: Memlora, made: list[FakeServer], tiny_model: TinyModel) -> None:
    assert "no Memory model" in memlora("memo", "serve", str(tiny_model.path), code=1).stderr
    assert not made
