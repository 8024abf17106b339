"""`memlora memo merge` and `memlora memo update` on the tiny model: what they write, and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Memlora
from merge_models import trained
from reflections_by_heart import BY_HEART, held_out, reflections
from tiny_model import TinyModel

from memlora_plugins.memo.card import TrainedDocument
from memlora_plugins.memo.merging import sweep as sweeping
from memlora_plugins.memo.merging.methods import Recipe
from memlora_plugins.memo.reflections import write_rows
from memlora_plugins.memo.training import memo_options, train_memory_model

pytestmark = pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def models(tiny_model: TinyModel, tmp_path: Path) -> list[str]:
    return [str(trained(tiny_model.path, tmp_path / f"m{n}", seed=n, documents=[f"d{n}"])) for n in range(2)]


def test_merging(memlora: Memlora, tiny_model: TinyModel, models: list[str], tmp_path: Path) -> None:
    words = ["memo", "merge", *models, "--base", str(tiny_model.path), "--out", str(tmp_path / "out")]
    done = memlora(*words)
    assert done.stderr == ""
    assert "26 tensors" in done.stdout
    assert "MB/s" in done.stdout
    assert "It knows 2 documents. It is not calibrated" in done.stdout
    options = ["--method", "dare_linear", "--density", "0.3", "--weight", "1", "--weight", "2", "--scale", "0.9"]
    told = json.loads(memlora(*words, *options, "--seed", "3", "--json").stdout)
    assert told["folder"] == str(tmp_path / "out")
    expected = {"method": "dare_linear", "density": 0.3, "weights": [1, 2], "scale": 0.9, "seed": 3}
    assert expected.items() <= told["merge"].items()
    told = json.loads(memlora(*words, "--method", "slerp", "--t", "0.2", "--json").stdout)
    assert told["merge"]["t"] == 0.2


def test_adapters(memlora: Memlora, tiny_model: TinyModel, tmp_path: Path) -> None:
    adapters = [str(tiny_model.adapters[name]) for name in ("extraction", "update")]
    out = str(tmp_path / "out")
    done = memlora("memo", "merge", *adapters, "--base", str(tiny_model.path), "--out", out, "--rank", "4")
    assert "of the change's norm at this rank" in done.stdout


def test_an_error_is_one_line(memlora: Memlora, tiny_model: TinyModel, models: list[str], tmp_path: Path) -> None:
    words = ["memo", "merge", *models, str(tmp_path / "none"), "--base", str(tiny_model.path), "-o", "out"]
    assert memlora(*words, code=1).stderr == f"error: There is no model folder {tmp_path / 'none'}.\n"


def test_a_sweep(
    memlora: Memlora, tiny_model: TinyModel, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "SWEEP", (Recipe(method="linear"), Recipe(method="ties", density=0.3)))
    write_rows(tmp_path / "held_out.jsonl", held_out())
    out = tmp_path / "sweep"
    words = ["memo", "merge", *models, "--base", str(tiny_model.path), "--out", str(out), "--sweep", "--device", "cpu"]
    assert "--held-out" in memlora(*words, code=2).stderr
    refused = memlora(*words, "--held-out", str(tmp_path / "held_out.jsonl"), "--density", "0.3", code=2)
    assert "leave them out" in refused.stderr
    words += ["--held-out", str(tmp_path / "held_out.jsonl"), "--full-training", "0.5"]
    done = memlora(*words)
    assert "density = 0.3" in done.stdout
    assert f"the best is {out / 'best'}" in done.stdout
    told = json.loads(memlora(*words, "--json").stdout)  # nothing is merged again
    assert told == json.loads((out / "report.json").read_text())


def test_an_update(memlora: Memlora, tiny_model: TinyModel, tmp_path: Path) -> None:
    mine = [one for one in reflections() if one.documents == ("Ana.txt",)]
    theirs = [one for one in reflections() if one.documents == ("cats.txt",)]
    train_memory_model(tiny_model.path, mine, tmp_path / "ana", memo_options(**BY_HEART | {"epochs": 1}))
    write_rows(tmp_path / "cats" / "reflections.jsonl", theirs)
    cats = TrainedDocument(id="cats.txt", title="Of cats", sha256="0" * 64)
    (tmp_path / "cats" / "documents.jsonl").write_text(f"{cats.model_dump_json()}\n")
    words = ["memo", "update", str(tmp_path / "ana"), str(tmp_path / "cats"), "--base", str(tiny_model.path)]
    out = tmp_path / "memory"
    done = memlora(*words, "--out", str(out), "--method", "linear", "--epochs", "2")
    assert f"the new part is {out}.parts/" in done.stdout
    assert "It knows 2 documents" in done.stdout
    told = json.loads((out / "memlora.json").read_text())
    assert told["merge"]["method"] == "linear"
    assert told["memo"]["documents"][1] == cats.model_dump()
    part = out / told["memo"]["merged_from"][1]["folder"]
    assert json.loads((part / "memlora.json").read_text())["options"]["epochs"] == 2

    words[2] = str(out)
    again = memlora(*words, "--epochs", "2", "--resume")
    assert again.stderr == "note: 1 documents were known before, such as cats.txt\n"
    again = json.loads(memlora(*words, "--epochs", "2", "--resume", "--json").stdout)
    assert (again["folder"], again["repeated"]) == (str(out), ["cats.txt"])
    assert again["merge"]["method"] == "linear"
