"""Weights that are written in slices are those that safetensors and transformers read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memlora_plugins.errors import SettingsError
from memlora_plugins.memo.merging.weight_files import Stored, StoredWeights, write_weights

TENSORS = {
    "whole": torch.randn(7, 3),
    "half": torch.randn(5, 2).half(),
    "short": torch.randn(3).bfloat16(),
    "double": torch.randn(2, 2).double(),
    "counts": torch.arange(6).reshape(2, 3),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "mask": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture
def source(tmp_path: Path) -> StoredWeights:
    (tmp_path / "source").mkdir()
    save_file(TENSORS, tmp_path / "source" / "model.safetensors")
    return StoredWeights(tmp_path / "source")


def copied(source: StoredWeights, out: Path, *, elements: int, largest: int) -> int:
    def rows(stored: Stored):
        return (source.rows(stored.name, part) for part in stored.slices(elements))

    out.mkdir()
    return write_weights(out, list(source.tensors.values()), rows, largest_file=largest)


@pytest.mark.parametrize("elements", [1, 4, 1000])
def test_one_file(source: StoredWeights, tmp_path: Path, elements: int) -> None:
    total = copied(source, tmp_path / "out", elements=elements, largest=10**9)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert total == sum(tensor.numel() * tensor.element_size() for tensor in TENSORS.values())


def test_several_files_with_an_index(source: StoredWeights, tmp_path: Path) -> None:
    total = copied(source, tmp_path / "out", elements=4, largest=60)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": total}
    assert len(set(index["weight_map"].values())) > 2
    again = StoredWeights(tmp_path / "out")
    assert again.tensors == source.tensors
    for name, tensor in TENSORS.items():
        assert torch.equal(again.rows(name, slice(0, 100)), tensor)


def test_rows_of_a_slice(source: StoredWeights) -> None:
    assert torch.equal(source.rows("whole", slice(2, 5)), TENSORS["whole"][2:5])


def test_rows_that_are_missing_are_noticed(source: StoredWeights, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="bytes"):
        write_weights(tmp_path, list(source.tensors.values()), lambda stored: ())


@pytest.mark.parametrize("text", ["{", '{"metadata": {}}', "[]"])
def test_an_index_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(SettingsError, match=r"index\.json cannot be read"):
        StoredWeights(tmp_path)


def test_a_folder_without_safetensors(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="folders with safetensors"):
        StoredWeights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(SettingsError, match="folders with safetensors"):
        StoredWeights(tmp_path)


def test_quantised_weights_are_refused_by_name(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(SettingsError, match=r"layer\.weight as F8"):
        StoredWeights(tmp_path)
