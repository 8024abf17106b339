"""MuSiQue as a corpus: what is taken of a file, and how much of the evidence a search finds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hops
import pytest
from scripted import WordEmbedder

from memlora_plugins.errors import DatasetError, InvalidInputError
from memlora_plugins.evaluation import musique
from memlora_plugins.evaluation.evidence.recall import alone, measure
from memlora_plugins.evaluation.retrieval import Bm25Search, DenseSearch
from memlora_plugins.memo.corpus import Document, read_corpus
from memlora_plugins.memo.reflections import read_held_out


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return hops.write_rows(tmp_path / "musique.jsonl")


def titles(data: musique.MuSiQue, ids: tuple[str, ...]) -> list[str | None]:
    named = {document.id: document.title for document in data.documents}
    return [named[id] for id in ids]


def test_evidence_and_as_many_negatives_are_the_corpus(file: Path) -> None:
    data = musique.load(file)
    first = data.questions[0]
    assert (first.id, first.hops, first.answers) == ("2hop__0", 2, ("Lessa", "River Lessa"))
    assert first.text == "Which river runs through the town where Ada Quill was born?"
    assert titles(data, first.evidence) == ["Ada Quill", "Brimmel"]
    assert titles(data, first.negatives) == ["Weather", "Mina Oak"]
    weather = [document for document in data.documents if document.title == "Weather"]
    assert [document.group for document in weather] == [("2hop__0", "2hop__1", "2hop__2")]
    assert weather[0].text == "Weather\n\nIt rains in many towns."
    assert len(data.documents) == 3 * 2 + 1 + 3


@pytest.mark.parametrize(("negatives", "documents"), [(0, 6), (2, 6 + 1 + 3 + 3 + 3)])
def test_other_shares_of_negatives(file: Path, negatives: int, documents: int) -> None:
    assert len(musique.load(file, negatives=negatives).documents) == documents


def test_what_is_evidence_of_one_question_is_no_negative_of_another(tmp_path: Path) -> None:
    first, second = hops.rows()[:2]
    first["paragraphs"].insert(0, second["paragraphs"][2] | {"is_supporting": False})
    data = musique.load(hops.write_rows(tmp_path / "f.jsonl", [first, second]))
    assert titles(data, data.questions[0].negatives) == ["Weather", "Mina Oak"]


def test_both_forms_of_the_file_are_read(file: Path, tmp_path: Path) -> None:
    listed = tmp_path / "musique.json"
    listed.write_text("\ufeff " + json.dumps(hops.rows()))
    assert musique.load(listed) == musique.load(file)


def test_unanswerable_questions_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = hops.rows()
    rows[1]["answerable"] = False
    data = musique.load(hops.write_rows(tmp_path / "f.jsonl", rows))
    assert ([question.id for question in data.questions], data.unanswerable) == (["2hop__0", "2hop__2"], 1)


def test_without_a_decomposition_the_evidence_says_the_hops(tmp_path: Path) -> None:
    [row, *_] = hops.rows()
    del row["question_decomposition"], row["answer_aliases"]
    [question] = musique.load(hops.write_rows(tmp_path / "f.jsonl", [row])).questions
    assert (question.hops, question.answers) == (2, ("Lessa",))


def test_what_is_written_is_read_by_synthesis_and_training(file: Path, tmp_path: Path) -> None:
    data = musique.load(file)
    corpus_file, questions_file = data.write(tmp_path / "out")
    corpus = read_corpus(corpus_file)
    assert corpus.documents == data.documents
    assert corpus.skipped == ()
    assert set(corpus.groups) == {question.id for question in data.questions}
    for question in data.questions:
        members = {chunk.document for chunk in corpus.chunks if chunk.id in corpus.groups[question.id]}
        assert members == {*question.evidence, *question.negatives}
    held_out = read_held_out(questions_file)
    assert [(one.kind, one.answers[0], one.documents) for one in held_out] == [
        ("2 hops", question.answers[0], question.evidence) for question in data.questions
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{}]", r"not a MuSiQue file: 0\.id: Field required"),
        ('[{"id": "a", "question": "b", "answer": "c", "paragraphs": [{}]}]', r"0\.paragraphs\.0\.title"),
        ("[", "not a MuSiQue file: : Invalid JSON"),
        ('{"id": 5}', r"line 1: id: Input should be a valid string"),
        ("", "is empty"),
        ("[]", "no answerable question"),
    ],
)
def test_another_file_is_refused_saying_where(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "f").write_text(content)
    with pytest.raises(DatasetError, match=message):
        musique.load(tmp_path / "f")


def test_a_question_needs_words_and_an_answer(tmp_path: Path) -> None:
    for name, value in (("answer", " "), ("question", " ")):
        [row, *_] = hops.rows()
        row |= {"answer_aliases": [""], name: value}
        hops.write_rows(tmp_path / "f", [row])
        with pytest.raises(DatasetError, match=r"line 1: .*(needs an answer|at least 1 character)"):
            musique.load(tmp_path / "f")


def test_a_byte_order_mark_is_no_part_of_either_form(file: Path, tmp_path: Path) -> None:
    content = file.read_text()
    wanted = musique.load(file)
    listed = json.dumps([json.loads(line) for line in content.splitlines()])
    for text in (content, listed):
        (tmp_path / "f").write_text(f"\ufeff{text}")
        assert musique.load(tmp_path / "f") == wanted


def test_a_missing_file_and_less_than_no_negatives(tmp_path: Path, file: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        musique.load(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="at least 0, got -1"):
        musique.load(file, negatives=-1)


# Retrieval -----------------------------------------------------------------------------------------------------------

PETS = [
    Document("cats", "Cats sleep. A cat, cats and more cats."),
    Document("cat", "A cat is a small animal that people keep at home for company since a very long time."),
    Document("dogs", "Dogs run in the park and bark at strangers, and dogs like people."),
    Document("birds", "Birds fly."),
]


@pytest.mark.parametrize("search", [Bm25Search, lambda pets: DenseSearch(pets, WordEmbedder())])
def test_searches_put_the_best_first(search: Callable[[list[Document]], Any]) -> None:
    found = search(PETS)
    assert found("cats", 2)[0] == "cats"
    assert found("where do dogs run?", 1) == ["dogs"]
    assert len(found("cats and dogs", 2)) == 2


def test_bm25_knows_stems_rare_words_and_when_nothing_fits() -> None:
    search = Bm25Search(PETS)
    assert search("cat", 9) == ["cats", "cat"]
    assert search("flying people", 9)[0] == "birds"
    assert search("the quantum", 9) == []
    assert Bm25Search([])("cat", 9) == []
    assert Bm25Search([Document("a", "the")])("the", 9) == []


def test_embedding_tells_how_far_it_is() -> None:
    many = [Document(str(number), f"word{number}") for number in range(300)]
    steps: list[tuple[int, int]] = []
    search = DenseSearch(many, WordEmbedder(), progress=lambda done, of: steps.append((done, of)))
    assert steps == [(256, 300), (300, 300)]
    assert len(search("word299", 300)) == 300
    assert DenseSearch([], WordEmbedder())("word", 1) == []


def test_the_share_of_evidence_by_hops() -> None:
    questions = [
        musique.Question("a", "one?", ("x",), 2, ("d1", "d2")),
        musique.Question("b", "two?", ("x",), 3, ("d1", "d3", "d4")),
    ]
    found = {"one?": ["d1", "d2", "d3"], "two?": ["d1", "d2", "d3"]}
    score = measure(questions, alone(lambda text, limit: found[text][:limit]), ks=(1, 3))
    first, second = musique.retrieval_scores({"s": score})
    assert (first.k, first.evidence, first.complete) == (1, pytest.approx((1 / 2 + 1 / 3) / 2), 0.0)
    assert (second.evidence_by_hops, second.complete_by_hops) == ({2: 1.0, 3: pytest.approx(2 / 3)}, {2: 1.0, 3: 0.0})
    share, whole = musique.retrieval_tables([first, second])
    assert share.columns == ("search", "documents", "all", "2 hops", "3 hops")
    assert share.rows[1] == ("s", "3", "0.833", "1.000", "0.667")
    assert whole.rows[1] == ("s", "3", "0.500", "1.000", "0.000")
    bound_by = measure(questions, alone(musique.evidence_search(questions)), ks=(9,))
    [bound] = musique.retrieval_scores({"s": bound_by})
    assert (bound.evidence, bound.complete) == (1.0, 1.0)


@pytest.mark.skipif("MEMLORA_DATA" not in os.environ, reason="MEMLORA_DATA is not set: no MuSiQue file")
def test_the_published_file(tmp_path: Path) -> None:
    data = musique.load(Path(os.environ["MEMLORA_DATA"]) / "musique" / "musique-dev.json")
    assert len(data.questions) == 100
    assert len({id for question in data.questions for id in question.evidence}) == 234
    assert len(data.documents) == 468
    corpus = read_corpus(data.write(tmp_path)[0])
    sizes = [len(members) for members in corpus.groups.values()]
    assert (len(sizes), sum(sizes) / len(sizes), max(sizes)) == (100, 4.74, 8)  # Table 8 of the paper: mean 5.3, most 8
    found = measure(data.questions, alone(Bm25Search(data.documents)), ks=musique.KS)
    five, nine = musique.retrieval_scores({"BM25": found})
    assert 0.65 < five.evidence < nine.evidence < 0.9
    assert nine.complete_by_hops[2] > nine.complete_by_hops[3]
