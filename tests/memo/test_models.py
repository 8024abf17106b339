"""Finding the base model of a LoRA Memory model, and what a server has to serve for one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_model import TinyModel

from memlora_plugins import AdapterInvalidError, SettingsError
from memlora_plugins.memo.card import MemoCard, write_card
from memlora_plugins.memo.models import base_of, served_as
from memlora_plugins.serving.adapters import weights_sha256


@pytest.fixture
def lora(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A LoRA Memory model whose base is far away."""
    folder = tmp_path / "models" / "atlas"
    shutil.copytree(tiny_model.adapters["generation"], folder)
    write_card(folder, MemoCard())
    names_base(folder, "far")
    return folder


def names_base(folder: Path, base: str | None, sha256: str | None = None) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))
    notes = json.loads((folder / "memlora.json").read_text()) | {"base_sha256": sha256}
    (folder / "memlora.json").write_text(json.dumps(notes))


def test_the_base_that_is_given(lora: Path) -> None:
    assert base_of(lora, "here") == "here"


def test_the_base_that_is_named(lora: Path, tiny_model: TinyModel) -> None:
    names_base(lora, "Qwen/Qwen2.5-1.5B-Instruct")
    assert base_of(lora) == "Qwen/Qwen2.5-1.5B-Instruct"
    names_base(lora, str(tiny_model.path))
    assert base_of(lora) == str(tiny_model.path)


@pytest.mark.parametrize("base", ["far", "", None, "/far/away"])
def test_a_base_that_is_not_found(lora: Path, base: str | None) -> None:
    names_base(lora, base)
    with pytest.raises(SettingsError, match="Pass base="):
        base_of(lora)


def test_a_base_beside_it_has_to_have_the_right_weights(lora: Path, tiny_model: TinyModel, no_nano: None) -> None:
    beside = lora.parent / "far"
    shutil.copytree(tiny_model.path, beside)
    assert base_of(lora) == beside
    names_base(lora, "far", weights_sha256(tiny_model.path))
    assert base_of(lora) == beside
    names_base(lora, "far", "0" * 64)
    with pytest.raises(SettingsError, match="Pass base="):
        base_of(lora)


def test_nano_is_known_by_its_weights(lora: Path, tiny_nano: TinyModel) -> None:
    names_base(lora, "base", weights_sha256(tiny_nano.path))
    assert base_of(lora) == tiny_nano.path
    names_base(lora, "base", "0" * 64)
    with pytest.raises(SettingsError, match="Pass base="):
        base_of(lora)
    (lora / "memlora.json").unlink()
    with pytest.raises(SettingsError, match="Pass base="):
        base_of(lora)


def test_what_is_served(lora: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    base, adapters = served_as(lora, "atlas", tiny_model.path)
    assert base == tiny_model.path
    assert adapters.pop("atlas") == lora
    [(hashed, folder)] = adapters.items()
    assert hashed.startswith("memory@")
    assert folder == lora
    whole = tmp_path / "whole"
    shutil.copytree(tiny_model.path, whole)
    with pytest.raises(SettingsError, match="no Memory model"):
        served_as(whole)
    write_card(whole, MemoCard())
    assert served_as(whole) == (whole, {})
    (lora / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterInvalidError):
        served_as(lora)
