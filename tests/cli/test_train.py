"""`memlora train` on the tiny model: what it writes, what it says, and two processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Memlora
from lessons import lessons, questions
from tiny_model import TinyModel

from memlora_plugins.serving.local import LocalBackend
from memlora_plugins.training.dataset import write_samples

pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def task(tiny_model: TinyModel, tmp_path: Path) -> list[str]:
    """The command that trains on the lessons, three steps an epoch."""
    write_samples(tmp_path / "train.jsonl", lessons("train"))
    write_samples(tmp_path / "validation.jsonl", lessons("validation"))
    words = f"train --expert generation --base {tiny_model.path} --data {tmp_path}/train.jsonl --validation "
    words += f"{tmp_path}/validation.jsonl --out {tmp_path}/experts/generation --batch-size 4 --device cpu"
    return words.split()


def test_it_trains_and_tells(memlora: Memlora, task: list[str], tmp_path: Path) -> None:
    done = memlora(
        *task, "--epochs", "2", "--rank", "4", "--target-modules", "q_proj, v_proj", "--schedule", "constant"
    )
    assert "kept" in done.stdout.splitlines()[-2]
    assert "tokens/s" in done.stdout
    assert done.stderr == ""  # no terminal: no bar, and nothing of the libraries' own
    folder = tmp_path / "experts" / "generation"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["target_modules"]) == (4, ["q_proj", "v_proj"])
    assert str(folder / "README.md") in done.stdout
    again = json.loads(
        memlora(
            *(*task, "--epochs", "2", "--rank", "4", "--target-modules", "q_proj,v_proj"),
            *("--schedule", "constant", "--resume", "--json"),
        ).stdout
    )
    assert again["folder"] == str(folder)
    assert again == {"folder": str(folder), **json.loads((folder / "memlora.json").read_text())}


def test_every_option_reaches_the_card(memlora: Memlora, task: list[str]) -> None:
    given = {
        "rank": 2,
        "alpha": 3,
        "dropout": 0.2,
        "learning-rate": 0.001,
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
    }
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    shown = json.loads(
        memlora(*task, *words, "--target-modules", "all-linear", "--gradient-checkpointing", "--json").stdout
    )
    assert {name: shown["options"][name.replace("-", "_")] for name in given} == given
    assert len(shown["options"]["target_modules"]) == 7
    assert shown["options"]["gradient_checkpointing"] is True


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["train", "--expert", "update"], 2, "--validation and --out are needed"),
        (["--dropout", "1.5"], 1, "dropout: Input should be less than 1"),
        (["--target-modules", ","], 1, "error: Unusable option. target_modules must name at least one layer."),
        (["--target-modules", "nope"], 1, "no linear layers to adapt called nope"),
        (["--expert", "update"], 1, "not for update"),
        (["--data", "nowhere.jsonl"], 1, "nowhere.jsonl cannot be read"),
    ],
)
def test_bad_input_is_one_line(memlora: Memlora, task: list[str], words: list[str], code: int, complaint: str) -> None:
    assert complaint in memlora(*(words if words[0] == "train" else [*task, *words]), code=code).stderr


def test_the_search_is_a_command_of_its_own(memlora: Memlora) -> None:
    assert "grid" in memlora("train", "search", "--help").stdout
    assert "accelerate launch" in memlora("train", "--help").stdout


@pytest.mark.timeout(180)
def test_two_processes_share_the_work_and_one_writes(
    memlora: Memlora, task: list[str], tmp_path: Path, tiny_model: TinyModel
) -> None:
    """The same steps as one process makes, so the same weights."""
    from safetensors.torch import load_file

    options = ["--dropout", "0", "--epochs", "3", "--learning-rate", "1e-3", "--json"]
    memlora(*task, *options)
    out = tmp_path / "experts" / "generation"
    alone = load_file(out / "adapter_model.safetensors")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    launched = subprocess.run(
        [*launcher, "-m", "memlora_plugins.cli", *task, *options],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    card = json.loads(launched.stdout)  # one of them tells
    assert card["processes"] == 2
    assert card["data"]["train"]["tokens"] * 3 == pytest.approx(
        card["metrics"]["tokens_per_second"] * card["metrics"]["seconds"]
    )
    assert [path.name for path in out.parent.iterdir()] == ["generation"]
    together = load_file(out / "adapter_model.safetensors")
    assert all((together[name] - alone[name]).abs().max() < 1e-4 for name in alone)
    backend = LocalBackend(tiny_model.path, {"generation": out})
    assert all(backend.complete(question).text for question in questions(lessons("train")))
    backend.close()
