"""A finished sweep for people: a table, a Markdown summary, and a plot; and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MissingDependencyError
from ...evaluation import plots
from ...evaluation.report import Table
from ...files import write_whole

if TYPE_CHECKING:
    from .methods import Recipe
    from .sweep import SweepRow


def check_packages() -> None:
    """Say at the start, not after hours, that a package is missing.

    Raises:
        MissingDependencyError: naming the extra.
    """
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("A sweep needs matplotlib. Install with: pip install 'memlora-plugins[train]'")


def write(rows: Sequence[SweepRow], out: Path, full_training: float | None = None) -> None:
    """Write `report.json`, `summary.md` and `sweep.png` to `out`.

    Raises:
        OSError: one of them cannot be written.
    """
    write_whole(out / "report.json", json.dumps(report(rows, full_training), indent=1) + "\n")
    write_whole(out / "summary.md", markdown(rows, full_training))
    plot(rows, out / "sweep.png", full_training)


def report(rows: Sequence[SweepRow], full_training: float | None = None) -> dict[str, Any]:
    """The sweep as JSON has it; the folder of the best is relative to that of the sweep."""
    return {
        "configurations": [
            {
                **row.recipe.row(),
                "scores": dict(row.scores),
                "seconds": row.seconds,
                "score_seconds": row.score_seconds,
                "megabytes_per_second": row.megabytes_per_second,
                "folder": None if row.folder is None else row.folder.name,
            }
            for row in rows
        ],
        "full_training": full_training,
    }


def table(rows: Sequence[SweepRow]) -> Table:
    """The configurations by method, as in Table 12 of the paper, with what merging took."""
    names = tuple(dict.fromkeys(name for row in rows for name in row.scores))
    cells = tuple(
        (
            row.recipe.method,
            _parameter(row.recipe),
            *(f"{row.scores[name]:.4f}" if name in row.scores else "" for name in names),
            f"{row.seconds:.1f}",
            f"{row.megabytes_per_second:.0f}",
            "best" if row.folder is not None else "",
        )
        for row in rows
    )
    return Table("Merged models", ("method", "parameter", *names, "seconds", "MB/s", ""), cells)


def markdown(rows: Sequence[SweepRow], full_training: float | None = None) -> str:
    """The summary: what was found, the table, and the plot beside it."""
    [best] = [row for row in rows if row.folder is not None]
    lines = ["# Merging sweep", "", f"Best of {len(rows)}: {best.recipe.label}, in `best`.", ""]
    if full_training is not None:
        gap = full_training - best.score
        lines += [f"Full training on all corpora scores {full_training:.4f}, {gap:+.4f} against the best merge.", ""]
    return "\n".join([*lines, "![Scores by method](sweep.png)", ""]) + "\n" + table(rows).markdown()


def plot(rows: Sequence[SweepRow], file: Path, full_training: float | None = None) -> None:
    """The score over density or t, a line for each method; methods without either, and full training, lie level.

    Raises:
        OSError: the file cannot be written.
    """
    figure = plots.figure(7, 4.5)
    axes: Any = figure.subplots()
    for place, method in enumerate(dict.fromkeys(row.recipe.method for row in rows)):
        own = [row for row in rows if row.recipe.method == method]
        shares = [share for row in own if (share := _share(row.recipe)) is not None]
        colour = f"C{place}"
        if shares:
            points = sorted(zip(shares, (row.score for row in own), strict=True))
            axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=method)
        else:
            axes.axhline(max(row.score for row in own), linestyle="--", color=colour, label=method)
    if full_training is not None:
        axes.axhline(full_training, color="black", label="full training")
    axes.set_xlabel("density (slerp: t)")
    axes.set_ylabel(next(iter(rows[0].scores)))
    axes.legend(fontsize="small")
    plots.save(figure, file)


def _share(recipe: Recipe) -> float | None:
    row = recipe.row()
    share: float | None = row.get("density", row.get("t"))
    return share


def _parameter(recipe: Recipe) -> str:
    if recipe.method == "slerp":
        return f"t = {recipe.t:g}"
    return f"density = {recipe.density:g}" if _share(recipe) is not None else ""
