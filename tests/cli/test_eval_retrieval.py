"""`memlora eval retrieval`: an invented conversation and invented paragraphs, real stores, no language model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import hops
import pytest
from commands import Memlora

from memlora_plugins.evaluation.evidence.rankings import read_settings
from memlora_plugins.store.folder import Folder
from memlora_plugins.store.ranking import Ranking

ABLATION = Path(__file__).parents[1] / "benchmarks" / "rankings.toml"

SAMPLE: dict[str, Any] = {
    "conversation": {
        "speaker_a": "Ana",
        "speaker_b": "Ben",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ana", "dia_id": "D1:1", "text": "I bought a boat."},
            {"speaker": "Ben", "dia_id": "D1:2", "text": "Which colour?"},
            {"speaker": "Ana", "dia_id": "D1:3", "text": "Red as a cherry."},
            {"speaker": "Ben", "dia_id": "D1:4", "text": "My sister plays the cello in Porto."},
        ],
    },
    "qa": [
        {"question": "Which colour is the boat of Ana?", "answer": "red", "evidence": ["D1:3"], "category": 4},
        {"question": "What does the sister play?", "answer": "cello", "evidence": ["D1:4"], "category": 1},
    ],
    "observation": {
        "session_1_observation": {
            "Ana": [["Ana has a red boat.", ["D1:1", "D1:3"]]],
            "Ben": [["The sister of Ben plays the cello.", "D1:4"]],
        }
    },
}


@pytest.fixture
def locomo(tmp_path: Path) -> Callable[..., Path]:
    def write(*names: str, **more: Any) -> Path:
        file = tmp_path / "locomo.json"
        file.write_text(json.dumps([{**SAMPLE, "sample_id": name, **more} for name in names or ("conv-1",)]))
        return file

    return write


def table(text: str, title: str) -> list[list[str]]:
    """The cells of a Markdown table."""
    _, _, after = text.partition(f"## {title}\n\n")
    lines = after.partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")]


def test_turns_facts_and_both_are_compared(memlora: Memlora, locomo: Callable[..., Path], tmp_path: Path) -> None:
    done = memlora("eval", "retrieval", str(locomo()), "--out", "out", "--k", "3", "--k", "1")
    assert "hybrid, the default" in done.stdout
    assert [name for name in ("retrieval.json", "report.md", "retrieval.png") if f"out/{name}" in done.stdout] == [
        "retrieval.json",
        "report.md",
        "retrieval.png",
    ]
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.splitlines()[2] == "    memlora eval retrieval locomo.json --out out --k 3 --k 1"
    assert "2 questions with evidence of locomo.json (SHA-256 " in report
    assert "; conv-1). 4 turns, 2 facts in Qdrant Edge (qdrant-edge-py" in report
    rows = table(report, "All questions")
    assert rows[0] == ["searched", "ranking", "recall@1", "recall@3", "nDCG@1", "nDCG@3"]
    assert [row[0] for row in rows[1:]] == 6 * ["turns"] + 4 * ["facts"] + 7 * ["both"]
    assert rows[-1][1:4:2] == ["hybrid, the default", "1.000 [1.000, 1.000]"]
    assert table(report, "Recall@3 by category")[0][2:] == ["multi-hop (1)", "single-hop (1)"]
    assert (tmp_path / "out" / "retrieval.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((tmp_path / "out" / "retrieval.json").read_text())
    assert kept["command"] in report
    assert kept["categories"] == {"1": "multi-hop", "4": "single-hop"}
    assert str(tmp_path) not in json.dumps(kept) + report
    assert "boat" not in json.dumps(kept) + report


def test_json_and_one_unit_in_qdrant_with_settings_of_a_file(
    memlora: Memlora, locomo: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "settings.toml").write_text("[[setting]]\nname = 'words'\nranking = {text = 0, context = 0}\n")
    words = ["--unit", "facts", "--store", "qdrant", "--config", "settings.toml", "--conversation", "conv-2", "--json"]
    told = json.loads(memlora("eval", "retrieval", str(locomo("conv-1", "conv-2")), "--out", "out", *words).stdout)
    assert told["store"].startswith("qdrant-client in process (qdrant-client ")
    assert (told["conversations"], told["kept"]) == (["conv-2"], {"facts": 2})
    assert told["ks"] == [10, 30]
    [measured] = told["measured"]
    assert (measured["unit"], measured["setting"]) == ("facts", "words")
    assert (measured["ranking"]["text"], measured["ranking"]["context_words"]) == (0, 1.0)
    assert measured["score"]["questions"] == 2
    assert measured["score"]["recall"]["10"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert told["command"].startswith("memlora eval retrieval locomo.json --out out --conversation conv-2 --unit facts")


def test_without_facts_turns_are_searched(memlora: Memlora, locomo: Callable[..., Path]) -> None:
    told = json.loads(memlora("eval", "retrieval", str(locomo()), "--out", "out", "--facts", "none", "--json").stdout)
    assert {one["unit"] for one in told["measured"]} == {"turns"}
    file = locomo(observation={})
    told = json.loads(memlora("eval", "retrieval", str(file), "--out", "out", "--json").stdout)
    assert {one["unit"] for one in told["measured"]} == {"turns"}


def test_a_part_of_locomo(memlora: Memlora, locomo: Callable[..., Path]) -> None:
    file = str(locomo("conv-26", "conv-42"))
    told = json.loads(memlora("eval", "retrieval", file, "--out", "out", "--split", "validation", "--json").stdout)
    assert (told["splits"], told["conversations"]) == (["validation"], ["conv-26"])
    refused = memlora("eval", "retrieval", file, "--out", "out", "--split", "test", code=1)
    assert "conv-30, conv-41" in refused.stderr


def test_several_parts_of_locomo(memlora: Memlora, locomo: Callable[..., Path], tmp_path: Path) -> None:
    file = str(locomo("conv-41", "conv-26", "conv-30", "conv-47"))
    words = ["--split", "test", "--split", "validation", "--split", "test"]
    (tmp_path / "settings.toml").write_text("[[setting]]\nname = 'default'\n")
    words += ["--unit", "turns", "--config", "settings.toml", "--json"]
    told = json.loads(memlora("eval", "retrieval", file, "--out", "out", *words).stdout)
    assert told["splits"] == ["test", "validation"]
    assert told["conversations"] == ["conv-30", "conv-41", "conv-26"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "; test, validation: conv-30, conv-41, conv-26)." in report
    assert "--split test --split validation" in report


def test_the_ablation_of_the_benchmarks_can_be_read(
    memlora: Memlora, locomo: Callable[..., Path], tmp_path: Path
) -> None:
    """Every entry changes one thing of the default."""
    ablation = read_settings(ABLATION)
    for setting in ablation:
        changed = {
            field.name
            for field in fields(Ranking)
            if getattr(setting.ranking, field.name) != getattr(Ranking(), field.name)
        }
        others = (setting.fact_share, setting.relevance)
        changes = len(changed) + len(setting.without) + sum(one is not None for one in others)
        assert changes == (setting != ablation[0])
    done = memlora("eval", "retrieval", str(locomo()), "--out", "out", "--unit", "both", "--config", str(ABLATION))
    assert ablation[-1].name in done.stdout
    rows = table((tmp_path / "out" / "report.md").read_text(), "All questions")
    assert [row[1] for row in rows[1:]] == [setting.name for setting in ablation]
    assert f"--config {ABLATION.name}" in (tmp_path / "out" / "report.md").read_text()


def test_one_folder_is_for_one_at_a_time(memlora: Memlora, locomo: Callable[..., Path], tmp_path: Path) -> None:
    file = str(locomo())
    memlora("eval", "retrieval", file, "--out", "out", "--unit", "turns")
    [held] = (tmp_path / "out").glob(".embeddings-*")
    folder = Folder(held)
    refused = memlora("eval", "retrieval", file, "--out", "out", "--unit", "turns", code=1)
    folder.release()
    assert "use another folder for the results" in " ".join(refused.stderr.split())


def test_paragraphs_of_musique(memlora: Memlora, tmp_path: Path) -> None:
    file = hops.write_rows(tmp_path / "musique.jsonl")
    told = json.loads(memlora("eval", "retrieval", str(file), "--out", "out", "--json").stdout)
    assert [(one["unit"], one["setting"]) for one in told["measured"]][:2] == [
        ("paragraphs", "BM25"),
        ("paragraphs", "dense"),
    ]
    assert told["ks"] == [5, 9]
    assert told["categories"] == {"2": "2 hops"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "3 questions with evidence of musique.jsonl (SHA-256 " in report
    assert "…). 10 paragraphs in Qdrant Edge" in report
    assert "by category" not in report  # there is one only
    file.write_text(json.dumps(hops.rows()))
    again = json.loads(memlora("eval", "retrieval", str(file), "--out", "out", "--negatives", "0", "--json").stdout)
    assert [one["setting"] for one in again["measured"]] == [one["setting"] for one in told["measured"]]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--qdrant-url", "http://127.0.0.1:9"], 2, "--qdrant-url is for --store qdrant"),
        (["--facts", "none", "--unit", "both"], 2, "there are turns only to search"),
        (["--kind", "musique", "--unit", "turns"], 2, "paragraphs: no conversations, turns or facts"),
        (["--kind", "musique"], 1, "is not a MuSiQue file"),
        (["--split", "test", "--conversation", "conv-1"], 2, "name conversations or splits, not both"),
        (["--conversation", "conv-9"], 1, "No conversation conv-9"),
        (["--config", "nowhere.toml"], 1, "nowhere.toml cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(
    memlora: Memlora, locomo: Callable[..., Path], words: list[str], code: int, message: str
) -> None:
    done = memlora("eval", "retrieval", str(locomo()), "--out", "out", *words, code=code)
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_a_file_that_is_not_there(memlora: Memlora) -> None:
    assert "nowhere.json cannot be read" in memlora("eval", "retrieval", "nowhere.json", "--out", "out", code=1).stderr


def test_a_server_that_is_not_there(memlora: Memlora, locomo: Callable[..., Path]) -> None:
    words = ["--store", "qdrant", "--qdrant-url", "http://127.0.0.1:9"]
    done = memlora("eval", "retrieval", str(locomo()), "--out", "out", *words, code=1)
    assert "http://127.0.0.1:9 cannot be used" in done.stderr


def test_without_matplotlib_the_report_says_so(
    memlora: Memlora, locomo: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memlora_plugins.evaluation.plots.available", lambda: False)
    memlora("eval", "retrieval", str(locomo()), "--out", "out")
    assert "No figure: install matplotlib" in (tmp_path / "out" / "report.md").read_text()
    assert not (tmp_path / "out" / "retrieval.png").exists()
