"""Adapter folders without weights worth the name: enough for everything that reads an adapter's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_adapter(folder: Path, *, hidden: int = 16, layer: int = 0, seed: int = 0, **config: Any) -> Path:
    """Write a rank-8 adapter of q_proj in one layer; keywords override fields of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
    write_safetensors(
        folder / "adapter_model.safetensors",
        {f"{prefix}.lora_A.weight": [8, hidden], f"{prefix}.lora_B.weight": [16, 8]},
        seed=seed,
    )
    return folder


def write_safetensors(path: Path, shapes: dict[str, list[int]], *, seed: int = 0) -> None:
    """Write a safetensors file of float32 tensors, each filled with one byte value."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes([seed]) * end)
