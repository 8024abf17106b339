"""A finished search for people: tables, a Markdown summary, and a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..errors import DatasetError, MissingDependencyError
from ..evaluation import plots
from ..evaluation.report import Table, pipeline_tables
from ..files import write_whole
from .runs import Run, SearchReport, Stage, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STAGES: tuple[Stage, ...] = get_args(Stage)


def check_packages() -> None:
    """Say at the start, not after hours, that a package is missing.

    Raises:
        MissingDependencyError: naming the extra.
    """
    missing = [name for name in ("matplotlib", "trl") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"The expert search needs {', '.join(missing)}. Install with: pip install 'memlora-plugins[train]'"
        )


def write(report: SearchReport, out: Path) -> None:
    """Write `report.json` (its paths are relative to `out`), `summary.md` and `search.png` to `out`.

    Raises:
        DatasetError: a file cannot be written.
    """
    inside = {stage: folder.relative_to(out) for stage, folder in report.adapters.items()}
    portable = report.model_copy(update={"adapters": inside})
    try:
        write_whole(out / "report.json", portable.model_dump_json(indent=1) + "\n")
        write_whole(out / "summary.md", markdown(report))
        plot(report, out / "search.png")
    except OSError as error:
        raise DatasetError(
            f"{out} cannot be written: {error}. The runs are kept; make room and run it again."
        ) from error


def tables(report: SearchReport) -> list[Table]:
    """The runs by expert, the combinations, the result, and what the experts of the result cost."""
    rows = {
        "base, validation": report.base,
        "best, validation": report.validation,
        "best, held-out": report.held_out,
    }
    results = {name: run.result for name, run in rows.items() if run.result is not None}
    return [_runs(report), _combinations(report), *pipeline_tables(results, changes=False)]


def markdown(report: SearchReport) -> str:
    """The summary: what was found, notes, tables, and the plot beside it."""
    lines = ["# Expert search", "", f"Best combination: {label(report.best)}.", ""]
    lines += [f"- {stage}: `{stage}/{name}/adapter`" for stage, name in report.best.items()]
    lines += ["", *(f"> {note}" for note in report.notes), "", "![Scores and validation losses](search.png)", ""]
    return "\n".join(lines) + "\n" + "\n".join(table.markdown() for table in tables(report))


def plot(report: SearchReport, file: Path) -> None:
    """Score of the pipeline and validation loss over the learning rate, a line for each batch size, by expert.

    Raises:
        OSError: the file cannot be written.
    """
    stages = [stage for stage in _STAGES if any(run.expert == stage for run in report.runs)]
    figure = plots.figure(4 * len(stages), 6)
    axes: Any = figure.subplots(2, len(stages), squeeze=False, sharex="col")
    for column, stage in enumerate(stages):
        runs = [run for run in report.runs if run.expert == stage]
        scores, losses = axes[0][column], axes[1][column]
        _curves(scores, runs, "score")
        if report.base.score is not None:
            scores.axhline(report.base.score, color="grey", linestyle="--", label="base model")
        _curves(losses, runs, "validation_loss")
        scores.set_title(stage)
        losses.set_xlabel("learning rate")
        scores.legend(fontsize="small")
    axes[0][0].set_ylabel(f"pipeline, {report.metric}")
    axes[1][0].set_ylabel("validation loss")
    plots.save(figure, file)


def _curves(axes: Axes, runs: Sequence[Run], measure: str) -> None:
    """A line for each batch size; the learning rates stand side by side, whatever their distance."""
    rates = sorted({run.learning_rate for run in runs if run.learning_rate is not None})
    for size in sorted({run.batch_size for run in runs if run.batch_size is not None}):
        values = {run.learning_rate: getattr(run, measure) for run in runs if run.batch_size == size}
        heights = [math.nan if (value := values.get(rate)) is None else value for rate in rates]
        axes.plot(range(len(rates)), heights, marker="o", label=f"batch size {size}")
    axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axes.set_xlim(-0.5, len(rates) - 0.5)  # where nothing was measured, too


def _runs(report: SearchReport) -> Table:
    columns = (
        "expert",
        "learning rate",
        "batch size",
        "validation loss",
        report.metric,
        "candidate",
        "epochs",
        "tokens/s",
        "seconds",
        "error",
    )
    rows = tuple(
        (
            run.expert,
            f"{run.learning_rate:g}",
            str(run.batch_size),
            _number(run.validation_loss, 4),
            _number(run.score, 4),
            _place(report, run),
            _number(run.epochs, 1),
            _number(run.tokens_per_second, 0),
            _number(run.training_seconds, 0),
            run.error or "",
        )
        for run in report.runs
        if run.expert is not None
    )
    return Table("Runs", columns, rows)


def _place(report: SearchReport, run: Run) -> str:
    """The candidate's place among those of its stage, from 1."""
    if run.expert is None or run.error is not None:
        return ""
    names = report.candidates[run.expert]
    name = run.pipeline[run.expert]
    return str(names.index(name) + 1) if name in names else ""


def _combinations(report: SearchReport) -> Table:
    tried = [run for run in report.runs if run.split == "validation" and _of_candidates(report, run)]
    ranked = sorted(tried, key=lambda run: -(run.score or 0.0))
    rows = tuple((*(run.pipeline.get(stage, "base") for stage in _STAGES), _number(run.score, 4)) for run in ranked)
    return Table("Combinations", (*_STAGES, report.metric), rows)


def _of_candidates(report: SearchReport, run: Run) -> bool:
    filled = {stage for stage, names in report.candidates.items() if names}
    return run.pipeline.keys() == filled and all(
        name in report.candidates[stage] for stage, name in run.pipeline.items()
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
