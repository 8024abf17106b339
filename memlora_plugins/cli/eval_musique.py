"""`memlora eval musique`: questions that take several steps, answered from what is found and by MeMo."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .eval_options import Concurrency, Embedder, EmbedderUrl, print_tables
from .executive import ExecutiveOptions
from .options import Json, command
from .output import console, print_json, progress

if TYPE_CHECKING:
    from ..evaluation.memo_qa.config import MemoConfig
    from ..evaluation.memo_qa.reading import GivenAnswer
    from ..evaluation.retrieval import Search

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

    Retrieval needs no model but the embedder, whose vectors are kept in the folder: `memlora eval retrieval` finds them
    there. Where a large model is given, it answers the questions from what was
    found, and where a Memory model is given, with its help. Answers are kept as they come: run the same again after an
    interruption, and none is asked for twice. A key of the Memory model's server is read from MEMLORA_API_KEY.

    For several runs, noise levels, Memory models and protocols, and a judge: `memlora eval memo`.
    """
    from ..core import build_embedder
    from ..evaluation import musique as benchmark
    from ..evaluation.evidence.cached_embedder import CachedEmbedder
    from ..evaluation.evidence.recall import alone, measure
    from ..evaluation.memo_qa import answering as memo_qa
    from ..evaluation.memo_qa import report as memo_report
    from ..evaluation.memo_qa import scores as memo_scores
    from ..evaluation.memo_qa.material import of_musique
    from ..evaluation.retrieval import Bm25Search, DenseSearch
    from ..settings import load_settings
    from ..training.journal import Journal

    config = None
    if executive.named:
        config = _config(file, negatives, executive, (memory, memory_url, memory_base), top_k, upper_bound, concurrency)
        memo_qa.check_models(config)
    data = benchmark.load(file, negatives=negatives)
    written = data.write(out)
    needed = _needed(executive.named, memory, written[0])
    used = build_embedder(load_settings(adapters={}, embedder=embedder, embedder_url=embedder_url))
    answers: list[GivenAnswer] = []
    with ExitStack() as opened:
        opened.callback(used.close)
        remembering = CachedEmbedder(used, out)
        opened.callback(remembering.close)
        with progress() as bar:
            task = bar.add_task("", total=None)

            def tell(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total)

            dense = DenseSearch(data.documents, remembering, progress=lambda done, of: tell("embedding", done, of))
            searches: dict[str, Search] = {"BM25": Bm25Search(data.documents), "dense": dense}
            remembering.embed([question.text for question in data.questions])  # together: quicker than one by one
            measured = {name: measure(data.questions, alone(of), ks=benchmark.KS) for name, of in searches.items()}
            found = benchmark.retrieval_scores(measured)
            if config is not None:
                with Journal(out / "answering.jsonl") as journal:
                    answers = asyncio.run(
                        memo_qa.aanswered(
                            config,
                            of_musique({negatives: data}).first(questions),
                            {negatives: searches},
                            embedder=used.name,
                            journal=journal,
                            progress=tell,
                        )
                    )
                memo_report.write_answers(out / memo_report.ANSWERS_FILE, answers)
    scores = memo_scores.summaries(answers)
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
        print_tables(memo_scores.tables(scores))
        show.print(f"Every answer: {out / memo_report.ANSWERS_FILE}", soft_wrap=True)
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


def _config(
    file: Path,
    negatives: int,
    executive: ExecutiveOptions,
    memory: tuple[Path | None, str | None, str | None],
    top_k: int,
    upper_bound: bool,
    concurrency: int,
) -> MemoConfig:
    """The options as `memlora eval memo` has them; `memory` is folder, URL and base of a Memory model."""
    from ..evaluation.harness.endpoints import ExecutiveEndpoint
    from ..evaluation.memo_qa.config import MemoConfig, MemoryEntry

    folder, url, base = memory
    entry = (
        None
        if folder is None
        else MemoryEntry(name=folder.resolve().name, folder=folder, base_url=url, base=base, protocols=("structured",))
    )
    return MemoConfig(
        questions=file,
        noise=(negatives,),
        runs=1,
        temperature=0.0,
        top_k=top_k,
        baselines=("perfect retrieval", "BM25", "dense") if upper_bound else ("BM25", "dense"),
        executive=(ExecutiveEndpoint(base_url=executive.executive_url or "", model=executive.executive_model or ""),),
        memory=() if entry is None else (entry,),
        concurrency=concurrency,
    )
