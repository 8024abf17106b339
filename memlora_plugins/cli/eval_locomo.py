"""`memlora eval locomo`: the paper's tables, of any students, judge and embedder."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .eval_options import Embedder, EmbedderUrl, StagedStudentOptions, options_given, print_tables, repeated
from .judge import JudgeOptions
from .options import Json, command
from .output import complain, console, print_json, progress

if TYPE_CHECKING:
    from ..evaluation.harness.endpoints import Endpoint

_STUDENT = "The model"
_ASKED = "What is asked"
_METRICS = "Metrics"


class Split(StrEnum):
    """The paper's split by whole conversations."""

    training = "training"
    validation = "validation"
    test = "test"


@command
def locomo(
    *,
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The LoCoMo file, as it is published.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for memories, answers and results.")],
    config: Annotated[
        Path | None, typer.Option(help="Students, judge and metrics: TOML, [[student]] with name, base, adapters.")
    ] = None,
    student: StagedStudentOptions,
    stages: Annotated[
        bool,
        typer.Option("--stages", help="Add its experts one after the other.", rich_help_panel=_STUDENT),
    ] = False,
    conversation: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this one. Repeatable.", show_default="all", rich_help_panel=_ASKED),
    ] = None,
    split: Annotated[
        Split | None, typer.Option(help="Only the conversations of one split.", rich_help_panel=_ASKED)
    ] = None,
    corrected: Annotated[
        Path | None, typer.Option(help="Corrected answers: JSONL or a JSON list.", rich_help_panel=_ASKED)
    ] = None,
    judge: JudgeOptions,
    bertscore_model: Annotated[
        str | None,
        typer.Option(
            help="BERTScore's model: a folder, or a name in the local cache.",
            show_default="roberta-large",
            rich_help_panel=_METRICS,
        ),
    ] = None,
    wordnet: Annotated[
        Path | None,
        typer.Option(help="WordNet's database, for METEOR.", show_default="$MEMLORA_WORDNET", rich_help_panel=_METRICS),
    ] = None,
    embedder: Embedder = None,
    embedder_url: EmbedderUrl = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Model calls under way at once.", show_default="8")
    ] = None,
    json: Json = False,
) -> None:
    """Have memories remember LoCoMo's conversations, ask their questions, and score the answers.

    Everything that is finished is kept: run the same again after an interruption, and no model is asked twice. Run it
    again when a judge or a metric's files are there, and it only scores.
    """
    from ..core import build_embedder
    from ..evaluation.harness.config_file import read_config
    from ..evaluation.locomo_qa.config import LocomoConfig
    from ..evaluation.locomo_qa.report import CHANGES, MODEL_SECONDS, REPORT_FILE, tables
    from ..evaluation.locomo_qa.run import material, measure
    from ..settings import load_settings

    if (config is None) == (student.base is None):
        raise typer.BadParameter("name a student with --base, or several in a --config; not both")
    of_one = options_given(context, [*(option.name for option in fields(student)), "stages"])
    if config is not None and of_one:
        raise typer.BadParameter(f"{', '.join(of_one)}: with --config, say that of a [[student]] in the file instead")
    given: dict[str, Any] = {"bertscore_model": bertscore_model, "wordnet": wordnet, "concurrency": concurrency}
    given = {name: value for name, value in given.items() if value is not None}
    embedding = {"embedder": embedder, "embedder_url": embedder_url}
    if config is None:
        one = {"student": (student.candidate(stages=stages),)}
        measured = LocomoConfig.model_validate({**one, **given, **embedding})
    else:
        measured = read_config(config, LocomoConfig)
        # what the file says counts more than the environment, and less than the command line
        if options_given(context, embedding) or not measured.model_fields_set & embedding.keys():
            given |= embedding
        measured = measured.model_copy(update=given)
    endpoint: Endpoint | None = measured.judge
    if endpoint is None or options_given(context, [option.name for option in fields(judge)]):
        endpoint = judge.endpoint() if judge.named else endpoint
    data = material(file, split=None if split is None else split.value, ids=conversation, corrected=corrected)
    with ExitStack() as opened:
        judging = None if endpoint is None else endpoint.backend()
        settings = load_settings(adapters={}, embedder=measured.embedder, embedder_url=measured.embedder_url)
        # where there is no address, not the one that the environment has for another embedder
        used = build_embedder(settings.model_copy(update={"embedder_url": measured.embedder_url}))
        opened.callback(used.close)
        bar = opened.enter_context(progress())
        task = bar.add_task("", total=None)
        summary, _ = measure(
            measured,
            data,
            used,
            out,
            judge=judging,
            command=repeated(context),
            on_note=complain,
            on_step=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    if json:
        print_json(summary.model_dump(mode="json"))
        return
    print_tables(tables(summary, intervals=False))
    show = console()
    for line in (CHANGES, MODEL_SECONDS, *summary.notes(), f"Written: {out / REPORT_FILE}"):
        show.print(line, soft_wrap=True)
