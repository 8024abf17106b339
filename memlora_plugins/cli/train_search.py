"""`memlora train search`: the best experts of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .eval_options import Concurrency, Embedder, EmbedderUrl, Measure, Metric, Stage, opener, print_tables
from .options import Json, command, named_if_unusable
from .output import complain, console, print_json, progress

_DATA = "What is learned from"
_GRID = "What is tried"
_TRAINING = "How each is trained"
_SERVER = "Where pipelines are measured"


@command
def search(
    *,
    base: Annotated[str, typer.Option(help="The student: a folder, or a name in the Hugging Face cache.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Samples: train/EXPERT.jsonl and validation/EXPERT.jsonl, as distilled.", rich_help_panel=_DATA
        ),
    ],
    conversations: Annotated[
        Path,
        typer.Option(help="Conversations with questions: a LoCoMo file, or chat as JSONL.", rich_help_panel=_DATA),
    ],
    validation_conversation: Annotated[
        list[str], typer.Option(metavar="ID", help="One to choose by. Repeatable.", rich_help_panel=_DATA)
    ],
    test_conversation: Annotated[
        list[str],
        typer.Option(metavar="ID", help="One held out until the end. Repeatable.", rich_help_panel=_DATA),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for experts and results; the same again resumes.")],
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Repeatable.", show_default="1e-4, 2e-4, 5e-4", rich_help_panel=_GRID),
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Repeatable.", show_default="8, 16", rich_help_panel=_GRID)
    ] = None,
    expert: Annotated[
        list[Stage] | None,
        typer.Option(help="Search for this expert only. Repeatable.", show_default="all", rich_help_panel=_GRID),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, help="Candidates kept of each expert, for combinations.", rich_help_panel=_GRID)
    ] = 2,
    tolerance: Annotated[
        float, typer.Option(min=0, help="How far below the best a candidate may score.", rich_help_panel=_GRID)
    ] = 0.02,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the samples, at most.", show_default="50", rich_help_panel=_TRAINING),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Validations without a better loss.", show_default="3", rich_help_panel=_TRAINING),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps.", show_default="no limit", rich_help_panel=_TRAINING)
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Longest sample, in tokens.", show_default="2048", rich_help_panel=_TRAINING),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="LoRA's.", show_default="8", rich_help_panel=_TRAINING)
    ] = None,
    alpha: Annotated[
        int | None, typer.Option(min=1, help="LoRA's.", show_default="16", rich_help_panel=_TRAINING)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of every run.", show_default="7", rich_help_panel=_TRAINING)
    ] = None,
    device_batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Samples at once, to need less memory.", show_default="all", rich_help_panel=_TRAINING
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Less memory, more time.", rich_help_panel=_TRAINING),
    ] = False,
    base_url: Annotated[
        str | None,
        typer.Option(help="A vLLM server of the same base model, instead of in process.", rich_help_panel=_SERVER),
    ] = None,
    served_as: Annotated[
        str | None,
        typer.Option(help="The base model's name there.", show_default="the folder", rich_help_panel=_SERVER),
    ] = None,
    embedder: Embedder = None,
    embedder_url: EmbedderUrl = None,
    metric: Metric = Measure.token_f1,
    concurrency: Concurrency = 8,
    json: Json = False,
) -> None:
    """Train every configuration of a grid, choose by what the whole memory answers, then combine the best.

    Every finished run is a line of OUT/runs.jsonl; run the same again after an interruption and it goes on there. The
    held-out conversations are asked once, at the end.
    """
    from ..core import build_embedder
    from ..evaluation.conversations import chosen, load_conversations
    from ..evaluation.metrics import METRICS
    from ..settings import load_settings
    from ..training import search as searching
    from ..training import search_report
    from ..training.dataset import read_samples
    from ..training.options import TrainingOptions
    from ..training.runs import SearchOptions

    hyper: dict[str, Any] = {
        "epochs": epochs,
        "patience": patience,
        "max_steps": max_steps,
        "max_length": max_length,
        "rank": rank,
        "alpha": alpha,
        "seed": seed,
        "device_batch_size": device_batch_size,
        "gradient_checkpointing": gradient_checkpointing,
    }
    experts = tuple(one.value for one in expert or Stage)
    given: dict[str, Any] = {"learning_rates": learning_rate, "batch_sizes": batch_size, "experts": experts, "top": top}
    given |= {"tolerance": tolerance, "concurrency": concurrency}
    with named_if_unusable():
        options = SearchOptions(training=TrainingOptions(**_said(hyper)), **_said(given))
    talks = load_conversations(conversations)
    samples = {
        split: {stage: read_samples(data / split / f"{stage}.jsonl") for stage in experts}
        for split in ("train", "validation")
    }
    settings = load_settings(adapters={}, embedder=embedder, embedder_url=embedder_url)
    used = build_embedder(settings)
    try:
        with progress() as bar:
            task = bar.add_task("", total=None)
            report = searching.search(
                base,
                samples["train"],
                samples["validation"],
                chosen(talks, validation_conversation),
                chosen(talks, test_conversation),
                out,
                used,
                options,
                metric=METRICS[metric.value],
                settings=settings,
                open_backend=None if base_url is None else opener(served_as or base, base_url),
                on_step=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
            )
    finally:
        used.close()
    if json:
        print_json(report.model_dump(mode="json"))
        return
    print_tables(search_report.tables(report))
    for note in report.notes:
        complain(f"note: {note}")
    console().print(
        " ".join(f"--adapter {stage}={folder}" for stage, folder in report.adapters.items())
        + f"\nsummary in {out / 'summary.md'}, plot in {out / 'search.png'}",
        soft_wrap=True,
    )


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
