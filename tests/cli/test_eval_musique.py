"""`memlora eval musique`: without any large model, and with fake servers of a large model and a Memory model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import hops
import hops_models
import pytest
from commands import Memlora
from fake_server import FakeModelServer, Fault

from memlora_plugins.evaluation import musique
from memlora_plugins.memo.card import MemoCard, TrainedDocument, write_card
from memlora_plugins.memo.corpus import read_corpus


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return hops.write_rows(tmp_path / "musique.jsonl")


@pytest.fixture
def executive() -> Iterator[FakeModelServer]:
    with hops_models.executive() as server:
        yield server


@pytest.fixture
def memory_server() -> Iterator[FakeModelServer]:
    with hops_models.memory_server() as server:
        yield server


@pytest.fixture
def memory_model(tmp_path: Path) -> Path:
    folder = tmp_path / "memory-model"
    write_card(folder, MemoCard(documents=(TrainedDocument(id="d1"),)))
    return folder


def test_without_a_model_it_builds_measures_and_says_what_is_needed(
    memlora: Memlora, file: Path, tmp_path: Path
) -> None:
    done = memlora("eval", "musique", str(file), "--out", "out")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert "3 questions: out/questions.jsonl" in done.stdout
    assert "10 documents, 6 of them evidence: out/corpus.jsonl" in done.stdout
    assert {tuple(line[:2]) for line in lines} >= {("BM25", "5"), ("BM25", "9"), ("dense", "5"), ("dense", "9")}
    assert "--executive-url" in done.stdout
    assert "memlora memo synthesize out/corpus.jsonl" in done.stdout
    assert len(read_corpus(tmp_path / "out").documents) == 10  # the folder will do, too: the questions are no documents
    assert not (tmp_path / "out" / "answers.jsonl").exists()


def test_as_json(memlora: Memlora, file: Path) -> None:
    told = json.loads(memlora("eval", "musique", str(file), "-o", "out", "--negatives", "0", "--json").stdout)
    assert (told["questions"], told["documents"], told["evidence"], told["unanswerable"]) == (3, 6, 6, 0)
    assert [(row["search"], row["k"]) for row in told["retrieval"]] == [
        ("BM25", 5),
        ("BM25", 9),
        ("dense", 5),
        ("dense", 9),
    ]
    assert told["retrieval"][-1]["evidence"] == 1.0
    assert (told["answers"], len(told["needed"])) == ([], 2)


def test_vectors_are_shared_with_the_comparison_of_rankings(memlora: Memlora, file: Path, tmp_path: Path) -> None:
    """In one folder, and both commands tell the same."""
    first = json.loads(memlora("eval", "musique", str(file), "-o", "out", "--json").stdout)
    [vectors] = (tmp_path / "out").glob("embeddings-*.bin")
    size = vectors.stat().st_size
    assert size > 0
    second = json.loads(memlora("eval", "retrieval", str(file), "-o", "out", "--json").stdout)
    assert vectors.stat().st_size == size, "nothing was left to embed"
    scores = {one["setting"]: one["score"] for one in second["measured"] if one["unit"] == "paragraphs"}
    for row in first["retrieval"]:
        score, k = scores[row["search"]], str(row["k"])
        assert row["evidence"] == score["recall"][k]["mean"]
        assert row["complete"] == score["complete"][k]["mean"]
        assert row["evidence_by_hops"] == {"2": score["by_category"]["2"]["recall"][k]["mean"]}


def test_bm25_dense_and_memo_side_by_side(
    memlora: Memlora,
    file: Path,
    tmp_path: Path,
    executive: FakeModelServer,
    memory_server: FakeModelServer,
    memory_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEMLORA_EXECUTIVE_API_KEY", "large-key")
    monkeypatch.setenv("MEMLORA_API_KEY", "memory-key")
    words = ["eval", "musique", str(file), "-o", "out", "--executive-url", executive.base_url]
    words += ["--executive-model", "large", "--memory", str(memory_model), "--memory-url", memory_server.base_url]
    done = memlora(*words, "--upper-bound")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["perfect", "retrieval", "1.000", "1.000", "1.000", "3", "0", "2.0"] in [line[:8] for line in lines]
    memo = ["MeMo", "memory-model,", "structured"]
    assert [*memo, "0.667", "0.667", "0.667", "3", "0"] in [line[:8] for line in lines]
    assert "is needed" not in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows[::3]] == [
        "perfect retrieval",
        "BM25",
        "dense",
        "MeMo memory-model, structured",
    ]
    assert [row["answer"] for row in rows[-3:]] == ["Lessa", "Moir", "unknown"]
    assert all(len(body["messages"]) == 1 for body in memory_server.requests)
    assert executive.headers["authorization"] == "Bearer large-key"
    assert memory_server.headers["authorization"] == "Bearer memory-key"


def test_answers_are_asked_for_once(memlora: Memlora, file: Path, executive: FakeModelServer) -> None:
    """A large model that goes away in the middle costs what was not answered, and nothing else."""
    words = ["eval", "musique", str(file), "-o", "out", "--executive-url", executive.base_url]
    words += ["--executive-model", "large", "--concurrency", "1"]
    executive.fail(None, None, *[Fault(status=503)] * 4)
    memlora(*words, code=1)
    asked = len(executive.requests)
    whole = memlora(*words, "--json")
    assert len(executive.requests) == asked + 4, "two of the six answers were there"
    assert memlora(*words, "--json").stdout == whole.stdout
    assert len(executive.requests) == asked + 4
    memlora(*words, "--top-k", "2")
    assert len(executive.requests) == asked + 10, "with another number of documents to read, it is another question"
    assert memlora(*words, "--json").stdout == whole.stdout
    assert len(executive.requests) == asked + 10


def test_the_first_questions_and_documents_only(memlora: Memlora, file: Path, executive: FakeModelServer) -> None:
    words = ["eval", "musique", str(file), "-o", "out", "--executive-url", executive.base_url]
    words += ["--executive-model", "large", "--questions", "1", "--top-k", "2"]
    told = json.loads(memlora(*words, "--json").stdout)
    assert [(row["method"], row["questions"]) for row in told["answers"]] == [("BM25", 1), ("dense", 1)]
    assert len(told["needed"]) == 1
    assert all("[3]" not in body["messages"][0]["content"] for body in executive.requests)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--executive-model", "large"], 2, "belong together"),
        (["--negatives", "-1"], 2, "--negatives"),
    ],
)
def test_wrong_usage(memlora: Memlora, file: Path, words: list[str], code: int, message: str) -> None:
    assert message in memlora("eval", "musique", str(file), "-o", "out", *words, code=code).stderr


def test_a_folder_that_is_no_memory_model_and_a_server_that_is_down(
    memlora: Memlora, file: Path, tmp_path: Path, executive: FakeModelServer
) -> None:
    words = ["eval", "musique", str(file), "-o", "out", "--executive-url", executive.base_url]
    words += ["--executive-model", "large"]
    assert "is no Memory model" in memlora(*words, "--memory", str(tmp_path), code=1).stderr
    executive.stop()
    assert "error: " in memlora(*words, code=1).stderr
    assert (tmp_path / "out" / musique.CORPUS_FILE).exists()
