"""Questions and corpora: MuSiQue at several noise levels, and question files of other shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hops
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.errors import DatasetError
from memlora_plugins.evaluation.harness.endpoints import ExecutiveEndpoint
from memlora_plugins.evaluation.memo_qa.config import MemoConfig
from memlora_plugins.evaluation.memo_qa.material import Material, load_material
from memlora_plugins.memo.documents import Document, write_documents

EXECUTIVE = (ExecutiveEndpoint(base_url="http://127.0.0.1:1", model="large"),)
Loader = Callable[..., Material]


@pytest.fixture
def load(tmp_path: Path) -> Loader:
    """The material of `rows` beside a corpus of three documents and four negatives, one of them also in the corpus."""
    corpus = [Document(id, f"The {id} is red.") for id in ("house", "boat", "door")]
    negatives = [Document(id, f"The {id} is green.") for id in ("house", "tree", "leaf")] + [corpus[1]]
    write_documents(tmp_path / "corpus.jsonl", corpus)
    write_documents(tmp_path / "negatives.jsonl", negatives)

    def loaded(*rows: Any, **options: Any) -> Material:
        (tmp_path / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        given = {"corpus": tmp_path / "corpus.jsonl", "questions": tmp_path / "questions.jsonl", **options}
        return load_material(MemoConfig(executive=EXECUTIVE, **given))

    return loaded


def test_musique_has_so_many_distractors_for_each_document_of_evidence(tmp_path: Path) -> None:
    file = hops.write_rows(tmp_path / "musique.jsonl")
    material = load_material(MemoConfig(questions=file, noise=(0, 1, 2), executive=EXECUTIVE))
    sizes = {noise: (len(one.documents), one.evidence, one.negatives) for noise, one in material.levels.items()}
    assert sizes == {0: (6, 6, 0), 1: (10, 6, 4), 2: (16, 6, 10)}, "some are shared"
    assert [one.kind for one in material.questions] == ["2 hops"] * 3
    ids = [{document.id for document in material.levels[noise].documents} for noise in (0, 1, 2)]
    assert ids[0] < ids[1] < ids[2]
    assert {one.id for one in material.evidence} == ids[0]
    first = load_material(MemoConfig(questions=file, limit=1, executive=EXECUTIVE))
    assert (len(first.questions), len(first.levels[0].documents), len(first.evidence)) == (1, 6, 2)


def test_negatives_are_added_in_their_order_for_each_document_that_is_named(load: Loader, tmp_path: Path) -> None:
    rows = ({"question": "Which colour?", "answer": "red", "documents": ["house"]}, {"question": "Why?", "answer": "x"})
    material = load(*rows, negatives=tmp_path / "negatives.jsonl")
    assert [document.id for document in material.levels[2].documents] == [
        "house",
        "boat",
        "door",
        "negative: house",
        "negative: tree",
    ]
    assert {noise: (one.evidence, one.negatives) for noise, one in material.levels.items()} == {
        0: (1, 0),
        1: (1, 1),
        2: (1, 2),
    }
    with pytest.raises(DatasetError, match=r"Noise of 4 takes 4 negatives .* has 3 that are not in the corpus"):
        load(*rows, negatives=tmp_path / "negatives.jsonl", noise=(0, 4))


def test_without_evidence_every_document_counts(load: Loader, tmp_path: Path) -> None:
    material = load({"question": "Why?", "answer": "x"}, negatives=tmp_path / "negatives.jsonl", noise=(1,))
    assert (len(material.levels[1].documents), material.levels[1].evidence, material.evidence) == (6, 0, ())


@pytest.mark.parametrize(
    ("row", "answers", "evidence", "kind"),
    [
        ({"answer": " red "}, ("red",), (), "question"),
        ({"answers": ["red", "crimson"], "kind": "fact"}, ("red", "crimson"), (), "fact"),
        ({"answer": "red", "answers": ["crimson", "red"]}, ("red", "crimson"), (), "question"),
        ({"answer": 1908, "documents": ["boat"]}, ("1908",), ("boat",), "question"),
        ({"answer": ["red", 7], "evidence": "boat", "level": "hard"}, ("red", "7"), ("boat",), "question"),
        ({"answers": 1.5, "kind": 3, "documents": None}, ("1.5",), (), "3"),
    ],
)
def test_question_files_of_several_shapes(
    load: Loader, row: dict[str, Any], answers: tuple[str, ...], evidence: tuple[str, ...], kind: str
) -> None:
    [question] = load({"question": "Which?", **row}).questions
    assert (question.id, question.answers, question.evidence, question.kind) == ("q1", answers, evidence, kind)


@given(st.lists(st.one_of(st.integers(), st.text("aß 7ن!,'\"", min_size=1).filter(str.strip)), min_size=1, max_size=4))
def test_any_answers_are_text_each_once(tmp_path_factory: pytest.TempPathFactory, answers: list[int | str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_documents(folder / "corpus.jsonl", [Document("house", "red")])
    (folder / "q.jsonl").write_text(json.dumps({"question": "Which?", "answers": answers}))
    config = MemoConfig(questions=folder / "q.jsonl", corpus=folder / "corpus.jsonl", executive=EXECUTIVE)
    [question] = load_material(config).questions
    assert question.answers == tuple(dict.fromkeys(str(answer).strip() for answer in answers))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "Which?"}], "line 1: line: Value error, a question needs an answer or answers"),
        ([{"question": "Which?", "answer": ""}], "line 1: answer.0: "),
        ([{"question": "Which?", "answer": True}], "line 1: answer.0: "),
        ([{"answer": "x"}], "line 1: question: Field required"),
        ([{"question": "A?", "answer": "x"}, {"question": "A?", "answer": "y"}], "two questions with the text 'A\\?'"),
        (
            [{"id": "1", "question": "A?", "answer": "x"}, {"id": 1, "question": "B?", "answer": "y"}],
            "two questions with the id '1'",
        ),
        ([{"question": "A?", "answer": "x", "documents": ["car"]}], "'A\\?' names 'car', which .*corpus.jsonl lacks"),
        ([{"question": "A?", "answer": "x", "paragraphs": []}], "leave out corpus"),
        (["text"], "line 1: line: "),
    ],
)
def test_what_is_no_question_is_named(load: Loader, rows: list[Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load(*rows)


def test_a_repeated_document_that_a_question_names(load: Loader, tmp_path: Path) -> None:
    write_documents(tmp_path / "corpus.jsonl", [Document("one", "same"), Document("two", "same")])
    with pytest.raises(DatasetError, match=r"lacks \(left out: the same text as one\)"):
        load({"question": "A?", "answer": "x", "documents": ["two"]})


def test_a_file_of_another_kind_without_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "A?", "answer": "x"}\n')
    with pytest.raises(DatasetError, match=r"line 1: id: Field required\. Without a corpus"):
        load_material(MemoConfig(questions=tmp_path / "q.jsonl", executive=EXECUTIVE))
