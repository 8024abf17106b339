"""An embedder that remembers what it embedded, across runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scripted import WordEmbedder

from memlora_plugins.embedding import Embedder
from memlora_plugins.errors import EmbeddingError
from memlora_plugins.evaluation.evidence.cached_embedder import CachedEmbedder


class Counting(WordEmbedder):
    """Notes what it was asked for."""

    def __init__(self, name: str = "words") -> None:
        super().__init__()
        self.name = name
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return super().embed(texts)


def test_every_text_is_embedded_once_even_in_another_run(tmp_path: Path) -> None:
    model = Counting()
    first = CachedEmbedder(model, tmp_path / "out")
    assert isinstance(first, Embedder)
    vectors = first.embed(["a boat", "a harbour", "a boat"])
    assert model.asked == ["a boat", "a harbour"]
    assert np.array_equal(vectors, model.embed(["a boat", "a harbour", "a boat"]))
    model.asked.clear()
    again = CachedEmbedder(model, tmp_path / "out")
    assert np.array_equal(again.embed(["a harbour", "a boat"]), vectors[[1, 0]])
    assert model.asked == []
    assert again.embed([]).shape == (0, model.dimension)


async def test_asynchronously_too(tmp_path: Path) -> None:
    model = Counting()
    cached = CachedEmbedder(model, tmp_path)
    assert np.array_equal(await cached.aembed(["a boat"]), cached.embed(["a boat"]))
    assert model.asked == ["a boat"]


def test_closing_it_leaves_the_embedder_open(tmp_path: Path) -> None:
    model = Counting()
    CachedEmbedder(model, tmp_path).close()
    assert model.embed(["still there"]).shape == (1, model.dimension)


def test_another_embedder_has_vectors_of_its_own(tmp_path: Path) -> None:
    one, other = Counting("one"), Counting("other")
    CachedEmbedder(one, tmp_path).embed(["a boat"])
    CachedEmbedder(other, tmp_path).embed(["a boat"])
    assert other.asked == ["a boat"]


def test_what_was_torn_by_a_kill_is_embedded_again(tmp_path: Path) -> None:
    model = Counting()
    first = CachedEmbedder(model, tmp_path)
    vectors = first.embed(["a boat", "a harbour"])
    with first.file.open("r+b") as file:
        file.truncate(first.file.stat().st_size - 5)
    model.asked.clear()
    for _ in range(2):
        assert np.array_equal(CachedEmbedder(model, tmp_path).embed(["a boat", "a harbour"]), vectors)
    assert model.asked == ["a harbour"]


def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    class Failing(Counting):
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            if not self.asked:
                self.asked += texts
                raise EmbeddingError("The endpoint failed.")
            return super().embed(texts)

    cached = CachedEmbedder(Failing(), tmp_path)
    with pytest.raises(EmbeddingError):
        cached.embed(["a boat"])
    assert cached.embed(["a boat"]).shape[0] == 1
