from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from commands import Memlora
from fake_server import FakeModelServer
from scripted import says

ANA = ("--user", "ana")
NONE = ("--model", "none")
CHAT = [
    {"role": "user", "content": "I live in Porto.", "created_at": "2025-01-01"},
    {"role": "assistant", "content": "How is it there?"},
    {"role": "user", "content": "I live in Porto."},
]


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in CHAT))
    return file


def test_chat_goes_in_once_and_comes_out_whole(memlora: Memlora, chat_file: Path, tmp_path: Path) -> None:
    done = memlora("import", str(chat_file), *ANA, *NONE, "--session", "s")
    assert "read 3, new 3, facts changed 0, still to distil 0" in done.stdout
    assert "note:" not in done.stderr  # it was asked for
    assert json.loads(memlora("import", str(chat_file), *ANA, *NONE, "--session", "s", "--json").stdout)["new"] == 0
    rows = [json.loads(line) for line in memlora("export", *ANA).stdout.splitlines()]
    assert [(row["role"], row["text"], row["session_id"]) for row in rows] == [
        (row["role"], row["content"], "s") for row in sorted(CHAT, key=lambda row: "created_at" not in row)
    ]
    out = tmp_path / "rows.jsonl"
    assert "wrote 3 rows" in memlora("export", *ANA, "--output", str(out)).stderr
    again = memlora("import", str(out), *ANA, *NONE, "--path", str(tmp_path / "other"), "--json").stdout
    assert json.loads(again)["new"] == 3
    moved = memlora("export", *ANA, "--path", str(tmp_path / "other")).stdout
    assert [json.loads(line)["id"] for line in moved.splitlines()] == [row["id"] for row in rows]


@pytest.mark.usefixtures("tiny_nano")
def test_nano_distils_an_import_only_when_asked(memlora: Memlora, chat_file: Path) -> None:
    done = memlora("import", str(chat_file), *ANA, "--json")
    assert done.stderr.startswith("note: no model is named")
    assert "With --distil, nano does it" in done.stderr
    assert json.loads(done.stdout) == {"read": 3, "new": 3, "facts": 0, "pending": 0, "errors": []}
    assert "note:" not in memlora("import", str(chat_file), *ANA, "--no-distil").stderr
    distilled = memlora("import", str(chat_file), "--user", "ben", "--distil", "--json")
    assert "note:" not in distilled.stderr
    done = json.loads(distilled.stdout)
    assert done["facts"] or done["errors"]  # random weights: nonsense, or nothing readable; but nano was asked
    assert "No model is configured" not in distilled.stdout


def test_without_any_model_an_import_says_what_happens_to_the_facts(
    memlora: Memlora, chat_file: Path, no_nano: None
) -> None:
    done = memlora("import", str(chat_file), *ANA, "--json")
    assert done.stderr.startswith("note: no model is named")
    assert "memlora doctor --flush" in done.stderr
    assert json.loads(done.stdout) == {"read": 3, "new": 3, "facts": 0, "pending": 0, "errors": []}


def test_facts_are_distilled_where_a_model_is(
    memlora: Memlora, chat_file: Path, model_server: FakeModelServer, with_model: list[str]
) -> None:
    model_server.reply("extraction", says("Ana lives in Porto"))
    done = json.loads(memlora("import", str(chat_file), *ANA, "--json", *with_model).stdout)
    assert done == {"read": 3, "new": 3, "facts": 1, "pending": 0, "errors": []}
    assert "Ana lives in Porto" in memlora("facts", *ANA).stdout


def test_turns_can_wait_for_a_model(memlora: Memlora, chat_file: Path) -> None:
    done = memlora("import", str(chat_file), *ANA, *NONE, "--distil")
    assert "still to distil 2" in done.stdout
    assert "warning: extraction: No model is configured" in done.stderr


def test_empty_and_unusable_files(memlora: Memlora, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert "read 0, new 0" in memlora("import", str(tmp_path / "empty"), *ANA, *NONE).stdout
    (tmp_path / "odd").write_text('{"role": "user", "content": "x"}\n{"role": "user"}\n')
    assert "line 2: 'content' is missing" in memlora("import", str(tmp_path / "odd"), *ANA, *NONE, code=1).stderr
    (tmp_path / "rows").write_text('{"kind": "turn", "user_id": "ana"}\n')
    assert "not an exported row" in memlora("import", str(tmp_path / "rows"), *ANA, *NONE, code=1).stderr
    assert "cannot be written" in memlora("export", *ANA, "-o", str(tmp_path / "no" / "x"), code=1).stderr
    memlora("import", *ANA, code=2)
    memlora("import", str(tmp_path / "rows"), "--locomo", str(tmp_path / "rows"), *ANA, code=2)


LOCOMO = Path(os.environ.get("MEMLORA_DATA", "")) / "locomo" / "locomo-dev.json"


@pytest.mark.skipif(not os.environ.get("MEMLORA_DATA"), reason="MEMLORA_DATA names no folder with the LoCoMo file")
def test_a_locomo_conversation_goes_in_and_its_evidence_is_found(memlora: Memlora) -> None:
    [sample] = [sample for sample in json.loads(LOCOMO.read_text()) if sample["sample_id"] == "conv-26"]
    turns = [turn for key, said in sample["conversation"].items() if isinstance(said, list) for turn in said]
    done = json.loads(memlora("import", "--locomo", str(LOCOMO), "--user", "conv-26", *NONE, "--json").stdout)
    assert done["new"] == done["read"] == len(turns)
    hits = json.loads(memlora("search", turns[10]["text"], "--user", "conv-26", "--json").stdout)
    assert hits[0]["sources"] == [turns[10]["dia_id"]]
    again = memlora("import", "--locomo", str(LOCOMO), "--user", "conv-26", *NONE, "--json").stdout
    assert json.loads(again)["new"] == 0
    unknown = memlora("import", "--locomo", str(LOCOMO), "--user", "conv-0", *NONE, code=1).stderr
    assert "No conversation 'conv-0'" in unknown
    assert "conv-26" in unknown
