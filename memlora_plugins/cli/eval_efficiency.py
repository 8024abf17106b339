"""`memlora eval efficiency`: size, tokens and seconds of a student, without and with its experts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .eval_options import Concurrency, Embedder, EmbedderUrl, StudentOptions, print_tables, repeated
from .options import Json, command
from .output import console, print_json, progress
from .serve import running

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ..evaluation.conversations import Conversation
    from ..evaluation.efficiency.costs import Subject
    from ..evaluation.harness.candidates import Candidate
    from ..serving.server import VLLMServer
    from ..training.journal import Journal

_MODEL = "The model"
_WORK = "The work"


class Precision(StrEnum):
    """What is computed in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@command
def efficiency(
    *,
    context: typer.Context,
    student: StudentOptions,
    data: Annotated[
        Path,
        typer.Option(help="Conversations with questions: a LoCoMo file, or chat as JSONL.", rich_help_panel=_WORK),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for efficiency.json, report.md and the plot.")],
    served_name: Annotated[
        str | None,
        typer.Option(help="The name that it has the base under.", show_default="its folder's", rich_help_panel=_MODEL),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Start a vLLM server for this, to measure too.", rich_help_panel=_MODEL),
    ] = False,
    server_only: Annotated[
        bool, typer.Option("--server-only", help="Do not measure in process.", rich_help_panel=_MODEL)
    ] = False,
    precision: Annotated[
        Precision,
        typer.Option(help="What is computed in, in process and by --serve.", rich_help_panel=_MODEL),
    ] = Precision.float32,
    conversation: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this one. Repeatable.", show_default="all", rich_help_panel=_WORK),
    ] = None,
    turns: Annotated[
        int | None,
        typer.Option(
            min=1, help="The first so many turns of each conversation.", show_default="all", rich_help_panel=_WORK
        ),
    ] = None,
    questions: Annotated[
        int | None,
        typer.Option(
            min=1, help="The first so many questions that these answer.", show_default="all", rich_help_panel=_WORK
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="How often all of it is done.", rich_help_panel=_WORK)] = 3,
    concurrency: Concurrency = 8,
    first_text: Annotated[
        bool,
        typer.Option(
            "--first-text", help="Also measure when the text of an answer begins, by streaming.", rich_help_panel=_WORK
        ),
    ] = False,
    embedder: Embedder = None,
    embedder_url: EmbedderUrl = None,
    json: Json = False,
) -> None:
    """Measure size, tokens/s, and tokens and seconds per answer by operation: the base, and the base with experts.

    A portion of conversations is remembered and asked about, with one call at a time; then the same calls are made
    again, --concurrency at once. A folder is measured in process and, with --base-url or --serve, on a vLLM server too.

    Every finished run is kept in --out: the same command goes on after an interruption, and one with another --base
    adds its rows to the tables. The key of a server is read from MEMLORA_API_KEY.
    """
    from ..core import build_embedder
    from ..evaluation.conversations import chosen, load_conversations
    from ..evaluation.efficiency import costs as measuring
    from ..evaluation.efficiency import students
    from ..evaluation.efficiency.report import Efficiency, tables
    from ..evaluation.harness.candidates import NANO
    from ..evaluation.harness.machine import this_machine
    from ..settings import load_settings
    from ..training.journal import Journal

    base_url = student.base_url
    if serve and base_url is not None:
        raise typer.BadParameter("--serve starts a server and --base-url names one that runs; give one of them")
    if server_only and not serve and base_url is None:
        raise typer.BadParameter("--server-only needs a server: --serve starts one, --base-url names one that runs")
    said = repeated(context)
    here = base_url is None or student.base == NANO or Path(student.base or "").is_dir()
    what = (replace(student, base_url=None) if here else student).candidate()
    folder = students.folder_of(what)
    key = load_settings(adapters={}).api_key
    settings = load_settings(adapters={}, embedder=embedder, embedder_url=embedder_url)
    talks = load_conversations(data)
    talks = measuring.portion(
        talks if conversation is None else chosen(talks, conversation), turns=turns, questions=questions
    )
    server = _server(folder, what, precision, key) if serve and folder is not None else None
    subjects = students.in_process(what, precision.value, said) if here and not server_only else []
    if base_url is not None:  # before anything is measured: is it there?
        students.server_version(base_url, key)
    used = build_embedder(settings)
    try:
        work = _work(talks, used.name)
        _keep_apart(
            out, work, talks, what, precision=precision.value, concurrency=concurrency, use_of_streaming=first_text
        )
        _same_engine(out, subjects)
        with Journal(out / "efficiency.jsonl") as journal:
            options = {"runs": runs, "concurrency": concurrency, "first_text": first_text}
            _measure(subjects, talks, used, journal, **options)
            left = any(measuring.missing(journal, label, runs) for label in students.labels(what, "vLLM"))
            if left and (server is not None or base_url is not None):
                with nullcontext() if server is None else running(server):
                    url = server.base_url if server is not None else str(base_url)
                    subjects = students.on_server(
                        what,
                        url,
                        server.model if server is not None else served_name or what.name,
                        {expert: expert for expert in what.experts} if server is not None else what.experts,
                        precision=precision.value if server is not None else None,
                        api_key=key,
                        command=said,
                    )
                    _same_engine(out, subjects)
                    _measure(subjects, talks, used, journal, **options)
            found = Efficiency(
                machine=this_machine(), work=work, concurrency=concurrency, rows=tuple(measuring.rows(journal))
            )
    finally:
        used.close()
    found.write(out)
    if json:
        print_json(found.told())
        return
    print_tables(tables(found))
    console().print(f"In words, with what it was measured on: {out / 'report.md'}", soft_wrap=True)


