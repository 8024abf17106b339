"""A model's weights on disk, a few rows at a time: read from safetensors, and written as such without ever being whole.

`safetensors.save_file` wants all tensors of a file in memory, 5 GB of them for a sharded model. The format is a header
and then the bytes, so a file can be written as its rows come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SettingsError

if TYPE_CHECKING:
    import torch

INDEX_FILE = "model.safetensors.index.json"
WHOLE_FILE = "model.safetensors"
LARGEST_FILE = 5_000_000_000
"""Bytes; a larger model is written in several files."""

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file. `kind` is its dtype as safetensors calls it."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype as torch calls it."""
        import torch

        found: torch.dtype = getattr(torch, _DTYPES[self.kind])
        return found

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return self.size * self.dtype.itemsize

    def slices(self, elements: int) -> list[slice]:
        """Ranges of rows that have about `elements` each, and all rows together. A scalar is one row."""
        rows = self.shape[0] if self.shape else 1
        step = max(1, elements * rows // max(1, self.size))
        return [slice(at, min(at + step, rows)) for at in range(0, rows, step)]


class StoredWeights:
    """The tensors of the model in `folder`: of `file`, or of the model's own file or files.

    Raises (all):
        SettingsError: there are no safetensors, they cannot be read, or hold a dtype that cannot be computed with.
    """

    def __init__(self, folder: Path, file: str | None = None) -> None:
        self.folder = folder
        self.tensors: dict[str, Stored] = {}
        self._files: dict[str, Path] = {}
        for path in [folder / file] if file is not None else model_files(folder):
            for stored in _header(path):
                self.tensors[stored.name] = stored
                self._files[stored.name] = path

    def rows(self, name: str, rows: slice) -> torch.Tensor:
        """Some rows of a tensor. They are read when they are used, and let go with the tensor."""
        path = self._files[name]
        # Opened anew each time: a file that stays open keeps every page of it that was ever read.
        with _opened(path) as file:
            found: torch.Tensor = file.get_slice(name)[rows] if self.tensors[name].shape else file.get_tensor(name)
        return found

    def fingerprint(self) -> str:
        """A hash of all names and shapes, and of three rows of each tensor: the same in whatever files they are."""
        import torch

        total = hashlib.sha256()
        for name, stored in sorted(self.tensors.items()):
            total.update(f"{name} {stored.kind} {stored.shape}\n".encode())
            last = (stored.shape[0] if stored.shape else 1) - 1
            for row in sorted({0, last // 2, last}) if stored.size else ():
                total.update(self.rows(name, slice(row, row + 1)).reshape(-1).view(torch.uint8).numpy().data)
        return total.hexdigest()


def write_weights(
    folder: Path,
    tensors: Sequence[Stored],
    make: Callable[[Stored], Iterable[torch.Tensor]],
    *,
    largest_file: int = LARGEST_FILE,
) -> int:
    """Write the rows that `make` yields of each tensor: one file, or several with an index, as transformers reads.

    Returns the bytes of all tensors.

    Raises:
        OSError: they cannot be written.
    """
    parts = _parts(tensors, largest_file)
    names = [f"model-{number:05}-of-{len(parts):05}.safetensors" for number in range(1, len(parts) + 1)]
    names = [WHOLE_FILE] if len(parts) == 1 else names
    for name, part in zip(names, parts, strict=True):
        _write_file(folder / name, part, make)
    total = sum(stored.bytes for stored in tensors)
    if len(parts) > 1:
        places = {stored.name: name for name, part in zip(names, parts, strict=True) for stored in part}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def _parts(tensors: Sequence[Stored], largest: int) -> list[list[Stored]]:
    """The tensors by file; in each, wide dtypes come first, so that all of them are aligned."""
    parts: list[list[Stored]] = [[]]
    room = largest
    for stored in tensors:
        if stored.bytes > room and parts[-1]:
            parts.append([])
            room = largest
        parts[-1].append(stored)
        room -= stored.bytes
    return [sorted(part, key=lambda stored: (-stored.dtype.itemsize, stored.name)) for part in parts]


def _write_file(path: Path, tensors: Sequence[Stored], make: Callable[[Stored], Iterable[torch.Tensor]]) -> None:
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for stored in tensors:
        offsets = [end, end := end + stored.bytes]
        header[stored.name] = {"dtype": stored.kind, "shape": list(stored.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for stored in tensors:
            before = file.tell()
            for rows in make(stored):
                file.write(rows.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            if file.tell() - before != stored.bytes:
                raise AssertionError(f"{stored.name} has {stored.bytes} bytes, {file.tell() - before} were written")


def model_files(folder: Path) -> list[Path]:
    """The files that hold the weights of the model in `folder`: those that its index names, or the one without.

    Raises:
        SettingsError: the index cannot be read.
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        return [folder / WHOLE_FILE]
    try:
        places: Mapping[str, str] = json.loads(index.read_bytes())["weight_map"]
        return [folder / name for name in sorted(set(places.values()))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{index} cannot be read: {error!r}. Download or train the model again.") from error


def _header(path: Path) -> Iterator[Stored]:
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            found = file.get_slice(name)
            if (kind := found.get_dtype()) not in _DTYPES:
                raise SettingsError(
                    f"{path} holds {name} as {kind}: quantised weights cannot be merged. Use the model as it was "
                    "before."
                )
            yield Stored(name, kind, tuple(found.get_shape()))


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise SettingsError(
            f"{path} cannot be read: {error}. What is merged are folders with safetensors; download or train it again."
        ) from error
