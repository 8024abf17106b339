from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import Memlora
from fake_server import FakeModelServer, Fault
from qdrant_client import QdrantClient
from scripted import says
from tiny_model import TinyModel

from memlora_plugins import QdrantFactStore
from memlora_plugins.cli import doctor
from memlora_plugins.serving.base import Completion, Request
from memlora_plugins.serving.local import LocalBackend

ANA = ("--user", "ana")
NONE = ("--model", "none")


def checks(memlora: Memlora, *words: str, code: int = 0) -> dict[str, dict[str, Any]]:
    return {check["what"]: check for check in json.loads(memlora("doctor", "--json", *words, code=code).stdout)}


def test_a_fresh_machine_is_told_what_it_could_have(memlora: Memlora, tmp_path: Path) -> None:
    found = checks(memlora, *NONE, "--path", str(tmp_path / "a" / "b"))
    assert found["python"]["state"] == found["memlora-plugins"]["state"] == "ok"
    assert found["embedder"]["found"] == "fake-words-for-all-MiniLM-L6-v2, 256 dimensions"
    assert found["model"]["state"] == "note"
    assert "--base-url" in found["model"]["remedy"]
    assert found["store"]["state"] == "ok"
    assert not (tmp_path / "a").exists()
    text = memlora("doctor", *NONE).stdout
    assert "memlora doctor" in text
    assert "→ --base-url" in text


def test_without_nano_and_without_a_name_there_is_no_model(memlora: Memlora, no_nano: None) -> None:
    found = checks(memlora)
    assert found["model"]["state"] == "note"
    assert "expert extraction" not in found


def test_nano_is_tried_where_no_other_model_is_named(memlora: Memlora, tiny_nano: TinyModel) -> None:
    found = checks(memlora)
    assert found["model"]["state"] == "ok"
    assert str(tiny_nano.path) in found["model"]["found"]
    for expert in ("extraction", "update", "generation"):
        assert found[f"expert {expert}"]["found"].startswith(f"answers as {expert}")


