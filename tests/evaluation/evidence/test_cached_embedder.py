"""An embedder that remembers what it embedded, across runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scripted import WordEmbedder

from memlora_plugins.embedding import Embedder
from memlora_plugins.errors import ClosedError, EmbeddingError, StoreLockedError, StoreUnavailableError
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
    first.close()
    again = CachedEmbedder(model, tmp_path / "out")
    assert np.array_equal(again.embed(["a harbour", "a boat"]), vectors[[1, 0]])
    assert model.asked == []
    assert again.embed([]).shape == (0, model.dimension)


def test_git_leaves_vectors_and_lock_alone(tmp_path: Path) -> None:
    """What was said can be guessed from them."""
    with closing(CachedEmbedder(Counting(), tmp_path)) as cached:
        cached.embed(["a boat"])
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        listed = ["git", "-C", str(tmp_path), "status", "--porcelain", "--untracked-files=all"]
        assert subprocess.run(listed, check=True, capture_output=True, text=True).stdout == "?? .gitignore\n"


async def test_asynchronously_too(tmp_path: Path) -> None:
    model = Counting()
    cached = CachedEmbedder(model, tmp_path)
    assert np.array_equal(await cached.aembed(["a boat"]), cached.embed(["a boat"]))
    assert model.asked == ["a boat"]


def test_closing_it_leaves_the_embedder_open(tmp_path: Path) -> None:
    model = Counting()
    cached = CachedEmbedder(model, tmp_path)
    cached.embed(["a boat"])
    cached.close()
    cached.close()
    with pytest.raises(ClosedError, match="make another"):
        cached.embed(["a boat"])
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
    first.close()
    for _ in range(2):
        with closing(CachedEmbedder(model, tmp_path)) as again:
            assert np.array_equal(again.embed(["a boat", "a harbour"]), vectors)
    assert model.asked == ["a harbour"]


HOLD = """
import sys
from pathlib import Path
from scripted import WordEmbedder
from memlora_plugins.evaluation.evidence.cached_embedder import CachedEmbedder

cached = CachedEmbedder(WordEmbedder(), Path(sys.argv[1]))
cached.embed(["a boat"])
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    """A killed one holds it no more, and what it embedded is there."""
    paths = os.pathsep.join(path for path in sys.path if path)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    model = Counting(WordEmbedder().name)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoreLockedError, match=r"embeddings-.*\.bin is being written .* use another folder"):
            CachedEmbedder(model, tmp_path)
        CachedEmbedder(Counting("of another name"), tmp_path).close()
        other.kill()
    with closing(CachedEmbedder(model, tmp_path)) as mine:
        mine.embed(["a boat", "a harbour"])
    assert model.asked == ["a harbour"]


async def test_nor_do_two_in_one_process(tmp_path: Path) -> None:
    first = CachedEmbedder(Counting(), tmp_path)
    with pytest.raises(StoreLockedError):
        CachedEmbedder(Counting(), tmp_path)
    await first.aclose()
    CachedEmbedder(Counting(), tmp_path).close()


def test_a_folder_or_file_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="file cannot be written; pass a folder that can"):
        CachedEmbedder(Counting(), tmp_path / "file")
    with closing(CachedEmbedder(Counting(), tmp_path)) as cached:
        cached.file.mkdir()
    for _ in range(2):  # the first does not keep it locked
        with pytest.raises(OSError, match="directory"):
            CachedEmbedder(Counting(), tmp_path)


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
