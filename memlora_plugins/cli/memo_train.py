"""`memlora memo train`: a Memory model from reflections."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DatasetError
from .options import Json, command, named_if_unusable
from .output import console, print_json, table
from .training_options import Learning, Lora, Machine, first_process, hyper_parameters, tell_work, told_of

if TYPE_CHECKING:
    from ..memo.card import TrainedDocument
    from ..memo.reflections import Reflection
    from ..memo.training import TrainedMemoryModel

_RECALL = "What is recalled"
_DOCUMENTS = "documents.jsonl"


class Step(StrEnum):
    """The steps of synthesis."""

    direct = "1a"
    indirect = "1b"
    consolidated = "2"
    rewritten = "3"
    entities = "4"
    across = "5"


@partial(
    command,
    defaults={
        "rank": "8",
        "alpha": "twice the rank",
        "dropout": "0.05",
        "target_modules": "all-linear",
        "learning_rate": "2e-5, with --lora 2e-4",
        "schedule": "constant",
        "warmup": "0.05",
        "batch_size": "256",
        "epochs": "3",
        "patience": "no end before the last epoch",
        "max_length": "8096",
        "gradient_checkpointing": "yes",
    },
)
def train(
    reflections: Annotated[
        list[Path], typer.Argument(metavar="REFLECTIONS...", help="JSONL as synthesized, or folders with it.")
    ],
    *,
    base: Annotated[str, typer.Option(help="The model to train: a folder, or a name in the Hugging Face cache.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the Memory model.")],
    full: Annotated[bool, typer.Option("--full/--lora", help="Train all weights, or an adapter.")] = True,
    documents: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSONL with id, title and sha256 of the documents, for the record. Repeatable.",
            show_default="documents.jsonl beside the reflections",
        ),
    ] = None,
    leave_out: Annotated[
        list[Step] | None,
        typer.Option(help="Leave out what descends from this step of synthesis. Repeatable.", show_default="none"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of the same run, if there is one.")
    ] = False,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="Questions that no reflection asks, as JSONL: the weights that recall most are kept.",
            show_default="none; the last weights are kept",
            rich_help_panel=_RECALL,
        ),
    ] = None,
    measure_every: Annotated[
        int | None,
        typer.Option(min=1, help="Ask them at every so-manieth validation.", show_default="1", rich_help_panel=_RECALL),
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer.", show_default="48", rich_help_panel=_RECALL)
    ] = None,
    learning: Learning,
    lora: Lora,
    machine: Machine,
    json: Json = False,
) -> None:
    """Train a model to answer questions about a corpus from its weights alone.

    Defaults are those of the MeMo paper; small corpora want a smaller batch, a higher rate and more epochs. After an
    interruption the same command with --resume goes on.

    On several GPUs: accelerate launch --multi_gpu --num_processes 8 -m memlora_plugins.cli memo train … The same line
    starts as many processes on a machine without GPUs. For models that need DeepSpeed's ZeRO-2 put --use_deepspeed
    --deepspeed_config_file examples/memo/deepspeed_zero2.json in the place of --multi_gpu.
    """
    recall = {"measure_every": measure_every, "answer_tokens": answer_tokens}
    hyper = {name: value for name, value in recall.items() if value is not None}
    hyper |= hyper_parameters(lora, learning, machine)
    trained = _train(reflections, base, out, full, documents, leave_out or [], resume, held_out, hyper)
    if not first_process():
        return
    if json:
        print_json({"folder": trained.folder, **trained.card})
    else:
        _tell(trained)


def _train(
    reflections: list[Path],
    base: str,
    out: Path,
    full: bool,
    documents: list[Path] | None,
    left_out: list[Step],
    resume: bool,
    held_out: Path | None,
    hyper: dict[str, Any],
) -> TrainedMemoryModel:
    from ..memo.reflections import read_held_out, without_steps
    from ..memo.training import memo_options, train_memory_model

    with named_if_unusable():
        options = memo_options(full, **hyper)
    files = [path / "reflections.jsonl" if path.is_dir() else path for path in reflections]
    with told_of("training a Memory model") as on_event:
        return train_memory_model(
            base,
            without_steps(all_reflections(files), [step.value for step in left_out]),
            out,
            options,
            held_out=() if held_out is None else read_held_out(held_out),
            documents=documents_of(files, documents),
            resume=resume,
            on_event=on_event,
        )


def all_reflections(files: list[Path]) -> list[Reflection]:
    """Those of all files. One that is in two of them counts once."""
    from ..memo.reflections import read_reflections

    found: dict[str, Reflection] = {}
    for file in files:
        for one in read_reflections(file):
            first = found.setdefault(one.id, one)
            if (first.question, first.answer) != (one.question, one.answer):
                raise DatasetError(f"{file} has another reflection of the id {one.id!r} than a file before it.")
    return list(found.values())


def documents_of(files: list[Path], named: list[Path] | None) -> list[TrainedDocument]:
    """Those in the files `named`, or in what lies beside the reflections."""
    from ..memo.card import read_trained_documents

    beside = dict.fromkeys(file.with_name(_DOCUMENTS) for file in files)
    found = [file for file in beside if file.is_file()] if named is None else named
    return [document for file in found for document in read_trained_documents(file)]


def _tell(trained: TrainedMemoryModel) -> None:
    kinds = [] if trained.recall is None else list(trained.recall.kinds)
    columns = () if trained.recall is None else ("recall", "exact", *kinds)
    made = table(f"{trained.folder}", "epoch", "step", "training loss", *columns, "")
    for row in trained.card["history"]:
        best = row["step"] == trained.card["metrics"]["best_step"]
        training = "" if row["training_loss"] is None else f"{row['training_loss']:.4f}"
        found = [""] * len(columns)
        if measured := row.get("measured"):
            found = [f"{measured['overall'][part]:.1%}" for part in ("contained", "exact")]
            found += [f"{measured['kinds'][kind]['contained']:.1%}" for kind in kinds]
        made.add_row(f"{row['epoch']:.1f}", str(row["step"]), training, *found, "kept" if best else "")
    console().print(made)
    documents = trained.card["memo"]["documents"]
    console().print(f"What it knows of {len(documents)} documents cannot be taken out of its weights again.")
    tell_work(trained.folder, trained.card)
