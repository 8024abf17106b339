"""MeMo's comparison on the isles, offline: the script that plays the Executive, and a report of what it leads to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import nearest_sentence

Run = Callable[..., str]


def test_the_script_reads_by_shared_words() -> None:
    documents = ["Ada lives in Porto. She owns a boat.", "Ben lives in Faro."]
    assert nearest_sentence("Where does Ben live? He lives…", documents) == "Ben lives in Faro."
    assert nearest_sentence("Nothing of it", documents) == "I don't know"


@pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing. is deprecated:FutureWarning")
def test_the_whole_comparison_runs_without_any_network(run: Run, isles_model: Path, tmp_path: Path) -> None:
    printed = run(
        "memo/compare.py", str(isles_model), "--ten-documents", "--questions", "12", "--work", str(tmp_path / "work")
    )
    assert "Judged accuracy: not available: no judge is named" in printed
    found = json.loads((tmp_path / "work" / "results.json").read_text())
    scores = {(row["method"], row["noise"]): row["scores"]["contains"]["mean"] for row in found["scores"]}
    assert scores["no context", None] == 0.0
    assert scores["perfect retrieval", None] >= max(scores["BM25", noise] for noise in (0, 1, 2)) > 0.0
    assert [level["documents"] - level["negatives"] for level in found["levels"]] == [10, 10, 10]
    assert {method for method, _ in scores} >= {
        "MeMo nano, structured",
        "MeMo nano, single-turn",
        "MeMo nano, unstructured",
    }
    assert all(row["failed"] == row["unanswered"] == 0 for row in found["scores"])
