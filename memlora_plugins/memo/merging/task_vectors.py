"""What training changed in a model, tensor by tensor: of a whole model, or of a LoRA adapter through scaling * B A.

Merging the A and the B of adapters separately merges something else: a product of sums is no sum of products.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AdapterInvalidError, SettingsError
from ...serving.adapters import CONFIG_FILE, NOTES_FILE, WEIGHTS_FILE, base_config, preflight, weights_sha256
from .weight_files import Stored, StoredWeights

if TYPE_CHECKING:
    import torch

_TIED = re.compile(r"(^|\.)lm_head\.weight$")
_LORA = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
_STARTED_FROM_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
_NOT_ARCHITECTURE = {
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "auto_map", "attn_implementation"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "_attn_implementation", "attention_dropout"),
    *("initializer_range", "max_position_embeddings", "use_sliding_window", "id2label", "label2id", "tokenizer_class"),
}
_NAMED = 5


class FullModel:
    """A whole model that was trained from the base. `sha256` is the hash of its files of weights."""

    kind = "full"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sha256 = ""
        self.weights = StoredWeights(folder)

    def changes(self, name: str) -> bool:
        """Whether training may have changed that tensor of the base."""
        return name in self.weights.tensors

    def change(self, name: str, base: torch.Tensor, rows: slice) -> torch.Tensor:
        """The task vector in some rows of a floating tensor, in the dtype of `base`, which are the rows of the base."""
        return self.weights.rows(name, rows).to(base.dtype) - base

    def check(self, base: StoredWeights, tied: Iterable[str]) -> None:
        """Raises SettingsError where tensors (but `tied` ones) or architecture are not the base's, with their names."""
        found, wanted = self.weights.tensors, base.tensors
        for told, names in (
            ("lacks", wanted.keys() - found.keys() - set(tied)),
            ("has besides", found.keys() - wanted.keys() - set(tied)),
        ):
            if names:
                raise SettingsError(
                    f"The model in {self.folder} {told} {_some(names)}, unlike the base in {base.folder}. Only models "
                    "trained from one base can be merged."
                )
        for name, stored in found.items():
            if name in wanted:
                _check_shape(self.folder, name, stored.shape, base)
                if stored.dtype.is_floating_point != wanted[name].dtype.is_floating_point:
                    raise SettingsError(
                        f"{name} is {stored.kind} in {self.folder} and {wanted[name].kind} in the base {base.folder}."
                    )
        theirs, ours = _architecture(self.folder), _architecture(base.folder)
        if differing := sorted(key for key in theirs.keys() & ours.keys() if theirs[key] != ours[key]):
            key = differing[0]
            raise SettingsError(
                f"The model in {self.folder} is another architecture than the base in {base.folder}: {key} is "
                f"{theirs[key]!r} instead of {ours[key]!r}. Only models trained from one base can be merged."
            )


