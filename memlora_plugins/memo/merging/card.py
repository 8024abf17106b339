"""What a merged model says of itself: from which parts and how it was made, and the documents in its weights."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...errors import SettingsError
from ...files import write_whole
from ...serving.adapters import NOTES_FILE, is_hub_name
from ..card import MemoCard, TrainedDocument, read_card
from .methods import Recipe
from .task_vectors import Opened, notes

_LIBRARIES = ("memlora-plugins", "torch", "safetensors", "peft", "numpy")
_NAMED = 20  # documents


def merged_card(
    opened: Opened, base: Path | str, out: Path, recipe: Recipe, rank: int | None, found: Mapping[str, Any]
) -> dict[str, Any]:
    """The card of a model merged into `out`.

    Paths of parts and base are relative to `out` where they lie beside or below it, so that they may move together.
    """
    parts = []
    documents: dict[tuple[str, str | None], TrainedDocument] = {}
    for place, model in enumerate(opened.models):
        memo = _memo(model.folder)
        for document in memo.documents if memo is not None else ():
            documents.setdefault((document.id, document.sha256), document)
        part = {
            "name": model.folder.name,
            "folder": recorded(model.folder, out),
            "sha256": model.sha256,
            "kind": model.kind,
            "documents": None if memo is None else len(memo.documents),
        }
        parts.append(part | ({} if recipe.weights is None else {"weight": recipe.weights[place]}))
    named = is_hub_name(base) and not Path(base).is_dir()
    card = MemoCard(documents=tuple(documents.values()), merged_from=tuple(parts))
    norm = {} if rank is None else {"rank": rank, "norm_kept": found["norm_kept"]}
    return {
        "expert": "memory",
        "base_model": str(base) if named else opened.base.folder.name,
        "base_folder": str(base) if named else recorded(opened.base.folder, out),
        "base_sha256": opened.base_sha256,
        "merge": recipe.row() | norm | {key: found[key] for key in ("tensors", "bytes", "seconds")},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        "memo": card.row(),
    }


def write_notes(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card, for programs and for people.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(folder / NOTES_FILE, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    write_whole(folder / "README.md", readme(card))


def recorded(folder: Path, out: Path) -> str:
    """How the card of `out` names a folder; `found_again` is the way back."""
    folder = folder.absolute()
    return os.path.relpath(folder, out) if folder.is_relative_to(out.parent) else str(folder)


def found_again(name: str, out: Path) -> Path:
    """The folder that `recorded` named."""
    return Path(os.path.normpath(out.absolute() / name))


def readme(card: Mapping[str, Any]) -> str:
    """The card for people."""
    from ...training.card import table

    merged, memo = card["merge"], card["memo"]
    what = "A LoRA adapter for the model" if "rank" in merged else "The whole model, merged over"
    own = ", ".join(f"{name} {value}" for name, value in merged.items() if name not in ("tensors", "bytes", "seconds"))
    lines = [
        f"# {card['expert']}",
        "",
        f"{what} {card['base_model']}, whose weights have the SHA-256 `{card['base_sha256']}`.",
        "Made by memlora_plugins.",
        "",
        f"Merged from {len(memo['merged_from'])} Memory models ({own}), none of which saw another's documents:",
        "",
        *table(
            ("part", "kind", "documents", "SHA-256 of its weights"),
            [
                (
                    part["name"],
                    part["kind"],
                    "not recorded" if part["documents"] is None else str(part["documents"]),
                    f"`{part['sha256'][:12]}…`",
                )
                for part in memo["merged_from"]
            ],
        ),
        "",
        *_documents(memo),
        "",
        "How sure it is when it is right is not that of its parts: calibrate it anew before it is to abstain.",
        "",
        "Made with " + ", ".join(f"{name} {found}" for name, found in card["versions"].items()) + ".",
        "The same data in full is in `memlora.json`.",
    ]
    return "\n".join(lines) + "\n"


def _documents(card: Mapping[str, Any]) -> list[str]:
    documents: Sequence[Mapping[str, Any]] = card["documents"]
    silent = sum(part["documents"] is None for part in card["merged_from"])
    lines = [
        f"Documents that its parts were trained on: {len(documents)}"
        + (f", besides those of {silent} parts that do not say." if silent else ".")
        + " Weights cannot be erased: to leave a document out, train its part again without it, and merge anew.",
        "",
        *(f"- {document['title'] or document['id']}" for document in documents[:_NAMED]),
        *([f"- and {len(documents) - _NAMED} more, see `memlora.json`"] if len(documents) > _NAMED else ()),
    ]
    return lines if documents else lines[:1]


def _memo(folder: Path) -> MemoCard | None:
    """The part's own card; None where it was trained by something that leaves none."""
    if "memo" not in notes(folder):
        return None
    return read_card(folder)


def parts_of(memory: Path) -> tuple[list[Path], dict[str, Any]]:
    """The folders of the parts of the Memory model in `memory`, itself where it was not merged, and its notes.

    Raises:
        SettingsError: it is no Memory model, or a part is not where it was; the message names it.
    """
    told = notes(memory)
    parts = read_card(memory).merged_from
    if parts is None:
        return [memory], told
    folders = [found_again(part["folder"], memory) for part in parts]
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise SettingsError(
            f"{memory} was merged from {', '.join(missing)}, which is not there any more. Put it back, or merge the "
            "parts that there are with `memlora memo merge`."
        )
    return folders, told
