"""Memory models of several corpora merged into one, without training on their union (Sections 4.3 and H.1).

Each was trained by itself from the same base; what training changed, its task vector, is combined tensor by tensor and
added to the base. Tensors are read, combined and written a few rows at a time, in float32. Beside libraries, a merge
holds some 4 million elements (or a row, if that has more) of each intermediate. In full it holds only the magnitudes of
one tensor of one model, for TIES, or the change of one layer that is cut to a rank. That stays below (K + 2) times the
largest tensor as it is stored, plus 1 GB, however large the model.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MissingDependencyError, SettingsError
from ...serving.local import model_folder
from ...training.checkpoints import check_replaceable, put_in_place
from .adapter import check_adapters, write_adapter
from .card import merged_card, write_notes
from .methods import MergeMethod, Recipe, Slices, combine
from .task_vectors import Opened, open_models
from .weight_files import LARGEST_FILE, Stored, write_weights

if TYPE_CHECKING:
    import torch

_AT_ONCE = 2**22
"""Elements of a tensor in memory, over all models."""
_PACKAGES = ("torch", "safetensors", "peft", "transformers")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
_REMEDY = "The models are as they were: make room, then merge again."


@dataclass(frozen=True, slots=True)
class MergeEvent:
    """A tensor was merged, the `done`-th of `total`."""

    tensor: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class MergedModel:
    """A merged model. `folder` is a transformers folder, or peft's where a rank was asked for, with its card.

    `tensors` were written, of `bytes` in all. `megabytes_per_second` (10^6 bytes) counts the tensors of base and models
    that were read and those that were written, over the `seconds` of the whole merge. `norm_kept` is the Frobenius norm
    of the change that is left at the rank asked for, over that of the merged change; None for a whole model. `card` is
    `memlora.json`, as data.
    """

    folder: Path
    method: MergeMethod
    tensors: int
    bytes: int
    seconds: float
    megabytes_per_second: float
    norm_kept: float | None
    card: dict[str, Any]


def merge(
    base: Path | str,
    models: Sequence[Path | str],
    out: Path | str,
    *,
    method: MergeMethod = "ties",
    weights: Sequence[float] | None = None,
    density: float = 0.5,
    t: float = 0.5,
    scale: float = 1.0,
    seed: int = 7,
    rank: int | None = None,
    on_event: Callable[[MergeEvent], None] | None = None,
) -> MergedModel:
    """Merge `models`, trained from the model in folder `base` (or of that name in the Hugging Face cache), into `out`.

    Each is the folder of a whole model or of a LoRA adapter, also mixed. The methods and their parameters are those of
    `Recipe`; they treat each tensor by itself. Given the same models, in whatever order and files, and the same `seed`,
    the same entries are dropped.

    `out` becomes a whole model with the base's dtype, tokenizer and config. With `rank`, and adapters only, the merged
    change of each adapted layer is cut to that rank (by singular values) and written as a peft adapter, so that one
    server can have many Memory models over one base. The card lists the documents of all parts, and the parts. What
    was in `out` before is replaced at the very end, all at once.

    Raises:
        SettingsError: models of different bases, shapes or architectures, a tensor with NaN or infinity, a parameter
            out of its range, slerp of other than two models, a rank with whole models, or an `out` that holds something
            else or is one of the inputs. Messages name folders and tensors.
        AdapterInvalidError: an adapter with more than LoRA weights (DoRA, biases, whole modules).
        MissingDependencyError: the extra `local` is not installed.
        TrainingError: `out` cannot be written; what was there is as it was.
    """
    recipe = Recipe(
        method=method, weights=None if weights is None else tuple(weights), density=density, t=t, scale=scale, seed=seed
    )
    recipe.check(len(models))
    started = time.perf_counter()
    opened = open_all(base, models)
    return merge_opened(opened, base, Path(out), recipe, rank=rank, on_event=on_event, started=started)


def open_all(base: Path | str, models: Sequence[Path | str]) -> Opened:
    """The base and the models, read and checked; see `merge`.

    Raises:
        MissingDependencyError, SettingsError, AdapterInvalidError: see `merge`.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise MissingDependencyError(
            f"Merging needs {', '.join(missing)}. Install with: pip install 'memlora-plugins[local]'"
        )
    folders = [Path(model).expanduser().absolute() for model in models]
    return open_models(model_folder(base, allow_download=False), folders)


