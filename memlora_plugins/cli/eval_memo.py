"""`memlora eval memo`: MeMo, its bounds and what it is compared with, as one configuration says."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .eval_options import print_tables, repeated
from .options import Json, command
from .output import console, print_json, progress

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..evaluation.memo_qa.answering import Progress as Telling
    from ..evaluation.memo_qa.answering import Searches
    from ..evaluation.memo_qa.config import MemoConfig
    from ..evaluation.memo_qa.material import Material


@command
def memo(
    *,
    context: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="What to measure: a TOML file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report; answers are kept there.")],
    json: Json = False,
) -> None:
    """Answer questions by MeMo, from retrieved documents, from the evidence alone, without any; have it judged.

    CONFIG names the questions and their corpus (a MuSiQue file, or any JSONL of questions beside documents), Executives
    as [[executive]], a [judge], Memory models with their protocols and budgets as [[memory]], and the noise levels of
    the corpus; examples/memo/evaluation.toml is one. Keys are read from MEMLORA_EXECUTIVE_API_KEY,
    MEMLORA_JUDGE_API_KEY and MEMLORA_API_KEY, or from the variables it names.

    Answers and verdicts are kept as they come: run the same again after an interruption, or with more models in CONFIG,
    and nothing is asked for twice. Writes report.md, results.json, answers.jsonl and a figure;
    what holds texts of questions and documents is in .gitignore there.
    """
    from ..errors import DatasetError
    from ..evaluation.harness.config_file import read_config
    from ..evaluation.memo_qa import answering as memo_qa
    from ..evaluation.memo_qa import report as memo_report
    from ..evaluation.memo_qa import scores as memo_scores
    from ..evaluation.memo_qa.config import MemoConfig
    from ..evaluation.memo_qa.material import load_material
    from ..evaluation.report import keep_private
    from ..training.journal import Journal

    said = read_config(config, MemoConfig)
    memo_qa.check_models(said)
    material = load_material(said)
    try:
        out.mkdir(parents=True, exist_ok=True)
        keep_private(out, memo_report.WITH_TEXTS)
    except OSError as error:
        raise DatasetError(f"{out} cannot be written: {error}") from error
    with ExitStack() as opened:
        journals = tuple(opened.enter_context(Journal(out / f"{name}.jsonl")) for name in ("answering", "judging"))
        bar = opened.enter_context(progress())
        found_by, embedder = _searches(said, material, out, bar, opened)
        answers, unjudged = memo_qa.answered_and_judged(
            said,
            material,
            found_by,
            embedder=embedder or "",
            journals=(journals[0], journals[1]),
            progress=_telling(bar),
        )
    scores = memo_scores.summaries(answers)
    run = memo_report.memo_run(said, material, scores, command=repeated(context), embedder=embedder, unjudged=unjudged)
    memo_report.write_answers(out / memo_report.ANSWERS_FILE, answers)
    files = [*run.write(out), out / memo_report.ANSWERS_FILE]
    if json:
        print_json({**run.model_dump(mode="json"), "files": files})
        return
    print_tables(run.tables())
    show = console()
    for line in (*run.lines(), f"Written: {', '.join(map(str, files))}"):
        show.print(line, soft_wrap=True)


def _searches(
    config: MemoConfig, material: Material, out: Path, bar: Progress, opened: ExitStack
) -> tuple[Searches, str | None]:
    """What finds documents, and the embedder's name where one takes part."""
    from ..core import build_embedder
    from ..evaluation.evidence.cached_embedder import CachedEmbedder
    from ..evaluation.memo_qa.answering import searches
    from ..settings import load_settings

    if "dense" not in config.baselines:
        return searches(config, material, None), None
    used = build_embedder(load_settings(adapters={}, embedder=config.embedder, embedder_url=config.embedder_url))
    opened.callback(used.close)
    cached = CachedEmbedder(used, out)
    opened.callback(cached.close)
    cached.embed([question.text for question in material.questions])  # all at once; threads ask for them later
    return searches(config, material, cached, progress=_telling(bar)), used.name


def _telling(bar: Progress) -> Telling:
    """Shows steps on the bar."""
    task = bar.add_task("", total=None)
    return lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
