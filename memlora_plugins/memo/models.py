"""Which model answers as a Memory model: a base model must never do so in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .. import nano
from ..errors import BackendError, SettingsError
from ..serving.adapters import CONFIG_FILE, NOTES_FILE, Adapter, base_config, check_base, is_hub_name, preflight
from ..serving.base import Backend
from .card import read_card

NAME = "memory"
"""What a Memory model is called where nobody says otherwise: as an adapter of a backend, and on a server."""


def check_is_memory_model(backend: Backend, model: str) -> None:
    """Raise where `backend` would answer for `model` with a model that is none.

    An adapter of that name is one, and so is the backend's own model where it is asked for by its name. Without either,
    a model in a folder has to have a Memory model's card. Of what cannot be looked into, nothing is known.

    Raises:
        SettingsError: see above.
    """
    adapters = getattr(backend, "adapters", None)
    own = getattr(backend, "model", None)
    if (isinstance(adapters, Mapping) and model in adapters) or model == own:
        return
    if adapters:
        raise SettingsError(
            f"The backend has no adapter {model!r} (it has: {', '.join(adapters)}), and its base model would answer in "
            f"place of the Memory model. Register it, as in adapters={{{model!r}: folder}}, or pass its name as "
            f"model=; if the base model is the Memory model, pass model={own!r}."
        )
    if isinstance(own, str) and Path(own).expanduser().is_dir():
        try:
            read_card(own)
        except SettingsError as error:
            raise SettingsError(
                f"{error} If it was trained elsewhere and is one, pass model={own!r} to say so."
            ) from error


def base_of(folder: Path, base: str | Path | None = None) -> str | Path:
    """The base model of the LoRA Memory model in `folder`: `base`, or the one that it notes, where that is found.

    A name on the hub is taken as it is. A folder's name is looked for beside the adapter; nano is known by its weights.

    Raises:
        SettingsError: there is no such folder.
        AdapterInvalidError: the folder holds no usable adapter.
    """
    if base is not None:
        return base
    adapter = preflight(NAME, folder)
    noted = adapter.base
    if is_hub_name(noted) or (noted and Path(noted).is_absolute() and Path(noted).is_dir()):
        return noted
    beside = folder.parent / noted
    if noted and base_config(beside) is not None and _trained_on(adapter, beside):
        return beside
    if _notes_weights(folder) and nano.shipped() and _trained_on(adapter, nano.BASE):
        return nano.BASE
    raise SettingsError(
        f"{folder} is a LoRA adapter for the model {noted!r}, which is not found. Pass base= with the folder of that "
        "model (`--base` on the command line)."
    )


def served_as(
    folder: str | Path, name: str = NAME, base: str | Path | None = None
) -> tuple[str | Path, dict[str, Path]]:
    """What a server has to serve for the Memory model in `folder`: a model, and adapters of it by their names.

    An adapter has two names: `name`, and the one with the hash of its files, by which `MemoryModel.open` knows it.

    Raises:
        SettingsError, AdapterInvalidError: as `base_of`; or `folder` holds no Memory model.
    """
    place = Path(folder).expanduser()
    read_card(place)
    if not is_lora(place):
        return place, {}
    return base_of(place, base), {name: place, preflight(NAME, place).name: place}


def is_lora(folder: Path) -> bool:
    """Whether `folder` holds an adapter, and no whole model."""
    return (folder / CONFIG_FILE).is_file()


def _trained_on(adapter: Adapter, base: Path) -> bool:
    """Whether the adapter's notes allow for these weights; those without a hash do."""
    try:
        check_base(adapter, base)
    except (BackendError, SettingsError):
        return False
    return True


def _notes_weights(folder: Path) -> bool:
    try:
        notes = json.loads((folder / NOTES_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(notes, dict) and notes.get("base_sha256") is not None
