"""A corpus: each text once, cut into chunks, in groups; and what is said when nothing is left."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import WordEmbedder

from memlora_plugins.errors import DatasetError, InvalidInputError
from memlora_plugins.memo.corpus import Chunk, Corpus, Document, Skipped, read_corpus, windows
from memlora_plugins.memo.grouping import by_similarity

RIVER = Document("river", "The river is long and slow.", group="water")
SEA = Document("sea", "The sea is wide and salty.", group="water")
HILL = Document("hill", "The hill is green.")

texts = st.text(alphabet=st.sampled_from("ab \n\t\u2028\x1f"), max_size=300)


# Chunks --------------------------------------------------------------------------------------------------------------


@given(texts, st.integers(1, 12), st.data())
def test_windows_cover_every_word_in_order(text: str, words: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, words - 1))
    cut = [window.split() for window in windows(text, words, overlap)]
    if not text.split():
        assert cut == []
        return
    whole = list(cut[0])
    for before, after in itertools.pairwise(cut):
        assert len(before) == words
        assert before[len(before) - overlap :] == after[:overlap]
        assert len(after) > overlap
        whole += after[overlap:]
    assert whole == text.split()
    assert all(len(window) <= words for window in cut)


@given(texts, st.integers(1, 12))
def test_windows_keep_the_white_space(text: str, words: int) -> None:
    position = 0
    for window in windows(text, words, 0):
        assert window == window.strip()
        position = text.index(window, position) + len(window)


def test_a_long_document_becomes_chunks() -> None:
    text = " ".join(str(number) for number in range(7000))
    corpus = Corpus.of([Document("book", text), HILL])
    assert [(chunk.id, chunk.document) for chunk in corpus.chunks] == [
        ("book#1", "book"),
        ("book#2", "book"),
        ("hill#1", "hill"),
    ]
    assert corpus.chunks[0].text.split()[-1] == "6399"
    assert corpus.chunks[1].text.split()[0] == "5760"
    [whole, _] = Corpus.of([Document("book", text), HILL], whole_documents=True).chunks
    assert whole == Chunk("book#1", "book", text)


def test_chunks_of_another_size_overlap_by_a_tenth_unless_told() -> None:
    text = " ".join(str(number) for number in range(30))
    chunks = Corpus.of([Document("a", text)], chunk_words=20).chunks
    assert [chunk.text.split()[0] for chunk in chunks] == ["0", "18"]
    chunks = Corpus.of([Document("a", text)], chunk_words=20, overlap_words=5).chunks
    assert [chunk.text.split()[0] for chunk in chunks] == ["0", "15"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_words": 10, "overlap_words": 10}, "at least one word more than its overlap"),
        ({"chunk_words": 0}, "chunk_words is 0"),
        ({"overlap_words": -1}, "overlap_words -1"),
        ({"group_by": "colour"}, "label, document, similarity, got 'colour'"),
        ({"group_by": "similarity"}, "pass an embedder"),
        ({"group_size": 1}, "one chunk is no group"),
    ],
)
def test_options_that_contradict_each_other(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Corpus.of([RIVER], **options)
    with pytest.raises(InvalidInputError, match=message):
        read_corpus(tmp_path, **options)


# What is kept --------------------------------------------------------------------------------------------------------


def test_a_folder_of_mixed_files(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# The river\n\nIt is long.")
    (tmp_path / "b.txt").write_text("# The  river\nIt is long.\n")
    (tmp_path / "c.jsonl").write_text('{"text": "The sea is wide."}\n{"text": " "}\noops\n')
    (tmp_path / "d.png").write_bytes(b"\x89PNG\0")
    corpus = read_corpus([tmp_path])
    assert [document.id for document in corpus.documents] == ["a.md", "c.jsonl:1"]
    assert [(Path(one.path).name, one.reason.partition(" ")[0]) for one in corpus.skipped] == [
        ("b.txt", "the"),
        ("c.jsonl:2", "empty"),
        ("c.jsonl, line 3", "not"),
        ("d.png", "of"),
    ]
    assert str(corpus.skipped[0]) == "b.txt: the same text as a.md"
    assert corpus.groups == {}


def test_no_identifier_is_in_a_chunk(tmp_path: Path) -> None:
    (tmp_path / "secret-name.jsonl").write_text('{"id": "x-17", "title": "Y", "group": "z-3", "text": "The sea."}')
    [chunk] = read_corpus(tmp_path).chunks
    assert chunk.text == "The sea."


def test_a_repetition_leaves_its_labels_and_its_name() -> None:
    again = Document("sea again", f" {SEA.text}\n", group=("salt", "water"))
    corpus = Corpus.of([SEA, again, RIVER, Document("lake", "The lake is salty.", group="salt")])
    assert corpus.skipped == (Skipped("sea again", "the same text as sea"),)
    assert corpus.documents[0].group == ("water", "salt")
    assert corpus.groups == {"water": ("sea#1", "river#1"), "salt": ("sea#1", "lake#1")}
    named = Corpus.of([SEA, again, RIVER], groups={"g": ["sea again", "river", "sea"]})
    assert named.groups == {"g": ("sea#1", "river#1")}


@pytest.mark.parametrize(
    "documents",
    [
        [SEA, Document("sea", "Another sea.")],
        [SEA, RIVER, Document("river", SEA.text)],
        [SEA, Document("lake", SEA.text), Document("lake", "A lake.")],
    ],
)
def test_two_texts_with_one_id(documents: list[Document]) -> None:
    with pytest.raises(DatasetError, match=r"Two documents have the id '(sea|river|lake)'"):
        Corpus.of(documents)


def test_the_same_document_twice() -> None:
    corpus = Corpus.of([SEA, SEA])
    assert corpus.documents == (SEA,)
    assert len(corpus.skipped) == 1


def test_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"empty: there is no document in {tmp_path}"):
        read_corpus(tmp_path)
    for number in range(12):
        (tmp_path / f"{number:02}.png").touch()
    (tmp_path / "00.txt").touch()
    with pytest.raises(DatasetError) as raised:
        read_corpus(tmp_path)
    assert f"nothing in {tmp_path} can be used" in str(raised.value)
    assert "00.txt: empty" in str(raised.value)
    assert "00.png: of an unknown kind" in str(raised.value)
    assert str(raised.value).endswith("; and 3 more.")
    with pytest.raises(DatasetError, match="no document in what was passed"):
        Corpus.of([])


# Groups --------------------------------------------------------------------------------------------------------------


def test_groups_by_label_document_and_name() -> None:
    book = Document("book", " ".join(str(number) for number in range(30)), group="long")
    documents = [RIVER, SEA, HILL, book]
    assert Corpus.of(documents, chunk_words=20).groups == {
        "water": ("river#1", "sea#1"),
        "long": ("book#1", "book#2"),
    }
    assert Corpus.of(documents, chunk_words=20, group_by="document").groups == {"book": ("book#1", "book#2")}
    assert Corpus.of(documents, chunk_words=20, group_by=None).groups == {}
    named = Corpus.of(documents, chunk_words=20, groups={"mine": ["hill", "book"], "one": ["sea"]})
    assert named.groups == {"mine": ("hill#1", "book#1", "book#2")}
    with pytest.raises(DatasetError, match="'mine' names the document 'lake', which the corpus lacks"):
        Corpus.of(documents, groups={"mine": ["hill", "lake"]})


def test_groups_by_similarity() -> None:
    documents = [
        Document("r1", "A river flows through our green valley."),
        Document("m1", "Carmen sings Bizet at the opera tonight."),
        Document("r2", "A river flows through some old valley."),
        Document("m2", "Carmen sings Bizet at the theatre tomorrow."),
        Document("x", "Prime numbers."),
    ]
    corpus = Corpus.of(documents, group_by="similarity", embedder=WordEmbedder())
    assert corpus.groups == {"similar 1": ("r1#1", "r2#1"), "similar 2": ("m1#1", "m2#1")}
    [alone] = [Corpus.of([RIVER], group_by="similarity", embedder=WordEmbedder())]
    assert alone.groups == {}


def unit(rows: Sequence[Sequence[float]]) -> Any:
    vectors = np.asarray(rows, np.float32).reshape(len(rows), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_chain_of_near_texts_is_no_group() -> None:
    angles = np.radians([0, 40, 80, 120])
    chain = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist())
    assert by_similarity(chain, at_least=0.7) == [(0, 1), (2, 3)]
    assert by_similarity(chain, at_least=-0.5) == [(0, 1, 2, 3)]
    assert by_similarity(chain, size=3, at_least=-0.5) == [(0, 1), (2, 3)]
    assert by_similarity(chain, at_least=0.9) == []


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3).filter(any), min_size=1, max_size=40),
    st.integers(2, 7),
    st.sampled_from([-1.0, 0.0, 0.3, 0.8]),
)
def test_groups_are_apart_small_and_similar(rows: list[list[int]], size: int, at_least: float) -> None:
    vectors = unit(rows)
    groups = by_similarity(vectors, size=size, at_least=at_least)
    placed = [place for group in groups for place in group]
    assert len(placed) == len(set(placed))
    assert groups == sorted(groups)
    for group in groups:
        assert 2 <= len(group) <= size
        assert list(group) == sorted(group)
        near = vectors[list(group)] @ vectors[list(group)].T
        pairs = near[np.triu_indices(len(group), 1)]
        assert pairs.mean() >= at_least - 1e-4
    assert by_similarity(vectors, size=size, at_least=at_least) == groups


def test_a_large_corpus_takes_seconds() -> None:
    documents = [
        Document(str(number), f"Document {number} " + "has these words. " * 20, group=f"{number // 5}")
        for number in range(20_000)
    ]
    began = time.perf_counter()
    corpus = Corpus.of(documents)
    assert time.perf_counter() - began < 5
    assert (len(corpus.documents), len(corpus.chunks), len(corpus.groups)) == (20_000, 20_000, 4_000)
