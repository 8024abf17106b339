"""LoRA adapters as files: what a server will accept, checked before anything is sent to it.

vLLM answers a rank above its maximum, DoRA, bias or `modules_to_save` with a permanent 500, or serves it wrong.
Adapters are served under a name that contains the hash of their files, so a name always means the same weights and
a server's prefix cache can never be stale.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import AdapterInvalidError, SettingsError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
NOTES_FILE = "memlora.json"
"""What training notes next to an adapter; `base_sha256` names the weights it was trained on."""
SERVER_RANKS = (1, 8, 16, 32, 64, 128, 256)
"""What vLLM takes as `--max-lora-rank`."""

_NAME = re.compile(r"[A-Za-z0-9_.@-]+")
_LARGEST_HEADER = 100_000_000
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_READS_HIDDEN_STATE = re.compile(r"\.(q_proj|k_proj|v_proj|gate_proj|up_proj)\.lora_A\.weight$")


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter. `name` is what the server calls it; `folder` is None for one that only the server has."""

    name: str
    folder: Path | None = None
    rank: int = 0
    base: str = ""
    digest: str = ""

    def unchanged(self) -> Adapter:
        """This adapter, if its files are still the ones that were checked.

        Raises:
            AdapterInvalidError: the files were replaced or removed.
        """
        if self.folder is not None and _digest(self.folder) != self.digest:
            raise AdapterInvalidError(
                f"The files of adapter {self.name} in {self.folder} changed since it was registered. "
                "Put a new version in a folder of its own and swap to it."
            )
        return self


def resolve(
    expert: str, source: str | Path, *, max_rank: int | None = None, base_config: Mapping[str, Any] | None = None
) -> Adapter:
    """The adapter meant by `source`: a folder, checked, or the name of one that the server already serves.

    A `Path`, anything with a slash, and any existing folder is a folder.

    Raises:
        AdapterInvalidError: see `preflight`; or a name with characters a server would take for a path.
    """
    if isinstance(source, Path) or "/" in source or "\\" in source or Path(source).is_dir():
        return preflight(expert, Path(source), max_rank=max_rank, base_config=base_config)
    return Adapter(checked_name(source))


def checked_name(name: str) -> str:
    """`name`, if it is safe to send: letters, digits, `_ . @ -`, and not only dots.

    Raises:
        AdapterInvalidError: anything else.
    """
    if not _NAME.fullmatch(name) or not name.strip("."):
        raise AdapterInvalidError(f"Adapter name {name!r} is not usable: use letters, digits and _ . @ - only.")
    return name


def preflight(
    expert: str, folder: Path, *, max_rank: int | None = None, base_config: Mapping[str, Any] | None = None
) -> Adapter:
    """Check the adapter in `folder` and name it `<expert>@<first 12 hex digits of its hash>`.

    `max_rank` is the server's limit (None: only the largest any server takes, 256). With `base_config`, the base
    model's config as a mapping, hidden size and number of layers must match.

    Raises:
        AdapterInvalidError: a file is missing or unreadable, or something in it cannot be served; the message
            says what to change.
    """
    folder = folder.expanduser().absolute()
    config = _read_config(folder)
    problems = list(_problems(config, max_rank))
    shapes = _weight_shapes(folder)
    if base_config is not None:
        problems += _mismatches(shapes, base_config)
    if problems:
        raise AdapterInvalidError(f"The adapter in {folder} cannot be served: " + "; ".join(problems) + ".")
    digest = _digest(folder)
    return Adapter(
        name=checked_name(f"{expert}@{digest[:12]}"),
        folder=folder,
        rank=_rank(config),
        base=str(config.get("base_model_name_or_path") or ""),
        digest=digest,
    )


def server_rank(adapters: Iterable[Adapter]) -> int:
    """The smallest `--max-lora-rank` that serves all `adapters`; 16 where none is given."""
    rank = max((adapter.rank for adapter in adapters), default=16)
    return next(allowed for allowed in SERVER_RANKS if allowed >= rank)


def is_hub_name(model: str | Path) -> bool:
    """Whether `model` reads as `owner/name` on the Hugging Face hub, and not as a folder."""
    return isinstance(model, str) and model.count("/") == 1 and not model.startswith(("/", ".", "~"))


