"""Finding documents for a question, in memory: BM25 and embeddings, the retrieval that MeMo is compared with.

A search is made of documents and gives the ids of those that fit a question, the best first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..embedding import Embedder
    from ..memo.documents import Document

Search = Callable[[str, int], list[str]]
"""(question, limit) to at most so many ids of documents, best first."""

K, B = 1.2, 0.75
"""BM25: how fast the repetition of a word stops counting, and how much the length of a document counts."""
_BATCH = 256  # documents embedded between two signs of life


class Bm25Search:
    """Okapi BM25 over English word stems, as Qdrant Edge cuts them. What shares no word with it is not found."""

    def __init__(self, documents: Sequence[Document]) -> None:
        import numpy as np
        import qdrant_edge

        from ..store.ranking import COUNTING

        self._ids = [document.id for document in documents]
        self._words = qdrant_edge.Bm25(qdrant_edge.Bm25Config(k=COUNTING["k"], b=COUNTING["b"]))
        counted = [self._words.embed_document(document.text) for document in documents]
        lengths = [sum(words.values) for words in counted]
        mean = sum(lengths) / max(1, len(lengths)) or 1.0
        places: defaultdict[int, list[int]] = defaultdict(list)
        weights: defaultdict[int, list[float]] = defaultdict(list)
        for place, (words, length) in enumerate(zip(counted, lengths, strict=True)):
            dampened = K * (1 - B + B * length / mean)
            for word, count in zip(words.indices, words.values, strict=True):
                places[word].append(place)
                weights[word].append(count * (K + 1) / (count + dampened))
        self._found = {
            word: (np.asarray(at), np.asarray(weights[word]) * _rarity(len(at), len(counted)))
            for word, at in places.items()
        }

    def __call__(self, question: str, limit: int) -> list[str]:
        import numpy as np

        scores = np.zeros(len(self._ids))
        for word in self._words.embed_query(question).indices:
            if word in self._found:
                places, weights = self._found[word]
                scores[places] += weights
        best = np.argsort(-scores, kind="stable")[:limit]
        return [self._ids[place] for place in best if scores[place] > 0]


def _rarity(having: int, of: int) -> float:
    """The inverse document frequency of a word that so many documents have; never below 0."""
    return math.log1p((of - having + 0.5) / (having + 0.5))


class DenseSearch:
    """Nearest embeddings by cosine. `embedder` is only lent; `progress` hears of (documents embedded, of how many).

    Raises (constructor, call):
        EmbeddingError: the embedder failed.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        embedder: Embedder,
        *,
        progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> None:
        import numpy as np

        self._ids = [document.id for document in documents]
        self._embedder = embedder
        found = []
        for start in range(0, len(documents), _BATCH):
            found.append(embedder.embed([document.text for document in documents[start : start + _BATCH]]))
            progress(min(start + _BATCH, len(documents)), len(documents))
        self._vectors = np.concatenate(found) if found else np.zeros((0, embedder.dimension), np.float32)

    def __call__(self, question: str, limit: int) -> list[str]:
        import numpy as np

        scores = self._vectors @ self._embedder.embed([question])[0]
        return [self._ids[place] for place in np.argsort(-scores, kind="stable")[:limit]]
