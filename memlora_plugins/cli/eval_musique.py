"""`memlora eval musique`: questions that take several steps, answered from what is found and by MeMo."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .eval_options import Concurrency, Embedder, EmbedderUrl, print_tables
from .executive import ExecutiveOptions
from .options import Json, command
from .output import console, print_json, progress

if TYPE_CHECKING:
    from ..evaluation.musique import MuSiQue
    from ..evaluation.reading import GivenAnswer
    from ..evaluation.retrieval import Search
    from ..training.journal import Journal

_MODELS = "The models that answer"


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
