"""`memlora eval`: how good a memory is, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json, adapters, command
from .output import console, print_json, progress, table, visible

if TYPE_CHECKING:
    from ..evaluation.pipeline import Adapters, Opener
    from ..evaluation.report import Table

_MODEL = "The model"

app = typer.Typer(help="Measure how good a memory is.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure how good a memory is."""


class Measure(StrEnum):
    """How an answer is compared with the expected one."""

    token_f1 = "token_f1"
    exact_match = "exact_match"
    contains = "contains"


class Stage(StrEnum):
    """An operation of a conversational memory, and the expert for it."""

    extraction = "extraction"
    update = "update"
    generation = "generation"


class Api(StrEnum):
    """What speaks at the address."""

    vllm = "vllm"
    openai = "openai"


Metric = Annotated[Measure, typer.Option(help="How an answer is compared with the expected one.")]
"""The parameter `metric: Metric = Measure.token_f1`."""
Embedder = Annotated[
    str | None,
    typer.Option(
        envvar="MEMLORA_EMBEDDER", help="A sentence-transformers name or folder.", show_default="all-MiniLM-L6-v2"
    ),
]
EmbedderUrl = Annotated[
    str | None, typer.Option(envvar="MEMLORA_EMBEDDER_URL", help="An OpenAI-compatible embedding server.")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Model calls under way at once.")]


@app.command()
@command
def pipeline(
    *,
    base: Annotated[
        str,
        typer.Option(
            envvar="MEMLORA_MODEL",
            help="The base model: a folder, or with --base-url the name it is served under.",
            rich_help_panel=_MODEL,
        ),
    ],
    data: Annotated[Path, typer.Option(help="Conversations with questions: a LoCoMo file, or chat as JSONL.")],
    conversation: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this one. Repeatable.", show_default="all")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPERT=PATH",
            help="A LoRA expert: extraction=PATH, update=PATH, generation=PATH. Repeatable.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    shared: Annotated[
        Path | None,
        typer.Option(help="One adapter that serves every stage, measured beside them.", rich_help_panel=_MODEL),
    ] = None,
    ablation: Annotated[
        bool,
        typer.Option("--ablation", help="Measure the base alone, then with one expert after the other added."),
    ] = False,
    base_url: Annotated[
        str | None,
        typer.Option(envvar="MEMLORA_BASE_URL", help="A model server, instead of in process.", rich_help_panel=_MODEL),
    ] = None,
    api: Annotated[Api, typer.Option(help="What speaks there.", rich_help_panel=_MODEL)] = Api.vllm,
    embedder: Embedder = None,
    embedder_url: EmbedderUrl = None,
    metric: Metric = Measure.token_f1,
    concurrency: Concurrency = 8,
    json: Json = False,
) -> None:
    """Remember conversations, ask their questions, score the answers; with what that took in tokens and seconds.

    Nothing of it is kept: the memory lives in a temporary folder.
    """
    from ..core import build_embedder
    from ..evaluation import pipeline as pipelines
    from ..evaluation.conversations import chosen, load_conversations
    from ..evaluation.metrics import METRICS
    from ..evaluation.report import pipeline_tables
    from ..settings import load_settings

    experts = adapters(adapter) or {}
    _check(experts, shared, api)
    talks = load_conversations(data)
    talks = talks if conversation is None else chosen(talks, conversation)
    every = pipelines.stages(experts, shared)
    label = ", ".join(experts) or "base"
    rows: Mapping[str, Adapters] = every if ablation else {label: experts} | _only(every, "one shared adapter")
    settings = load_settings(adapters={}, embedder=embedder, embedder_url=embedder_url)
    used = build_embedder(settings)
    try:
        with progress() as bar:
            task = bar.add_task("", total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            results = pipelines.ablation(
                talks,
                rows,
                opener(base, base_url, api.value),
                used,
                metric=METRICS[metric.value],
                settings=settings,
                concurrency=concurrency,
                progress=show,
                on_row=lambda row: bar.update(task, description=row, completed=0, total=None),
            )
    finally:
        used.close()
    if json:
        told = {row: result.model_dump(mode="json") for row, result in results.items()}
        print_json(told if len(rows) > 1 else next(iter(told.values())))
        return
    print_tables(pipeline_tables(results))


def opener(base: str, base_url: str | None, api: str = Api.vllm.value) -> Opener:
    """Makes backends of one base model: in process, or on the server at `base_url`."""
    from ..core import build_backend
    from ..settings import load_settings

    def open_backend(given: Adapters) -> Any:
        names = {expert: str(path) for expert, path in given.items()}
        return build_backend(load_settings(model=base, base_url=base_url, api=api, adapters=names))

    return open_backend


def print_tables(tables: Sequence[Table]) -> None:
    """Tables for people, one under the other."""
    out = console()
    for told in tables:
        made = table(told.title, *told.columns)
        for row in told.rows:
            made.add_row(*(visible(cell) for cell in row))
        out.print(made)
        out.print()


def _check(experts: Mapping[str, str], shared: Path | None, api: Api) -> None:
    from ..evaluation.pipeline import STAGES

    if unknown := [expert for expert in experts if expert not in STAGES]:
        raise typer.BadParameter(f"{unknown[0]!r} is no stage of the pipeline; those are {', '.join(STAGES)}")
    if api is Api.openai and (experts or shared):
        raise typer.BadParameter("--api openai serves no adapters; leave them out, or use a vLLM server")


def _only(rows: Mapping[str, Adapters], label: str) -> dict[str, Adapters]:
    return {label: rows[label]} if label in rows else {}
