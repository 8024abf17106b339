"""`memlora train`: an expert from its samples; `memlora train search`: the best of a grid."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import train_search
from .options import Json, command, named_if_unusable
from .output import console, print_json, progress, table

if TYPE_CHECKING:
    from ..training.trainer import TrainedExpert, TrainingEvent

app = typer.Typer(invoke_without_command=True)
app.command()(train_search.search)

_WHAT = "What is trained (all required)"
_ADAPTER = "The adapter"
_LEARNING = "How it learns"
_MACHINE = "The machine"


class Trained(StrEnum):
    """What is trained."""

    extraction = "extraction"
    update = "update"
    generation = "generation"
    vision = "vision"
    shared = "shared"


class Schedule(StrEnum):
    """The learning rate after its rise."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class Device(StrEnum):
    """Where it is trained."""

    auto = "auto"
    cpu = "cpu"


@app.callback()
@command
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
    rank: Annotated[int | None, typer.Option(min=1, show_default="8", rich_help_panel=_ADAPTER)] = None,
    alpha: Annotated[int | None, typer.Option(min=1, show_default="16", rich_help_panel=_ADAPTER)] = None,
    dropout: Annotated[float | None, typer.Option(min=0, show_default="0.1", rich_help_panel=_ADAPTER)] = None,
    target_modules: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Linear layers, separated by commas, or all-linear.",
            show_default="q_proj,v_proj for extraction and update, else all-linear",
            rich_help_panel=_ADAPTER,
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Train all weights instead; writes a whole model.", rich_help_panel=_ADAPTER)
    ] = False,
    learning_rate: Annotated[float | None, typer.Option(show_default="2e-4", rich_help_panel=_LEARNING)] = None,
    schedule: Annotated[Schedule | None, typer.Option(show_default="linear", rich_help_panel=_LEARNING)] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Share of all steps.", show_default="0.03", rich_help_panel=_LEARNING)
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(show_default="0.01", rich_help_panel=_LEARNING)] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Samples in a step, over all.", show_default="16", rich_help_panel=_LEARNING),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="At most.", show_default="50", rich_help_panel=_LEARNING)
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="At most.", show_default="no limit", rich_help_panel=_LEARNING)
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between validations.", show_default="an epoch", rich_help_panel=_LEARNING),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Validations without a lower loss.", show_default="3", rich_help_panel=_LEARNING),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Longest sample, in tokens.", show_default="2048", rich_help_panel=_LEARNING),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, show_default="7", rich_help_panel=_LEARNING)] = None,
    device: Annotated[
        Device | None, typer.Option(help="auto takes a GPU.", show_default="auto", rich_help_panel=_MACHINE)
    ] = None,
    device_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples at once.", show_default="all", rich_help_panel=_MACHINE)
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Torch's, on a CPU.", rich_help_panel=_MACHINE)] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.", rich_help_panel=_MACHINE)
    ] = False,
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
    hyper: dict[str, Any] = {
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "target_modules": _modules(target_modules),
        "full": full,
        "learning_rate": learning_rate,
        "schedule": schedule and schedule.value,
        "warmup": warmup,
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "epochs": epochs,
        "max_steps": max_steps,
        "eval_every": eval_every,
        "patience": patience,
        "max_length": max_length,
        "seed": seed,
        "device": device and device.value,
        "device_batch_size": device_batch_size,
        "threads": threads,
        "gradient_checkpointing": gradient_checkpointing,
    }
    trained = _train(expert, base, data, validation, out, hyper, resume)
    if os.environ.get("RANK", "0") != "0":
        return  # the first process tells
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
        options = TrainingOptions(**{name: value for name, value in hyper.items() if value is not None})
    with progress() as bar:
        task = bar.add_task(f"training {expert.value}", total=None)

        def show(event: TrainingEvent) -> None:
            bar.update(task, completed=event.step, total=event.steps)
            if event.validation_loss is not None:
                told = f"training {expert.value}, epoch {event.epoch:.1f}, validation loss {event.validation_loss:.4f}"
                bar.update(task, description=told)

        samples = read_samples(data), read_samples(validation)
        return trainer.train(expert.value, base, *samples, out, options, resume=resume, on_event=show)


def _modules(names: str | None) -> tuple[str, ...] | str | None:
    if names is None or names == "all-linear":
        return names
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _tell(trained: TrainedExpert) -> None:
    made = table(f"{trained.folder}", "epoch", "step", "training loss", "validation loss")
    for row in trained.card["history"]:
        best = row["step"] == trained.card["metrics"]["best_step"]
        training = "" if row["training_loss"] is None else f"{row['training_loss']:.4f}"
        made.add_row(
            f"{row['epoch']:.1f}", str(row["step"]), training, f"{row['validation_loss']:.4f}{'  kept' if best else ''}"
        )
    out = console()
    out.print(made)
    data = trained.card["data"]["train"]
    out.print(
        f"{data['samples'] - data['too_long']} samples ({data['too_long']} too long), "
        f"{trained.tokens_per_second:,.0f} tokens/s; the card is {trained.folder / 'README.md'}",
        soft_wrap=True,
    )