def _server(folder: Path, what: Candidate, precision: Precision, key: Any) -> VLLMServer:
    """One that computes as the model in process does; not started yet."""
    from ..serving.server import VLLMServer

    return VLLMServer(
        folder,
        what.experts,
        served_model_name=what.name,
        api_key=key,
        extra_args=[f"--dtype={precision.value}"],
    )


def _work(talks: Sequence[Conversation], embedder: str) -> dict[str, str]:
    turns = sum(len(talk.messages) for talk in talks)
    questions = sum(len(talk.questions) for talk in talks)
    several = "" if len(talks) == 1 else "s"
    return {
        "work": f"{turns} turns of {len(talks)} conversation{several} remembered, {questions} questions asked",
        "embedder": embedder,
    }


def _keep_apart(
    out: Path,
    work: dict[str, str],
    talks: Sequence[Conversation],
    what: Candidate,
    **ways: object,
) -> None:
    """Refuse a folder with other work, or with another model under the name of this."""
    from ..evaluation.efficiency.students import digest_of
    from ..evaluation.harness.machine import this_machine
    from ..training.identity import check_same, conversation_row, digest

    made_of = {
        "portion of conversations": digest([conversation_row(talk) for talk in talks]),
        "embedder": work["embedder"],
        "machine": str(this_machine()),
        f"model called {what.name}": digest_of(what),
    }
    check_same(out / "measuring.json", made_of | {way.replace("_", " "): str(value) for way, value in ways.items()})


def _same_engine(out: Path, subjects: Sequence[Subject]) -> None:
    """Refuse a folder with figures of the same place by another engine or version of it."""
    from ..training.identity import check_same

    check_same(out / "measuring.json", {f"engine, {one.student.place}": one.student.engine for one in subjects})


def _measure(
    subjects: Sequence[Subject], talks: Sequence[Conversation], embedder: Any, journal: Journal, **options: Any
) -> None:
    from ..evaluation.efficiency.costs import measure

    with progress() as bar:
        for subject in subjects:
            task = bar.add_task(f"{subject.student.label}, run", total=options["runs"])

            def show(run: int, task: TaskID = task) -> None:
                bar.update(task, completed=run)

            measure(subject, talks, embedder, journal, on_run=show, **options)
