"""Models to merge: whole ones and adapters that differ from the tiny model as trained ones would, with their cards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from memlora_plugins.memo.card import MemoCard, TrainedDocument, write_card
from memlora_plugins.serving.adapters import weights_sha256

Change = Callable[[dict[str, torch.Tensor]], None]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model or an adapter, by name."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def write_model(base: Path, folder: Path, change: Change, **config: Any) -> Path:
    """A copy of the model in `base` with its tensors after `change`, and fields of its config replaced."""
    shutil.copytree(base, folder)
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    told = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | config))
    return folder


def trained(base: Path, folder: Path, *, seed: int, documents: Sequence[str] = ()) -> Path:
    """A whole model as if trained from `base` on documents of these ids, in the base's dtype."""
    dice = torch.Generator().manual_seed(seed)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = (tensor + 0.05 * torch.randn(tensor.shape, generator=dice)).to(tensor.dtype)

    write_model(base, folder, change)
    return noted(folder, base, documents)


def noted(folder: Path, base: Path, documents: Sequence[str]) -> Path:
    """The model in `folder`, with the card of one trained from `base` on documents of these ids."""
    (folder / "memlora.json").write_text(json.dumps({"base_model": base.name, "base_sha256": weights_sha256(base)}))
    known = tuple(TrainedDocument(id=id, title=id.title(), sha256=64 * "0") for id in documents)
    write_card(folder, MemoCard(documents=known, abstain_below=0.4))
    return folder


def merged_in(base: Path, adapter: Path, folder: Path) -> Path:
    """The whole model that peft makes of a base and an adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    model.merge_and_unload().save_pretrained(folder)
    return folder
