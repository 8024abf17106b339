"""The README's Python runs, its commands exist, and its variables are settings."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from fake_server import FakeModelServer
from scripted import says
from typer.testing import CliRunner

from memlora_plugins.cli.app import app
from memlora_plugins.memo.card import MemoCard, TrainedDocument, write_card
from memlora_plugins.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
EXECUTIVE = {
    "sub_questions": [{"question": "Who founded the archive of sea plants?"}],
    "entity_confirmed": True,
    "confirmed_entity": "Ilse Varga",
    "decision": "answer",
    "final_answer": "Calder Quay",
    "justification": "It was said.",
}
"""A reply that suits every stage."""
BLOCKS = re.findall(r"(?:<!-- test: ([\w ]+) -->\n)?```python\n(.*?)```", README, flags=re.S)


def block(needs: str) -> str:
    [code] = [code for what, code in BLOCKS if what == needs]
    return str(code)


def test_no_block_is_forgotten() -> None:
    assert [needs for needs, _ in BLOCKS] == ["", "model server", "memory model", "qdrant server"]
    assert README.count("```python") == len(BLOCKS)


def test_the_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    code = block("")
    assert len(code.strip().splitlines()) <= 11
    exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.startswith("UPDATE\nMadrid\n")
    assert "The user: My dog is called Biscuit." in out
    assert "The user: I moved to Madrid." in out


def test_the_model_server_block_against_a_fake_one(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeModelServer(
        model="Qwen/Qwen2.5-1.5B-Instruct", adapters={"extraction": "/e", "update": "/u", "generation": "/g"}
    ) as server:
        server.reply("extraction", says("Ana lives in Porto"))
        server.reply("generation", "In Porto.")
        code = block("model server").replace("http://127.0.0.1:8000", server.base_url).replace('"experts/', '"')
        exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "Ana lives in Porto" in out
    assert out.endswith("In Porto.\n")


def test_the_memory_model_block_against_fake_servers(capsys: pytest.CaptureFixture[str]) -> None:
    Path("memory").mkdir()
    write_card("memory", MemoCard(documents=(TrainedDocument(id="the-kelp-archive.md"),)))
    with FakeModelServer(model="memory") as memory, FakeModelServer(model="NAME") as large:
        memory.reply("memory", "Ilse Varga")
        large.reply("executive", json.dumps(EXECUTIVE))
        code = block("memory model").replace("http://127.0.0.1:8000", memory.base_url)
        exec(compile(code.replace("https://executive.example/v1", large.base_url), "README.md", "exec"), {})
    assert capsys.readouterr().out == "Ilse Varga None False\nIlse Varga None False\nCalder Quay It was said. 4\n"


def test_the_qdrant_server_block() -> None:
    url = os.environ.get("MEMLORA_TEST_QDRANT_URL")
    if not url:
        pytest.skip("MEMLORA_TEST_QDRANT_URL names no Qdrant server")
    exec(compile(block("qdrant server").replace("http://127.0.0.1:6333", url), "README.md", "exec"), {})


def test_every_command_named_exists() -> None:
    code = re.findall(r"```console\n(.*?)```", README, flags=re.S) + re.findall(r"`([^`\n]+)`", README)
    names = set(re.findall(r"memlora ([a-z]+)", "\n".join(code)))
    assert {"demo", "import", "serve", "doctor"} <= names
    for name in names:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0, name
    for name in set(re.findall(r"memlora memo ([a-z]+)", "\n".join(code))):
        assert CliRunner().invoke(app, ["memo", name, "--help"]).exit_code == 0, name


def test_every_make_target_named_exists() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?<!vqa )make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_every_variable_named_is_known() -> None:
    known = {f"MEMLORA_{name.upper()}" for name in Settings.model_fields}
    known |= {"MEMLORA_TEST_QDRANT_URL", "MEMLORA_DATA", "MEMLORA_VLLM_PYTHON"}
    known |= {"MEMLORA_EXECUTIVE_API_KEY", "MEMLORA_JUDGE_API_KEY", "MEMLORA_VALIDATOR_API_KEY"}
    assert set(re.findall(r"MEMLORA_[A-Z_]+[A-Z]", README)) <= known
