"""`memlora eval pipeline`: the quality of an expert is what the memory as a whole gains by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from .eval_options import (
    Concurrency,
    Embedder,
    EmbedderUrl,
    Measure,
    Metric,
    StagedStudentOptions,
    base_option,
    base_url_option,
    print_tables,
)
from .options import Json, command
from .output import print_json, progress

if TYPE_CHECKING:
    from ..evaluation.pipeline import Adapters


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentOfEnvironment(StagedStudentOptions):
    """The one model that is measured; unless it is named, the environment's."""

    named_by: ClassVar[str] = "--base, or set MEMLORA_MODEL"

    base: Annotated[str | None, base_option("MEMLORA_MODEL")] = None
    base_url: Annotated[str | None, base_url_option("MEMLORA_BASE_URL")] = None


@command
def pipeline(
    *,
    student: StudentOfEnvironment,
    data: Annotated[Path, typer.Option(help="Conversations with questions: a LoCoMo file, or chat as JSONL.")],
    conversation: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this one. Repeatable.", show_default="all")
    ] = None,
    ablation: Annotated[
        bool,
        typer.Option("--ablation", help="Measure the base alone, then with one expert after the other added."),
    ] = False,
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
    from ..evaluation.harness.candidates import SHARED
    from ..evaluation.metrics import METRICS
    from ..evaluation.report import pipeline_tables
    from ..settings import load_settings

    measured = student.candidate()
    talks = load_conversations(data)
    talks = talks if conversation is None else chosen(talks, conversation)
    every = pipelines.stages(measured.experts, measured.shared)
    label = ", ".join(measured.experts) or "base"
    rows: Mapping[str, Adapters] = every if ablation else {label: measured.experts} | _only(every, SHARED)
    used = build_embedder(load_settings(adapters={}, embedder=embedder, embedder_url=embedder_url))
    try:
        with progress() as bar:
            task = bar.add_task("", total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            results = pipelines.ablation(
                talks,
                rows,
                measured.backend,
                used,
                metric=METRICS[metric.value],
                settings=measured.settings,
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


def _only(rows: Mapping[str, Adapters], label: str) -> dict[str, Adapters]:
    return {label: rows[label]} if label in rows else {}
