"""`memlora memo train` on the tiny model: what it writes, what it says, and two processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Memlora
from reflections_by_heart import held_out, reflections
from tiny_model import TinyModel

from memlora_plugins.memo.card import TrainedDocument
from memlora_plugins.memo.reflections import write_rows
from memlora_plugins.serving.adapters import preflight

pytestmark = pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing. is deprecated:FutureWarning")

EXAMPLE = Path(__file__).parents[2] / "examples" / "memo"
CATS = TrainedDocument(id="cats.txt", title="Of cats", sha256="0" * 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What synthesis wrote."""
    folder = tmp_path / "corpus"
    write_rows(folder / "reflections.jsonl", reflections())
    (folder / "documents.jsonl").write_text(f"{CATS.model_dump_json()}\n")
    write_rows(tmp_path / "held_out.jsonl", held_out())
    return folder


@pytest.fixture
def task(tiny_model: TinyModel, folder: Path, tmp_path: Path) -> list[str]:
    """The command that trains on it, four steps an epoch."""
    words = f"memo train {folder} --base {tiny_model.path} --out {tmp_path}/memories/places --batch-size 4"
    return [*words.split(), "--device", "cpu", "--learning-rate", "2e-3"]


def test_it_trains_and_tells(memlora: Memlora, task: list[str], tmp_path: Path) -> None:
    questions = ["--held-out", str(tmp_path / "held_out.jsonl"), "--no-gradient-checkpointing"]
    options = [*questions, "--epochs", "4", "--measure-every", "2"]
    done = memlora(*task, *options)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    [head] = [line for line in lines if line.split()[:2] == ["epoch", "step"]]
    assert head.split()[-4:] == ["recall", "exact", "entity", "fact"]
    rows = [line.split() for line in lines if line.strip()[:1].isdigit() and "%" in line]
    assert [row[0] for row in rows] == ["2.0", "4.0"]
    assert "kept" in done.stdout
    assert "What it knows of 4 documents cannot be taken out of its weights again." in done.stdout
    assert "tokens/s" in done.stdout
    model = tmp_path / "memories" / "places"
    again = json.loads(memlora(*task, *options, "--resume", "--json").stdout)
    assert again == {"folder": str(model), **json.loads((model / "memlora.json").read_text())}
    assert again["memo"]["documents"][1] == CATS.model_dump()  # found beside the reflections


