"""What the commands that train share: their options, and what they tell.

What an option leaves open is left to `TrainingOptions`; each command shows defaults of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import console, progress

if TYPE_CHECKING:
    from ..training.trainer import TrainingEvent

_ADAPTER = "The adapter"
_LEARNING = "How it learns"
_MACHINE = "The machine"


class Schedule(StrEnum):
    """The learning rate after its rise."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class Optimizer(StrEnum):
    """What makes steps of gradients."""

    adamw = "adamw"
    muon = "muon"


class Device(StrEnum):
    """What a model runs on."""

    auto = "auto"
    cpu = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """The adapter's shape."""

    rank: Annotated[int | None, typer.Option(min=1, rich_help_panel=_ADAPTER)] = None
    alpha: Annotated[int | None, typer.Option(min=1, rich_help_panel=_ADAPTER)] = None
    dropout: Annotated[float | None, typer.Option(min=0, rich_help_panel=_ADAPTER)] = None
    target_modules: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Linear layers, separated by commas, or all-linear.", rich_help_panel=_ADAPTER
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """Hyper-parameters of the optimisation."""

    learning_rate: Annotated[float | None, typer.Option(rich_help_panel=_LEARNING)] = None
    schedule: Annotated[Schedule | None, typer.Option(rich_help_panel=_LEARNING)] = None
    warmup: Annotated[float | None, typer.Option(help="Share of all steps.", rich_help_panel=_LEARNING)] = None
    weight_decay: Annotated[float | None, typer.Option(show_default="0.01", rich_help_panel=_LEARNING)] = None
    optimizer: Annotated[
        Optimizer | None,
        typer.Option(help="muon is for all weights, of small models.", show_default="adamw", rich_help_panel=_LEARNING),
    ] = None
    embedding_rate: Annotated[
        float | None,
        typer.Option(
            help="Embeddings learn so many times as fast, with all weights.",
            show_default="1",
            rich_help_panel=_LEARNING,
        ),
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples in a step, over all.", rich_help_panel=_LEARNING)
    ] = None
    epochs: Annotated[int | None, typer.Option(min=1, help="At most.", rich_help_panel=_LEARNING)] = None
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="At most.", show_default="no limit", rich_help_panel=_LEARNING)
    ] = None
    eval_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between validations.", show_default="an epoch", rich_help_panel=_LEARNING),
    ] = None
    patience: Annotated[
        int | None, typer.Option(min=1, help="Validations without a better one.", rich_help_panel=_LEARNING)
    ] = None
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Longest sample, in tokens.", rich_help_panel=_LEARNING)
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, show_default="7", rich_help_panel=_LEARNING)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is to be used of the machine; the result is the same."""

    device: Annotated[
        Device | None, typer.Option(help="auto takes a GPU.", show_default="auto", rich_help_panel=_MACHINE)
    ] = None
    device_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples at once.", show_default="all", rich_help_panel=_MACHINE)
    ] = None
    threads: Annotated[int | None, typer.Option(min=1, help="Torch's, on a CPU.", rich_help_panel=_MACHINE)] = None
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Less memory, more time.",
            rich_help_panel=_MACHINE,
        ),
    ] = None


def hyper_parameters(*groups: Lora | Learning | Machine) -> dict[str, Any]:
    """What the options set, under the names of `TrainingOptions`."""
    given = {part.name: getattr(group, part.name) for group in groups for part in fields(group)}
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in given.items()}
    if (names := plain.get("target_modules")) not in (None, "all-linear"):
        plain["target_modules"] = tuple(name.strip() for name in names.split(",") if name.strip())
    return {name: value for name, value in plain.items() if value is not None}


def first_process() -> bool:
    """Whether this one of the processes that train together is to tell what came of it."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def told_of(work: str) -> Iterator[Callable[[TrainingEvent], None]]:
    """A bar for `work`: what it gives is told of every step and validation."""
    with progress() as bar:
        task = bar.add_task(work, total=None)

        def show(event: TrainingEvent) -> None:
            bar.update(task, completed=event.step, total=event.steps)
            if event.validation_loss is not None:
                told = f"{work}, epoch {event.epoch:.1f}, validation loss {event.validation_loss:.4f}"
                recall = "" if event.score is None else f", recall {event.score:.1%}"
                bar.update(task, description=told + recall)

        yield show


def tell_work(folder: Path, card: Mapping[str, Any]) -> None:
    """How much was trained on, how fast, and where that is written down."""
    data = card["data"]["train"]
    console().print(
        f"{data['samples'] - data['too_long']} samples ({data['too_long']} too long), "
        f"{card['metrics']['tokens_per_second']:,.0f} tokens/s; the card is {folder / 'README.md'}",
        soft_wrap=True,
    )
