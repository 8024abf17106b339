"""`memlora train`: an expert from its samples; `memlora train search`: the best of a grid."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import train_search
from .options import Json, command, named_if_unusable
from .output import console, print_json, table
from .training_options import Learning, Lora, Machine, first_process, hyper_parameters, tell_work, told_of

if TYPE_CHECKING:
    from ..training.trainer import TrainedExpert

app = typer.Typer(invoke_without_command=True)
app.command()(train_search.search)

_WHAT = "What is trained (all required)"


class Trained(StrEnum):
    """What is trained."""

    extraction = "extraction"
    update = "update"
    generation = "generation"
    vision = "vision"
    shared = "shared"


@app.callback()
@partial(
    command,
    defaults={
        "rank": "8",
        "alpha": "16",
        "dropout": "0.1",
        "target_modules": "q_proj,v_proj for extraction and update, else all-linear",
        "learning_rate": "2e-4",
        "schedule": "linear",
        "warmup": "0.03",
        "batch_size": "16",
        "epochs": "50",
        "patience": "3",
        "max_length": "2048",
        "gradient_checkpointing": "no",
    },
)
def train(
    context: typer.Context,
    *,
    expert: Annotated[
        Trained | None,
        typer.Option(help="What the samples teach; shared is one adapter for all.", rich_help_panel=_WHAT),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The student: a folder, or a name in the Hugging Face cache.", rich_help_panel=_WHAT),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Samples to train on, JSONL as distilled.", rich_help_panel=_WHAT)
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Samples of other conversations, to stop by.", rich_help_panel=_WHAT)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the expert.", rich_help_panel=_WHAT)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of the same run, if there is one.")
    ] = False,
    lora: Lora,
    full: Annotated[
        bool,
        typer.Option("--full", help="Train all weights instead; writes a whole model.", rich_help_panel="The adapter"),
    ] = False,
    learning: Learning,
    machine: Machine,
    json: Json = False,
) -> None:
    """Train an expert, a LoRA adapter, on samples that `memlora distil` wrote.

    The validation samples decide when to stop and which weights are kept. After an interruption the same command with
    --resume goes on. On several GPUs or machines: accelerate launch --num_processes 2 -m memlora_plugins.cli train …
    """
    if context.invoked_subcommand is not None:
        return
    if expert is None or base is None or data is None or validation is None or out is None:
        raise typer.BadParameter("--expert, --base, --data, --validation and --out are needed")
    hyper = {**hyper_parameters(lora, learning, machine), "full": full}
    trained = _train(expert, base, data, validation, out, hyper, resume)
    if not first_process():
        return
    if json:
        print_json({"folder": trained.folder, **trained.card})
    else:
        _tell(trained)


def _train(
    expert: Trained, base: str, data: Path, validation: Path, out: Path, hyper: dict[str, Any], resume: bool
) -> TrainedExpert:
    from ..training import trainer
    from ..training.dataset import read_samples
    from ..training.options import TrainingOptions

    with named_if_unusable():
        options = TrainingOptions(**hyper)
    with told_of(f"training {expert.value}") as on_event:
        samples = read_samples(data), read_samples(validation)
        return trainer.train(expert.value, base, *samples, out, options, resume=resume, on_event=on_event)


def _tell(trained: TrainedExpert) -> None:
    made = table(f"{trained.folder}", "epoch", "step", "training loss", "validation loss")
    for row in trained.card["history"]:
        best = row["step"] == trained.card["metrics"]["best_step"]
        training = "" if row["training_loss"] is None else f"{row['training_loss']:.4f}"
        made.add_row(
            f"{row['epoch']:.1f}", str(row["step"]), training, f"{row['validation_loss']:.4f}{'  kept' if best else ''}"
        )
    console().print(made)
    tell_work(trained.folder, trained.card)
