"""`memlora eval`: how good a memory is, measured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .executive import ExecutiveOptions
from .options import Json, adapters, command
from .output import console, print_json, progress, table, visible

if TYPE_CHECKING:
    from ..evaluation.musique import MuSiQue
    from ..evaluation.pipeline import Adapters, Opener
    from ..evaluation.reading import GivenAnswer
    from ..evaluation.report import Table
    from ..evaluation.retrieval import Search
    from ..training.journal import Journal

_MODEL = "The model"
_MODELS = "The models that answer"

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


@app.command()
@command
def musique(
    *,
    file: Annotated[Path, typer.Argument(help="A MuSiQue file: JSONL as it is published, or one JSON list.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for corpus.jsonl, questions.jsonl, answers.jsonl.")],
    negatives: Annotated[int, typer.Option(min=0, help="Paragraphs beside each one of evidence that do not help.")] = 1,
    embedder: Embedder = None,
    embedder_url: EmbedderUrl = None,
    executive: ExecutiveOptions,
    memory: Annotated[
        Path | None, typer.Option(help="A Memory model of the corpus: its folder.", rich_help_panel=_MODELS)
    ] = None,
    memory_url: Annotated[
        str | None, typer.Option(help="A vLLM server that has it, instead of in process.", rich_help_panel=_MODELS)
    ] = None,
    memory_base: Annotated[
        str | None, typer.Option(help="The base model that it is an adapter of.", rich_help_panel=_MODELS)
    ] = None,
    top_k: Annotated[
        int, typer.Option(min=1, help="Documents that the large model reads.", rich_help_panel=_MODELS)
    ] = 9,
    upper_bound: Annotated[
        bool, typer.Option("--upper-bound", help="Also have it read the evidence alone.", rich_help_panel=_MODELS)
    ] = False,
    questions: Annotated[
        int | None,
        typer.Option(min=1, help="Answer the first so many only.", show_default="all", rich_help_panel=_MODELS),
    ] = None,
    concurrency: Concurrency = 8,
    json: Json = False,
) -> None:
    """Make a corpus with groups and questions of MuSiQue; compare BM25, dense retrieval and MeMo.

    Retrieval needs no model but the embedder. Where a large model is given, it answers the questions from what was
    found, and where a Memory model is given, with its help. Answers are kept as they come: run the same again after an
    interruption, and none is asked for twice. A key of the Memory model's server is read from MEMLORA_API_KEY.
    """
    from ..core import build_embedder
    from ..evaluation import musique as benchmark
    from ..evaluation import reading
    from ..evaluation.retrieval import Bm25Search, DenseSearch
    from ..memo.card import read_card
    from ..settings import load_settings
    from ..training.identity import check_same, digest
    from ..training.journal import Journal

    answering = executive.named
    data = benchmark.load(file, negatives=negatives)
    written = data.write(out)
    needed = _needed(answering, memory, written[0])
    used = build_embedder(load_settings(adapters={}, embedder=embedder, embedder_url=embedder_url))
    answers: list[GivenAnswer] = []
    try:
        with progress() as bar:
            task = bar.add_task("embedding", total=None)
            dense = DenseSearch(
                data.documents, used, progress=lambda done, of: bar.update(task, completed=done, total=of)
            )
        searches: dict[str, Search] = {"BM25": Bm25Search(data.documents), "dense": dense}
        found = benchmark.measure(data.questions, searches)
        if answering:
            if upper_bound:
                searches["evidence alone"] = benchmark.evidence_search(data.questions)
            check_same(
                out / "answering.json",
                {
                    "large model": str(executive.executive_model),
                    "embedder": used.name,
                    "corpus": digest([document.sha256 for document in data.documents]),
                    "number of documents to read": str(top_k),
                    **({} if memory is None else {"Memory model": digest(read_card(memory).row())}),
                },
            )
            with Journal(out / "answering.jsonl") as journal:
                answers = asyncio.run(
                    _answered(
                        data,
                        searches,
                        executive,
                        None if memory is None else (memory, memory_url, memory_base),
                        journal,
                        top_k=top_k,
                        limit=questions,
                        concurrency=concurrency,
                    )
                )
            reading.write_answers(out / "answers.jsonl", answers)
    finally:
        used.close()
    scores = reading.summaries(answers)
    evidence = {id for question in data.questions for id in question.evidence}
    if json:
        counts = {"documents": len(data.documents), "evidence": len(evidence), "unanswerable": data.unanswerable}
        told = {"files": written, **counts, "questions": len(data.questions), "embedder": used.name}
        told |= {"retrieval": [score.model_dump() for score in found], "needed": needed}
        print_json(told | {"answers": [score.model_dump() for score in scores]})
        return
    show = console()
    for line in (
        f"{len(data.questions)} questions: {written[1]}",
        f"{len(data.documents)} documents, {len(evidence)} of them evidence: {written[0]}",
        "",
    ):
        show.print(line, soft_wrap=True)
    print_tables(benchmark.retrieval_tables(found))
    show.print(f"dense: {used.name}. The paper's baselines read the best 9 documents (Section 5).", soft_wrap=True)
    if scores:
        show.print()
        print_tables([reading.answers_table(scores)])
        show.print(f"Every answer: {out / 'answers.jsonl'}", soft_wrap=True)
    for line in needed:
        show.print(line, soft_wrap=True)


def _needed(answering: bool, memory: Path | None, corpus: Path) -> list[str]:
    """What is missing for the whole comparison."""
    lines = []
    if not answering:
        lines.append(
            "To compare answers, a large model is needed: name its OpenAI-compatible server with --executive-url and "
            "--executive-model."
        )
    if memory is None:
        lines.append(
            f"To compare MeMo, a Memory model of this corpus is needed: `memlora memo synthesize {corpus}` and "
            "`memlora memo train` make one; name its folder with --memory."
        )
    return lines


async def _answered(
    data: MuSiQue,
    searches: Mapping[str, Search],
    executive: ExecutiveOptions,
    memory: tuple[Path, str | None, str | None] | None,
    journal: Journal,
    *,
    top_k: int,
    limit: int | None,
    concurrency: int,
) -> list[GivenAnswer]:
    """What the large model answers; `memory` is folder, URL and base of a Memory model."""
    from contextlib import AsyncExitStack

    from ..evaluation.reading import aanswers, memo, reader
    from ..settings import load_settings

    async with AsyncExitStack() as opened:
        backend = executive.backend()
        opened.push_async_callback(backend.aclose)
        methods = {name: reader(backend, data.documents, search, k=top_k) for name, search in searches.items()}
        if memory is not None:
            from ..memo.executive import EndpointExecutive
            from ..memo.memory_model import MemoryModel
            from ..memo.protocol import Protocol

            folder, url, base = memory
            key = load_settings(adapters={}).api_key
            model = await opened.enter_async_context(MemoryModel.open(folder, base_url=url, base=base, api_key=key))
            methods["MeMo"] = memo(Protocol(executive=EndpointExecutive(backend), memory_model=model))
        with progress() as bar:
            task = bar.add_task("answers", total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            asked = data.questions[:limit]
            return await aanswers(asked, methods, concurrency=concurrency, progress=show, journal=journal)


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
