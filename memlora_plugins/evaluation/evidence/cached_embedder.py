"""An embedder that remembers: what is measured in many settings, or again, is embedded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ClosedError, StoreLockedError, StoreUnavailableError
from ...store.folder import Folder
from ..harness.scratch import Lent
from ..report import keep_private

if TYPE_CHECKING:
    from ...embedding import Embedder, Vector, Vectors

_KEY = hashlib.sha256().digest_size


class CachedEmbedder(Lent):
    """Gives the vectors of `embedder`, which is only lent, and keeps them in a file of `folder`, one for each embedder
    by name and dimension. What was embedded before it was killed is not embedded again. The file is held until `close`.

    Raises (constructor, embed):
        ClosedError (embed): after `close`.
        StoreLockedError (constructor): another process holds the file, or another of these in this one.
        StoreUnavailableError (constructor): the folder cannot be made or written. OSError: the file cannot be read or
            written. EmbeddingError (embed): the embedder failed.
    """

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        import numpy as np

        super().__init__(embedder)
        made_by = hashlib.sha256(self.name.encode()).hexdigest()[:12]
        self.file = folder / f"embeddings-{made_by}-{self.dimension}.bin"
        self._row = np.dtype([("key", f"V{_KEY}"), ("vector", "<f4", (self.dimension,))])
        lock = self.file.with_name(f".{self.file.stem}")
        self._held: Folder | None = _held(self.file, lock)
        try:
            keep_private(folder, (self.file.name, lock.name))  # texts can be guessed from their vectors
            self._known = self._read()
        except BaseException:
            self.close()
            raise

    def embed(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        if self._held is None:
            raise ClosedError(f"The vectors in {self.file} were closed; make another CachedEmbedder.")
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

    def close(self) -> None:
        """Let others have the file. Whoever lent the embedder closes it."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    def _read(self) -> dict[bytes, Vector]:
        import numpy as np

        if not self.file.exists():
            return {}
        rows = np.fromfile(self.file, dtype=self._row)
        whole = len(rows) * self._row.itemsize
        if self.file.stat().st_size != whole:  # the last row was torn by a kill
            with self.file.open("r+b") as file:
                file.truncate(whole)
        return {row["key"].tobytes(): row["vector"] for row in rows}


def _held(file: Path, lock: Path) -> Folder:
    try:
        return Folder(lock)
    except StoreLockedError as error:
        raise StoreLockedError(
            f"{file} is being written by somebody else, here or in another process. Wait until that is done, or use "
            "another folder for the results."
        ) from error
    except StoreUnavailableError as error:
        raise StoreUnavailableError(f"{file.parent} cannot be written; pass a folder that can.") from error
