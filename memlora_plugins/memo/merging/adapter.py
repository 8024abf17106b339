"""Merged LoRA adapters as one adapter again: the merged change of each layer, cut to a rank."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SettingsError
from ...serving.adapters import CONFIG_FILE, WEIGHTS_FILE
from .task_vectors import LoraAdapter, Opened
from .weight_files import Stored

if TYPE_CHECKING:
    import torch

_PRECISE = {"oversampled": 16, "rounds": 4}
_OF_TRAINING = {
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_rslora": False,
    "init_lora_weights": True,
    "inference_mode": True,
    "layers_to_transform": None,
    "layers_pattern": None,
    "exclude_modules": None,
    "modules_to_save": None,
}
"""What a config says about one adapter's training, as it is for the merged one."""


def check_adapters(opened: Opened, rank: int | None) -> Sequence[LoraAdapter]:
    """The adapters to be merged into one of `rank`; nothing where that is None.

    Raises:
        SettingsError: a rank that cannot be, or whole models among them.
    """
    if rank is None:
        return ()
    if rank < 1:
        raise SettingsError(f"rank must be 1 or more, not {rank}.")
    adapters = [model for model in opened.models if isinstance(model, LoraAdapter)]
    if len(adapters) < len(opened.models):
        full = next(model.folder for model in opened.models if not isinstance(model, LoraAdapter))
        raise SettingsError(
            f"A rank is for merging LoRA adapters, and {full} is a whole model. Leave the rank out: the result is a "
            "whole model then."
        )
    return adapters


def write_adapter(
    folder: Path,
    opened: Opened,
    adapters: Sequence[LoraAdapter],
    rank: int,
    change: Callable[[Stored], Iterator[torch.Tensor]],
) -> dict[str, Any]:
    """Write the `change` of each adapted layer, cut to `rank`, as a peft adapter with a scaling of 1.

    Returns `tensors` and `bytes` written, and `norm_kept`.

    Raises:
        OSError: it cannot be written.
    """
    import torch
    from safetensors.torch import save_file

    layers = {name: layer.prefix for adapter in adapters for name, layer in adapter.layers.items()}
    dtype = next(iter(adapters[0].weights.tensors.values())).dtype
    factors: dict[str, torch.Tensor] = {}
    kept = whole = 0.0
    for stored in (stored for stored in opened.tensors if stored.name in layers):
        merged = torch.empty(stored.shape)
        at = 0
        for rows in change(stored):
            merged[at : at + len(rows)] = rows
            whole += float(torch.linalg.vector_norm(rows, dtype=torch.float64)) ** 2
            at += len(rows)
        up, down = _cut(merged, rank)
        kept += float((up.double().T @ up.double() * (down.double() @ down.double().T)).sum())
        factors[f"{layers[stored.name]}.lora_A.weight"] = down.to(dtype).contiguous()
        factors[f"{layers[stored.name]}.lora_B.weight"] = up.to(dtype).contiguous()
    save_file(factors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = (
        adapters[0].config | _OF_TRAINING | {"r": rank, "lora_alpha": rank, "target_modules": _targets(opened, layers)}
    )
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return {
        "tensors": len(factors),
        "bytes": sum(one.numel() * one.element_size() for one in factors.values()),
        "norm_kept": min(1.0, math.sqrt(kept / whole)) if whole else 1.0,
    }


def _cut(change: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """B and A of `rank` with the product closest to `change`; columns beyond what it has are 0."""
    import torch

    wanted = min(rank, *change.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the start of the iteration, the same each time
        columns = min(wanted + _PRECISE["oversampled"], *change.shape)
        left, values, right = torch.svd_lowrank(change, q=columns, niter=_PRECISE["rounds"])
    roots = values[:wanted].clamp(min=0).sqrt()
    up, down = change.new_zeros(change.shape[0], rank), change.new_zeros(rank, change.shape[1])
    up[:, :wanted] = left[:, :wanted] * roots
    down[:wanted] = (right[:, :wanted] * roots).T
    return up, down


def _targets(opened: Opened, layers: dict[str, str]) -> list[str]:
    """Names of layers as peft takes them: the last part, unless that would name others of the model as well."""
    modules = {name.removesuffix(".weight") for name in layers}
    short = {module.rpartition(".")[2] for module in modules}
    meant = {
        module
        for stored in opened.base.tensors.values()
        if len(stored.shape) == 2 and (module := stored.name.removesuffix(".weight")).rpartition(".")[2] in short
    }
    return sorted(short if meant == modules else modules)