def test_pending_turns_are_distilled_by_nano_as_it_can_take_them(
    memlora: Memlora, tiny_nano: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def complete(self: LocalBackend, request: Request) -> Completion:
        asked.append(request)
        return Completion(says())

    monkeypatch.setattr(LocalBackend, "complete", complete)
    memlora("add", "A very long story. " * 50, *ANA, *NONE)
    assert checks(memlora, "--flush")["store"]["state"] == "ok"
    pieces = [request for request in asked if request.expert == "extraction" and request.schema]
    assert len(pieces) >= 3  # 950 characters, 400 at a time
    memlora("add", "Another long story. " * 50, *ANA, *NONE)
    asked.clear()
    monkeypatch.setenv("MEMLORA_EXCHANGE_CHARS", "4000")
    assert checks(memlora, "--flush")["store"]["state"] == "ok"
    assert len([request for request in asked if request.expert == "extraction" and request.schema]) == 1


def test_missing_packages_come_with_the_command_that_brings_them(
    memlora: Memlora, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: "" if name in ("peft", "httpx") else "1.0")
    monkeypatch.setenv("MEMLORA_VLLM_PYTHON", str(tmp_path / "nowhere"))
    found = checks(memlora, *NONE, code=1)
    assert found["extra local"]["found"] == "missing: peft"
    assert found["extra local"]["remedy"] == 'pip install "memlora-plugins[local]"'
    assert found["memlora-plugins"]["state"] == "problem"
    assert found["vllm"]["state"] == "note"
    assert "nowhere" in found["vllm"]["found"]


def test_what_is_looked_for_is_what_the_package_asks_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        found = {re.split(r"[^\w.-]", one)[0] for one in requirements}
        return found - {project["name"]}

    assert set(doctor._CORE) == names(project["dependencies"])
    assert {extra: set(packages) for extra, packages in doctor._EXTRAS.items()} == {
        extra: names(extras[extra]) for extra in extras.keys() - {"vllm", "all"}
    }


def test_what_is_configured_is_tried(memlora: Memlora, model_server: FakeModelServer, with_model: list[str]) -> None:
    found = checks(memlora, *with_model)
    assert [found[f"expert {name}"]["state"] for name in ("extraction", "update", "generation")] == ["ok"] * 3
    model_server.fail(Fault(status=400, message="broken"))
    found = checks(memlora, *with_model, code=1)
    assert found["expert extraction"]["state"] == "problem"
    assert "memlora serve" in found["expert extraction"]["remedy"]


def test_settings_that_contradict_each_other(memlora: Memlora) -> None:
    found = checks(memlora, "--base-url", "http://127.0.0.1:9", code=1)
    assert "model" in found["settings"]["found"]


def test_an_adapter_that_cannot_be_served(memlora: Memlora, tmp_path: Path, model_server: FakeModelServer) -> None:
    (tmp_path / "hollow").mkdir()
    (tmp_path / ".memlora").mkdir()
    options = ["--base-url", model_server.base_url, "--model", "base", "--adapter", f"update={tmp_path / 'hollow'}"]
    found = checks(memlora, *options, code=1)
    assert found["model"]["state"] == "problem"
    assert found["store"]["state"] == "note"


def test_an_embedder_that_cannot_be_had(memlora: Memlora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMLORA_EMBEDDER_URL", "http://127.0.0.1:9")
    found = checks(memlora, *NONE, code=1)
    assert found["embedder"]["state"] == "problem"


def test_pending_turns_are_counted_and_distilled(
    memlora: Memlora, model_server: FakeModelServer, with_model: list[str]
) -> None:
    memlora("add", "I live in Lisbon.", *ANA, *NONE)
    found = checks(memlora, *NONE)
    assert found["store"]["state"] == "note"
    assert "1 turns still to distil" in found["store"]["found"]
    assert checks(memlora, *NONE, "--flush", code=1)["flush"]["state"] == "problem"
    model_server.reply("extraction", says("Ana lives in Lisbon"))
    found = checks(memlora, "--flush", *with_model)
    assert found["flush"]["found"] == "1 facts changed"
    assert found["store"]["state"] == "ok"
    assert "Ana lives in Lisbon" in memlora("facts", *ANA).stdout


def test_what_is_left_out_is_told_and_leaves_nothing_to_do(
    memlora: Memlora, model_server: FakeModelServer, with_model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memlora("add", "I live in Lisbon.", *ANA, *NONE)
    monkeypatch.setenv("MEMLORA_QUOTED_FACTS", "true")
    model_server.reply("extraction", says("I live in Lisbon.", "Purple clouds."))
    found = checks(memlora, "--flush", *with_model)
    assert found["flush"]["state"] == "note"
    assert "not in the person's words" in found["flush"]["found"]
    assert found["flush"]["remedy"] == "the rest was distilled"
    assert found["store"]["state"] == "ok"


def test_a_worker_that_failed_is_a_problem(
    memlora: Memlora, with_model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: Any) -> Any:
        raise RuntimeError("boom")

    memlora("add", "I live in Lisbon.", *ANA, *NONE)
    monkeypatch.setattr("memlora_plugins.flows.remember.distil", breaks)
    found = checks(memlora, "--flush", *with_model, code=1)
    assert found["flush"]["state"] == "problem"
    assert "boom" in found["flush"]["found"]


def test_compact_keeps_what_is_there(memlora: Memlora) -> None:
    memlora("add", "I live in Lisbon.", *ANA, *NONE, "--no-distil")
    assert checks(memlora, *NONE, "--compact")["compact"]["state"] == "ok"
    assert "I live in Lisbon." in memlora("search", "Lisbon", *ANA).stdout


def test_a_qdrant_server_needs_no_vacuum(memlora: Memlora, monkeypatch: pytest.MonkeyPatch) -> None:
    store = QdrantFactStore(client=QdrantClient(":memory:"))
    monkeypatch.setattr("memlora_plugins.core.build_store", lambda settings: store)
    found = checks(memlora, *NONE, "--qdrant-url", "http://127.0.0.1:9", "--compact")
    assert found["compact"]["state"] == "note"


def test_a_folder_that_is_held_elsewhere_is_said_so(memlora: Memlora, tmp_path: Path) -> None:
    memlora("add", "x", *ANA, *NONE, "--no-distil")
    code = (
        "import sys; from memlora_plugins import EdgeFactStore; from memlora_plugins.flows.effects import drive\n"
        "store = EdgeFactStore('.memlora')\n"
        "drive(store.open('fake-words-for-all-MiniLM-L6-v2', 256), None)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        found = checks(memlora, *NONE, code=1)
        assert found["store"]["state"] == "problem"
        assert str(holder.pid) in found["store"]["found"]
        assert memlora("search", "x", *ANA, code=1).stderr.startswith("error: ")
        holder.communicate("")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_made(memlora: Memlora, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert checks(memlora, *NONE, "--path", str(tmp_path / "locked" / "m"), code=1)["store"]["state"] == "problem"


def test_a_file_in_the_way(memlora: Memlora, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert checks(memlora, *NONE, "--path", str(tmp_path / "file" / "m"), code=1)["store"]["state"] == "problem"