def merge_opened(
    opened: Opened,
    base: Path | str,
    out: Path,
    recipe: Recipe,
    *,
    rank: int | None = None,
    on_event: Callable[[MergeEvent], None] | None = None,
    started: float | None = None,
) -> MergedModel:
    """`merge` of what is open already, as many times as wanted; `base` is what the card calls it.

    Raises:
        SettingsError, TrainingError: see `merge`.
    """
    started = time.perf_counter() if started is None else started
    recipe.check(len(opened.models))
    out = out.expanduser().absolute()
    _check_out(out, opened)
    adapters = check_adapters(opened, rank)
    total = len(opened.tensors if rank is None else {name for adapter in adapters for name in adapter.layers})
    work = _Merge(opened, recipe, total, on_event or (lambda event: None))
    found: dict[str, Any] = {}
    card: dict[str, Any] = {}

    def write(draft: Path) -> None:
        if rank is None:
            _copy_others(opened.base.folder, draft)
            found["bytes"] = write_weights(draft, opened.tensors, work.rows, largest_file=LARGEST_FILE)
            found["tensors"] = len(opened.tensors)
        else:
            found.update(write_adapter(draft, opened, adapters, rank, partial(work.change, tell=True)))
        found["seconds"] = time.perf_counter() - started
        card.update(merged_card(opened, base, out, recipe, rank, found))
        write_notes(draft, card)

    put_in_place(out, write, remedy=_REMEDY)
    seconds = time.perf_counter() - started
    moved = opened.bytes_read + found["bytes"]
    return MergedModel(
        folder=out,
        method=recipe.method,
        tensors=found["tensors"],
        bytes=found["bytes"],
        seconds=seconds,
        megabytes_per_second=moved / 1e6 / seconds,
        norm_kept=found.get("norm_kept"),
        card=card,
    )


class _Merge:
    """The tensors of the result, as they are asked for."""

    def __init__(self, opened: Opened, recipe: Recipe, total: int, tell: Callable[[MergeEvent], None]) -> None:
        self._opened = opened
        self._recipe = recipe
        self._total = total
        self._prints = [model.weights.fingerprint() for model in opened.models]
        self._tell = tell
        self._done = 0

    def rows(self, stored: Stored) -> Iterator[torch.Tensor]:
        """A tensor of the merged model, in slices, in the dtype of the base."""
        base = self._opened.base
        slices = self._slices(stored)
        if not stored.dtype.is_floating_point:
            for rows in slices:
                yield self._same(stored, rows)
        elif not any(model.changes(stored.name) for model in self._opened.models):
            yield from (base.rows(stored.name, rows) for rows in slices)
        else:
            for rows, change in zip(slices, self.change(stored), strict=True):
                merged = change.add_(self._opened.base_rows(stored, rows)).to(stored.dtype)
                if not bool(merged.isfinite().all()):
                    raise SettingsError(
                        f"{stored.name} becomes larger than {stored.kind} can hold. Merge with a smaller scale or "
                        "weights."
                    )
                yield merged
        self._told(stored)

    def change(self, stored: Stored, *, tell: bool = False) -> Iterator[torch.Tensor]:
        """What the merge adds to a floating tensor of the base, in slices."""
        slices = self._slices(stored)
        vectors = [Slices(partial(self._opened.vector, model, stored, slices)) for model in self._opened.models]
        seeds = [_seed(self._recipe.seed, one, stored.name) for one in self._prints]
        for one in combine(vectors, stored.size, self._recipe, seeds):
            yield one.mul_(self._recipe.scale)
        if tell:
            self._told(stored)

    def _slices(self, stored: Stored) -> list[slice]:
        return stored.slices(_AT_ONCE // len(self._opened.models))

    def _same(self, stored: Stored, rows: slice) -> torch.Tensor:
        """Rows of a tensor of integers, which there is no way to merge."""
        base = self._opened.base.rows(stored.name, rows)
        for model in self._opened.models:
            if model.changes(stored.name) and not model.weights.rows(stored.name, rows).equal(base):
                raise SettingsError(
                    f"{stored.name} holds integers that differ between {model.folder} and the base "
                    f"{self._opened.base.folder}; only numbers with a fraction can be merged."
                )
        return base

    def _told(self, stored: Stored) -> None:
        self._done += 1
        self._tell(MergeEvent(stored.name, self._done, self._total))


def _seed(seed: int, fingerprint: str, tensor: str) -> int:
    """Of a model's random choices in a tensor: its own, wherever model and tensor stand."""
    return int.from_bytes(hashlib.sha256(f"{seed} {fingerprint} {tensor}".encode()).digest()[:8], "big")


def _copy_others(base: Path, draft: Path) -> None:
    """All files of the base but its weights and what is told about it."""
    for path in base.iterdir():
        told = path.name == "memlora.json" or path.name.lower().startswith("readme")
        if path.is_file() and not told and not path.name.startswith(".") and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, draft / path.name)


def _check_out(out: Path, opened: Opened) -> None:
    for folder in (opened.base.folder, *(model.folder for model in opened.models)):
        if folder.resolve().is_relative_to(out.resolve()):
            raise SettingsError(f"{out} would replace {folder}, which is merged. Choose another folder for the result.")
    check_replaceable(out)