class LoraAdapter:
    """A LoRA adapter: its task vector is scaling * B A in the layers that it adapts. See `FullModel`."""

    kind = "lora"

    def __init__(self, folder: Path) -> None:
        preflight("memory", folder, max_rank=sys.maxsize)  # no server is asked for this rank
        self.folder = folder
        self.sha256 = ""
        self.config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_bytes())
        self.weights = StoredWeights(folder, WEIGHTS_FILE)
        self.layers = self._layers()

    def changes(self, name: str) -> bool:
        return name in self.layers

    def change(self, name: str, base: torch.Tensor, rows: slice) -> torch.Tensor:
        if name not in self.layers:
            return base.new_zeros(base.shape)
        layer = self.layers[name]
        everything = slice(0, layer.rank)
        down = self.weights.rows(f"{layer.prefix}.lora_A.weight", everything).to(base.dtype)
        up = self.weights.rows(f"{layer.prefix}.lora_B.weight", rows).to(base.dtype)
        return (up @ down).mul_(layer.scaling)

    def check(self, base: StoredWeights, tied: Iterable[str]) -> None:
        """Raises SettingsError where the base has no such layers, or others, or shares them with its embeddings."""
        if shared := self.layers.keys() & set(tied):
            raise SettingsError(
                f"The adapter in {self.folder} adapts {_some(shared)}, which is the embeddings of the base "
                f"{base.folder} by another name, and cannot be changed by itself. Train it without that layer."
            )
        if unknown := self.layers.keys() - base.tensors.keys():
            raise SettingsError(
                f"The adapter in {self.folder} adapts {_some(unknown)}, which the base in {base.folder} does not have. "
                "Give the base that it was trained on."
            )
        for name, layer in self.layers.items():
            _check_shape(self.folder, name, layer.shape, base)

    def _layers(self) -> dict[str, _Layer]:
        problems = []
        start = self.config.get("init_lora_weights")
        if isinstance(start, str) and start.startswith(_STARTED_FROM_BASE):
            problems.append(
                f"it changed the base when it began (init_lora_weights={start!r}): convert it to plain LoRA"
            )
        if self.config.get("fan_in_fan_out"):
            problems.append("its layers are stored transposed (fan_in_fan_out): merge it into the whole model first")
        found = {name: _LORA.fullmatch(name) for name in self.weights.tensors}
        if foreign := [name for name, match in found.items() if match is None]:
            problems.append(f"it holds more than LoRA weights of linear layers: {_some(foreign)}")
        if problems:
            raise AdapterInvalidError(f"The adapter in {self.folder} cannot be merged: {'; '.join(problems)}.")
        return {
            f"{module}.weight": self._layer(module)
            for module in sorted({match[1] for match in found.values() if match})
        }

    def _layer(self, module: str) -> _Layer:
        prefix = f"base_model.model.{module}"
        down, up = (self.weights.tensors.get(f"{prefix}.lora_{part}.weight") for part in "AB")
        if down is None or up is None or len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
            raise AdapterInvalidError(
                f"The adapter in {self.folder} has no A and B of one rank for the linear layer {module}."
            )
        rank = down.shape[0]
        alpha = _alpha(self.config, module)
        scaling = alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)
        return _Layer(prefix, rank, scaling, (up.shape[0], down.shape[1]))


@dataclass(frozen=True, slots=True)
class _Layer:
    prefix: str
    rank: int
    scaling: float
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Opened:
    """A base and what was trained from it, checked against each other. `tensors` are those of a merged model."""

    base: StoredWeights
    base_sha256: str
    models: tuple[FullModel | LoraAdapter, ...]
    tensors: tuple[Stored, ...]

    @property
    def bytes_read(self) -> int:
        """Bytes of all tensors that a merge reads, each once."""
        stored = [
            one
            for weights in (self.base, *(model.weights for model in self.models))
            for one in weights.tensors.values()
        ]
        return sum(one.bytes for one in stored)

    def vector(self, model: FullModel | LoraAdapter, stored: Stored, slices: Sequence[slice]) -> Iterator[torch.Tensor]:
        """The task vector of a floating tensor, in slices, in float32 (float64 where the base is).

        Raises:
            SettingsError: it holds NaN or infinity.
        """
        for rows in slices:
            change = model.change(stored.name, self.base_rows(stored, rows), rows)
            if not bool(change.isfinite().all()):
                culprit = model.folder
                if not bool(self.base_rows(stored, rows).isfinite().all()):
                    culprit = self.base.folder
                raise SettingsError(
                    f"{stored.name} in {culprit} holds NaN or infinity. Training went wrong there: train it again, or "
                    "leave it out."
                )
            yield change

    def base_rows(self, stored: Stored, rows: slice) -> torch.Tensor:
        """Rows of the base, in the dtype that is computed with."""
        import torch

        return self.base.rows(stored.name, rows).to(torch.promote_types(stored.dtype, torch.float32))


def open_models(base: Path, folders: Sequence[Path]) -> Opened:
    """Open the base and what was trained from it, whole models and adapters, and check that they belong together.

    All weights are read once, for their hashes.

    Raises:
        SettingsError: a folder holds no model; tensors, shapes or architecture differ; a model was trained from another
            base. The message names the folders and what differs.
        AdapterInvalidError: an adapter with more than LoRA weights (DoRA, biases, whole modules), or unreadable.
    """
    if "quantization_config" in _config(base):
        raise SettingsError(f"The base in {base} is quantised. Merge over the model that it was made from.")
    weights = StoredWeights(base)
    models = tuple(_open(folder) for folder in folders)
    # A tied output layer is the embeddings by another name, written or left out by the version of whatever saved it.
    everywhere = [weights, *(model.weights for model in models)]
    tied = {name for one in everywhere for name in one.tensors if _TIED.search(name)} if _is_tied(base) else set()
    for model in models:
        model.check(weights, tied)
    with ThreadPoolExecutor() as hashing:
        base_sha256, *others = hashing.map(weights_sha256, [base, *folders])
    for model, sha256 in zip(models, others, strict=True):
        model.sha256 = sha256
        _check_origin(model, base, base_sha256)
    _check_one_base([model for model in models if isinstance(model, LoraAdapter)])
    kept = tuple(stored for name, stored in weights.tensors.items() if name not in tied)
    return Opened(weights, base_sha256, models, kept)