def base_config(model: str | Path) -> dict[str, Any] | None:
    """The config of a base model given by folder; None for one given by name."""
    path = Path(model).expanduser() / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def weights_sha256(folder: Path) -> str:
    """The hash of a model's safetensors: of the file itself, or of the shards' hashes in the order of their names.

    Raises:
        SettingsError: the folder has no safetensors.
    """
    digests = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if not digests:
        raise SettingsError(f"{folder} has no safetensors file; save the model again with a current transformers.")
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def check_base(adapter: Adapter, base: Path) -> None:
    """Compare the base model an adapter's notes name, if they name one, with the one in folder `base`.

    Raises:
        AdapterInvalidError: the adapter was trained on other weights, or its notes cannot be read.
        SettingsError: the notes name weights, and the folder has no safetensors.
    """
    if adapter.folder is None or not (notes := adapter.folder / NOTES_FILE).is_file():
        return
    try:
        trained_on = json.loads(notes.read_bytes()).get("base_sha256")
    except (OSError, ValueError, AttributeError) as error:
        raise AdapterInvalidError(f"{notes} cannot be read: {error}. Train or download the adapter again.") from error
    if trained_on is not None and trained_on != (found := weights_sha256(base)):
        raise AdapterInvalidError(
            f"The adapter in {adapter.folder} was trained on other weights (sha256 {str(trained_on)[:12]}…) than those "
            f"in {base} ({found[:12]}…). Use it with its own base model, or train it again on this one."
        )


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise AdapterInvalidError(f"There is no adapter folder {folder}. Download the adapter, or give the right path.")
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
    except FileNotFoundError:
        raise AdapterInvalidError(
            f"{folder} has no {CONFIG_FILE}; save the adapter with peft's save_pretrained."
        ) from None
    except (OSError, ValueError) as error:
        raise AdapterInvalidError(f"{folder / CONFIG_FILE} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise AdapterInvalidError(f"{folder / CONFIG_FILE} must hold a JSON object.")
    return config


def _problems(config: Mapping[str, Any], max_rank: int | None) -> Iterable[str]:
    if config.get("peft_type") != "LORA":
        yield f"peft_type is {config.get('peft_type')!r}, only LORA is served"
    rank = _rank(config)
    largest = SERVER_RANKS[-1] if max_rank is None else max_rank
    if rank < 1:
        yield "its rank r is not a positive integer"
    elif rank > largest:
        advice = "start the server with a larger --max-lora-rank" if rank <= SERVER_RANKS[-1] else "train a smaller one"
        yield f"its rank {rank} is above the maximum {largest}: {advice}"
    if config.get("use_dora"):
        yield "it uses DoRA (use_dora): train without it, or merge it into the base model"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        yield "it trains biases: set bias='none' and lora_bias=False"
    if config.get("modules_to_save"):
        yield f"it saves whole modules (modules_to_save={config['modules_to_save']}): train LoRA layers only"
    for feature in ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora"):
        if config.get(feature):
            yield f"it uses {feature}, which the server does not implement"


def _rank(config: Mapping[str, Any]) -> int:
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    return max(ranks) if all(type(rank) is int and rank > 0 for rank in ranks) else 0


def _weight_shapes(folder: Path) -> dict[str, list[int]]:
    """Tensor name to shape, from the header alone."""
    path = folder / WEIGHTS_FILE
    try:
        with path.open("rb") as file:
            shapes = {name: list(entry["shape"]) for name, entry in tensors(file).items()}
    except FileNotFoundError:
        raise AdapterInvalidError(f"{folder} has no {WEIGHTS_FILE}; save it with safe_serialization=True.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise AdapterInvalidError(f"{path} is not a readable safetensors file: {error}.") from error
    if not any(".lora_A." in name for name in shapes):
        raise AdapterInvalidError(f"{path} holds no LoRA weights; save the adapter again.")
    return shapes


def tensors(file: BinaryIO) -> dict[str, Any]:
    """Tensor name to what the header of a safetensors file says of it (`dtype`, `shape`, `data_offsets` in bytes).

    Raises:
        ValueError: there is no whole header. AttributeError: it is no JSON object.
    """
    length = int.from_bytes(file.read(8), "little")  # of the JSON that follows
    header = file.read(length) if 0 < length <= _LARGEST_HEADER else b""
    if not header or len(header) < length:
        raise ValueError("its header is cut off")
    return {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}


def _mismatches(shapes: Mapping[str, list[int]], config: Mapping[str, Any]) -> Iterable[str]:
    """Where the weights do not fit the base model."""
    config = config.get("text_config") or config
    hidden, layers = config.get("hidden_size"), config.get("num_hidden_layers")
    for name, shape in shapes.items():
        layer = _LAYER.search(name)
        if layer and isinstance(layers, int) and int(layer[1]) >= layers:
            return [f"it belongs to another base model ({name} is beyond the base model's {layers} layers)"]
        if hidden and _READS_HIDDEN_STATE.search(name) and shape[-1] != hidden:
            return [f"it belongs to another base model (hidden size {shape[-1]}, the base model has {hidden})"]
    return []


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    try:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            with (folder / name).open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise AdapterInvalidError(f"The adapter in {folder} cannot be read: {error}.") from error
    return total.hexdigest()
