"""Texts to vectors.

An embedder is any sentence-transformers model (name or folder), the packaged all-MiniLM-L6-v2, or an
OpenAI-compatible `/v1/embeddings` endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]
    """One embedding: float32, shape (dimension,), unit length."""
    Vectors = NDArray[np.float32]
    """Embeddings: float32, shape (number of texts, dimension), unit length."""


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
