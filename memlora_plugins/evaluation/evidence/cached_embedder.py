"""An embedder that remembers: what is measured in many settings, or again, is embedded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..harness.scratch import Lent

if TYPE_CHECKING:
    from ...embedding import Embedder, Vector, Vectors

_KEY = hashlib.sha256().digest_size


class CachedEmbedder(Lent):
    """Gives the vectors of `embedder`, which is only lent, and keeps them in a file of `folder`, one for each embedder
    by name and dimension. What was embedded before it was killed is not embedded again. For one process at a time.

    Raises (constructor, embed):
        OSError: the file cannot be read or written. EmbeddingError (embed): the embedder failed.
    """

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        import numpy as np

        super().__init__(embedder)
        made_by = hashlib.sha256(self.name.encode()).hexdigest()[:12]
        self.file = folder / f"embeddings-{made_by}-{self.dimension}.bin"
        self._row = np.dtype([("key", f"V{_KEY}"), ("vector", "<f4", (self.dimension,))])
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[bytes, Vector] = {}
        if self.file.exists():
            rows = np.fromfile(self.file, dtype=self._row)
            self._known = {row["key"].tobytes(): row["vector"] for row in rows}
            whole = len(rows) * self._row.itemsize
            if self.file.stat().st_size != whole:  # the last row was torn by a kill
                with self.file.open("r+b") as file:
                    file.truncate(whole)

    def embed(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        keys = [hashlib.sha256(text.encode(errors="surrogatepass")).digest() for text in texts]
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if unknown:
            rows = np.empty(len(unknown), self._row)
            rows["key"] = np.array([np.void(key) for key in unknown])
            rows["vector"] = super().embed(list(unknown.values()))
            with self.file.open("ab") as file:
                file.write(rows.tobytes())
            self._known |= zip(unknown, rows["vector"], strict=True)
        if not keys:
            return np.zeros((0, self.dimension), np.float32)
        return np.stack([self._known[key] for key in keys])