def test_without_questions_nothing_is_said_of_recall(
    memlora: Memlora, task: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = memlora(*task, "--max-steps", "5", "--no-gradient-checkpointing")
    [head] = [line for line in done.stdout.splitlines() if line.split()[:2] == ["epoch", "step"]]
    assert head.split() == ["epoch", "step", "training", "loss"]
    assert done.stdout.count("kept") == 1
    monkeypatch.setenv("RANK", "1")
    assert memlora(*task, "--max-steps", "5", "--no-gradient-checkpointing", "--resume").stdout == ""


def test_every_option_reaches_the_card(memlora: Memlora, task: list[str]) -> None:
    given = {
        "rank": 2,
        "alpha": 3,
        "dropout": 0.2,
        "learning-rate": 0.001,
        "schedule": "linear",
        "warmup": 0.1,
        "weight-decay": 0.02,
        "batch-size": 6,
        "epochs": 9,
        "max-steps": 2,
        "eval-every": 2,
        "patience": 5,
        "max-length": 99,
        "seed": 11,
        "device-batch-size": 3,
        "threads": 1,
        "measure-every": 4,
        "answer-tokens": 7,
    }
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    words += ["--target-modules", "q_proj, v_proj"]
    shown = json.loads(memlora(*task, *words, "--lora", "--json").stdout)
    assert {name: shown["options"][name.replace("-", "_")] for name in given} == given
    assert shown["options"]["gradient_checkpointing"] is True
    assert shown["options"]["target_modules"] == ["q_proj", "v_proj"]


def test_options_of_small_models(memlora: Memlora, task: list[str]) -> None:
    words = ["--optimizer", "muon", "--embedding-rate", "4", "--max-steps", "1", "--json"]
    options = json.loads(memlora(*task, *words).stdout)["options"]
    assert (options["full"], options["optimizer"], options["embedding_rate"]) == (True, "muon", 4)
    assert options["gradient_checkpointing"] is True


def test_what_is_not_said_is_as_in_the_paper(memlora: Memlora, task: list[str], tmp_path: Path) -> None:
    """`--lora` brings a rate of its own; the help says what the options are."""
    rate = task.index("--learning-rate")
    plain = [*task[:rate], *task[rate + 2 :]]
    shown = json.loads(memlora(*plain, "--lora", "--max-steps", "1", "--json").stdout)
    assert (shown["options"]["learning_rate"], shown["options"]["alpha"]) == (2e-4, 16)
    assert preflight("memory", tmp_path / "memories" / "places").rank == 8
    told = "".join(memlora("memo", "train", "--help", env={"COLUMNS": "200"}).stdout.split())
    for default in ("2e-5,with--lora2e-4", "(constant)", "(0.05)", "(256)", "(3)", "(8096)", "(twicetherank)"):
        assert default in told


def test_steps_are_left_out_with_what_descends_from_them(memlora: Memlora, task: list[str]) -> None:
    shown = json.loads(memlora(*task, "--leave-out", "1b", "--leave-out", "5", "--max-steps", "1", "--json").stdout)
    assert shown["data"]["train"]["samples"] == 12


def test_several_files(memlora: Memlora, task: list[str], folder: Path, tmp_path: Path) -> None:
    """A reflection that is in two of them counts once; documents can be told elsewhere."""
    more = reflections()[0].model_copy(update={"id": "more", "question": "Where is the bread?", "documents": ("b",)})
    write_rows(tmp_path / "more.jsonl", [reflections()[0], more])
    (tmp_path / "told.jsonl").write_text('{"id": "b", "title": "Of bread"}\n')
    words = [str(tmp_path / "more.jsonl"), "--documents", str(tmp_path / "told.jsonl"), "--max-steps", "1", "--json"]
    shown = json.loads(memlora(*task, *words).stdout)
    assert shown["data"]["train"]["samples"] == 17
    assert shown["memo"]["documents"][1]["title"] is None
    assert shown["memo"]["documents"][4] == {"id": "b", "title": "Of bread", "sha256": None}


def test_two_reflections_of_one_id_are_refused(memlora: Memlora, task: list[str], tmp_path: Path) -> None:
    write_rows(tmp_path / "other.jsonl", [reflections()[0].model_copy(update={"answer": "the moon"})])
    assert "has another reflection of the id 'Ana 0'" in memlora(*task, str(tmp_path / "other.jsonl"), code=1).stderr


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["nowhere.jsonl"], 1, "nowhere.jsonl cannot be read"),
        (["--dropout", "1.5"], 1, "dropout: Input should be less than 1"),
        (["--lora", "--optimizer", "muon"], 1, "muon is for full training"),
        (["--leave-out", "6"], 2, "is not one of"),
        (["--leave-out", "1a", "--leave-out", "1b"], 1, "no reflections to train on"),
        (["--held-out", "nowhere.jsonl"], 1, "nowhere.jsonl cannot be read"),
    ],
)
def test_bad_input_is_one_line(memlora: Memlora, task: list[str], words: list[str], code: int, complaint: str) -> None:
    assert complaint in " ".join(memlora(*task, *words, code=code).stderr.split())


@pytest.mark.timeout(180)
def test_two_processes_share_the_work_and_one_writes(memlora: Memlora, task: list[str], tmp_path: Path) -> None:
    """By the example's configuration: the same steps as one process makes, so the same weights, and the same recall."""
    from safetensors.torch import load_file

    write_rows(tmp_path / "held_out.jsonl", held_out()[:3])  # not to be shared evenly
    options = ["--held-out", str(tmp_path / "held_out.jsonl"), "--epochs", "3", "--measure-every", "2", "--json"]
    out = tmp_path / "memories" / "places"
    memlora(*task, *options)
    alone, card = load_file(out / "model.safetensors"), json.loads((out / "memlora.json").read_text())
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(EXAMPLE / "accelerate.yaml")]
    launched = subprocess.run(
        [*launcher, "--num_processes", "2", "--main_process_port", "0", "-m", "memlora_plugins.cli", *task, *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    shared = json.loads(launched.stdout)  # one of them tells
    assert shared["processes"] == 2
    assert [path.name for path in out.parent.iterdir()] == ["places"]
    together = load_file(out / "model.safetensors")
    assert all((together[name] - alone[name]).abs().max() < 1e-3 for name in alone)
    assert shared["memo"] == card["memo"]
    assert shared["data"] == card["data"]


def test_the_deepspeed_configuration_leaves_to_the_options_what_they_say() -> None:
    config = json.loads((EXAMPLE / "deepspeed_zero2.json").read_text())
    assert config["zero_optimization"]["stage"] == 2
    left_open = {"gradient_clipping", "gradient_accumulation_steps", "train_micro_batch_size_per_gpu"}
    assert {config[name] for name in (*left_open, "train_batch_size")} == {"auto"}
    assert "optimizer" not in config
    assert "scheduler" not in config