def notes(folder: Path) -> dict[str, Any]:
    """What `memlora.json` says in a folder; empty where there is none.

    Raises:
        SettingsError: it cannot be read.
    """
    file = folder / NOTES_FILE
    if not file.is_file():
        return {}
    return _object(file)


def _open(folder: Path) -> FullModel | LoraAdapter:
    if not folder.is_dir():
        raise SettingsError(f"There is no model folder {folder}.")
    if (folder / CONFIG_FILE).is_file():
        return LoraAdapter(folder)
    return FullModel(folder)


def _check_origin(model: FullModel | LoraAdapter, base: Path, base_sha256: str) -> None:
    """Compare the base that a model's notes or its adapter's config name with the one that was given."""
    told = notes(model.folder)
    trained_on = told.get("base_sha256")
    named = str(told.get("base_model") or "")
    if trained_on is None and isinstance(model, LoraAdapter):
        named = str(model.config.get("base_model_name_or_path") or "")
        folder = Path(named).expanduser()
        if named and folder.is_dir() and not folder.samefile(base):
            trained_on = weights_sha256(folder)
    if trained_on is not None and trained_on != base_sha256:
        raise SettingsError(
            f"The model in {model.folder} was trained from {named or 'a base'} with the weights "
            f"{str(trained_on)[:12]}…, not from {base} ({base_sha256[:12]}…). Give the base that it was trained from."
        )


def _check_one_base(adapters: Sequence[LoraAdapter]) -> None:
    """Adapters without notes say by name what they were trained on: all the same."""
    named: dict[str, Path] = {}
    for adapter in adapters:
        name = str(adapter.config.get("base_model_name_or_path") or "")
        if name and "base_sha256" not in notes(adapter.folder):
            named.setdefault(name.rstrip("/").rpartition("/")[2], adapter.folder)
    if len(named) > 1:
        (one, folder), (other, another) = list(named.items())[:2]
        raise SettingsError(
            f"The adapter in {folder} was trained on {one}, the one in {another} on {other}. Only what was trained "
            "from one base can be merged."
        )


def _check_shape(folder: Path, name: str, shape: tuple[int, ...], base: StoredWeights) -> None:
    if shape != (wanted := base.tensors[name].shape):
        raise SettingsError(
            f"{name} has the shape {_shape(shape)} in {folder} and {_shape(wanted)} in the base {base.folder}. Only "
            "models trained from one base, with one vocabulary, can be merged."
        )


def _alpha(config: Mapping[str, Any], module: str) -> float:
    from peft.utils.other import get_pattern_key

    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    default = config.get("lora_alpha", 8)
    return float(patterns.get(get_pattern_key(list(patterns), module), default))


def _architecture(folder: Path) -> dict[str, Any]:
    """The config's values by their path, without those that training or another version of transformers may change."""

    def values(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        for key, value in config.items():
            if key in _NOT_ARCHITECTURE:
                continue
            if isinstance(value, Mapping):
                yield from values(value, f"{path}{key}.")
            else:
                yield f"{path}{key}", value

    return dict(values(_config(folder), ""))


def _is_tied(base: Path) -> bool:
    config = _config(base)
    inner = config.get("text_config")
    return bool(config.get("tie_word_embeddings", isinstance(inner, Mapping) and inner.get("tie_word_embeddings")))


def _config(folder: Path) -> dict[str, Any]:
    if (config := base_config(folder)) is None:
        raise SettingsError(
            f"{folder} has no readable config.json; a model to merge is a folder that transformers saved."
        )
    return config


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}. Restore it, or train the model again.") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{file} must hold a JSON object. Restore it, or train the model again.")
    return found


def _some(names: Iterable[str]) -> str:
    """A few of the names, and how many there are."""
    ordered = sorted(names)
    told = ", ".join(ordered[:_NAMED])
    return told if len(ordered) <= _NAMED else f"{told} and {len(ordered) - _NAMED} more"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"
