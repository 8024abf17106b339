"""Measured efficiency for people and programs: the paper's Table 3, A6 and A7 as tables, a report, and a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ...files import write_whole
from .. import plots
from ..harness.machine import Machine
from ..pipeline import STAGES
from ..report import Table
from .costs import Figure, Row, Spread, Usages, Work, averaged, input_tokens, output_tokens, seconds, tokens_per_second

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEAN = "mean"
_ALONE: tuple[tuple[str, str, Figure, int], ...] = (
    ("output_tokens", "Output tokens per answer (Table A7)", output_tokens, 2),
    ("input_tokens", "Input tokens per answer (Table A6)", input_tokens, 2),
    ("seconds", "Seconds per answer", seconds, 3),
    ("tokens_per_second", "Output tokens per second of a call", tokens_per_second, 1),
)
_FIRST_TEXT = "Seconds until the first text of an answer"


class Efficiency(BaseModel):
    """All that was measured in one folder. `work` says in words what of, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: Machine
    work: dict[str, str]
    concurrency: int
    rows: tuple[Row, ...]

    @property
    def commands(self) -> tuple[str, ...]:
        """What measured the rows, each once."""
        return tuple(dict.fromkeys(row.student.command for row in self.rows))

    def told(self) -> dict[str, Any]:
        """All of it for JSON, with the figures of the tables."""
        by_row = {row.student.label: figures(row) for row in self.rows}
        shown = {
            label: {
                name: {part: spread and spread.model_dump() for part, spread in one.items()}
                for name, one in by_row[label].items()
            }
            for label in by_row
        }
        return {"commands": list(self.commands), **self.model_dump(mode="json"), "figures": shown}

    def write(self, out: Path) -> None:
        """Write `efficiency.json`, `report.md` and, where matplotlib is installed, `efficiency.png` to `out`.

        Raises:
            OSError: a file cannot be written.
        """
        drawn = plots.available()
        write_whole(out / "efficiency.json", json.dumps(self.told(), indent=1) + "\n")
        if drawn:
            plot(self, out / "efficiency.png")
        write_whole(out / "report.md", markdown(self, drawn=drawn))


def figures(row: Row) -> dict[str, dict[str, Spread | None]]:
    """Name of a figure to operation, and `mean` of the three, to the figure over the runs; None where it has no call.

    `throughput` is of the calls at once, `first_text` of those with streaming; each is there only where measured.
    """
    found = {name: _by_operation(row, lambda run: run.alone, of) for name, _, of, _ in _ALONE}
    if any(run.at_once for run in row.runs):
        found["throughput"] = _by_operation(row, lambda run: run.at_once, tokens_per_second)
    if any(run.first_text for run in row.runs):
        found["first_text"] = _by_operation(row, lambda run: run.first_text, seconds)
    return found


def tables(found: Efficiency) -> list[Table]:
    """The paper's Table 3, then a table for each figure by operation, sizes, and what the memory did."""
    by_row = {row.student.label: figures(row) for row in found.rows}
    made = [_table_3(found, by_row)]
    more = [("throughput", _throughput(found.concurrency), 1), ("first_text", _FIRST_TEXT, 3)]
    for name, title, digits in [*((name, title, digits) for name, title, _, digits in _ALONE), *more]:
        if shown := [(label, one[name]) for label, one in by_row.items() if name in one]:
            lines = tuple((label, *(_cell(part[stage], digits) for stage in (*STAGES, MEAN))) for label, part in shown)
            made.append(Table(title, ("model", *STAGES, MEAN), lines))
    return [*made, _sizes(found.rows), _memory(found.rows)]


def markdown(found: Efficiency, *, drawn: bool = True) -> str:
    """The report: commands, machine, versions, what is measured how, tables, and the plot beside it where `drawn`."""
    picture = plots.markdown("Tokens per second and seconds per answer", "efficiency.png", drawn=drawn)
    lines = ["# Efficiency", "", "```", *found.commands, "```", "", f"- Machine: {found.machine}"]
    lines += [f"- {row.student.label}: {row.student.engine}; computes in {row.student.precision}" for row in found.rows]
    lines += [f"- {name[:1].upper()}{name[1:]}: {told}" for name, told in found.work.items()]
    lines += [f"- Runs: {', '.join(f'{len(row.runs)} of {row.student.label}' for row in found.rows)}"]
    lines += ["", notes(found), "", picture, ""]
    return "\n".join(lines) + "\n" + "\n".join(table.markdown() for table in tables(found))


def notes(found: Efficiency) -> str:
    """What the figures mean."""
    return (
        "Base and experts work as the same memory does (its settings are those for the experts), each on what it made "
        "of the turns before; the base is asked with the full prompts. A GB is 2^30 bytes, as in the paper; sizes are "
        "those of the weights as stored. An answer is a model's reply to one call; vLLM counts the token that ends it, "
        "too, where in process a reply held to a form ends without one. Each figure is the mean over the "
        "runs ± the standard deviation (n - 1); the mean of the operations counts each alike, and its tok/s is its "
        "tok/ans over its s/ans. The calls are made one at a time"
        + (f", then the same ones, by operation, {found.concurrency} at once" if found.concurrency > 1 else "")
        + ". A made-up call of each expert before the first run is not counted (warm-up: weights, adapters, grammars); "
        "nor does a server answer one pass from the prompts that it kept of another. A load (the average of a minute) "
        "well above the number of cores means that others had part of the time: then seconds are too many."
    )


def plot(found: Efficiency, file: Path) -> None:
    """Tokens per second and seconds per answer by model: a bar for each operation and one for their mean.

    Raises:
        OSError: the file cannot be written.
    """
    by_row = {row.student.label: figures(row) for row in found.rows}
    figure = plots.figure(10, 1.6 + 0.9 * len(by_row))
    axes: Any = figure.subplots(1, 2, sharey=True)
    _bars(axes[0], by_row, "tokens_per_second")
    _bars(axes[1], by_row, "seconds")
    axes[0].set_xlabel("output tokens per second of a call")
    axes[1].set_xlabel("seconds per answer")
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(STAGES) + 1)
    plots.save(figure, file)


def _bars(axes: Axes, by_row: Mapping[str, Mapping[str, Mapping[str, Spread | None]]], name: str) -> None:
    parts = (*STAGES, MEAN)
    height = 0.8 / len(parts)
    for place, part in enumerate(parts):
        spreads = [one[name][part] for one in by_row.values()]
        axes.barh(
            [row + (place - 1.5) * height for row in range(len(spreads))],
            [0.0 if spread is None else spread.mean for spread in spreads],
            height,
            xerr=[0.0 if spread is None else spread.sd or 0.0 for spread in spreads],
            label=part,
            color="black" if part == MEAN else None,
            ecolor="grey",
        )
    axes.set_yticks(range(len(by_row)), list(by_row))


def _table_3(found: Efficiency, by_row: Mapping[str, Mapping[str, Mapping[str, Spread | None]]]) -> Table:
    more = (_throughput(found.concurrency),) if any("throughput" in one for one in by_row.values()) else ()
    lines = []
    for row in found.rows:
        one = by_row[row.student.label]
        shown = [
            ("tokens_per_second", 1),
            ("output_tokens", 2),
            ("seconds", 3),
            *((("throughput", 1),) if more else ()),
        ]
        weights = row.student.weights
        size = "not available: on a server only" if weights is None else f"{weights.gb:.3g}"
        cells = (_cell(one[name][MEAN], digits) if name in one else "" for name, digits in shown)
        lines.append((row.student.label, size, *cells))
    columns = ("model", "size (GB)", "tok/s", "tok/ans", "s/ans", *more)
    return Table("Efficiency, mean of the operations (Table 3)", columns, tuple(lines))


def _sizes(rows: Sequence[Row]) -> Table:
    """Each base and adapter once, at whatever places it was measured."""
    lines: dict[tuple[str, ...], None] = {}
    for row in rows:
        name = row.student.label.removesuffix(f", {row.student.place}").removesuffix(" + experts")
        for part, weights in (("base", row.student.base), *row.student.adapters.items()):
            told = ("not available: on a server only", "", "")
            if weights is not None:
                told = (f"{weights.parameters:,}", f"{weights.gb:.3g}", ", ".join(weights.stored_as))
            lines[name, part, *told] = None
    return Table("Size", ("model", "part", "parameters", "GB", "stored as"), tuple(lines))


def _memory(rows: Sequence[Row]) -> Table:
    """What became of the work, by run: a model that says nothing readable is fast."""
    columns = ("model", "run", "s/turn", "s/question", "calls", "facts", "failed", "cut off", "load")
    lines = []
    for row in rows:
        for number, run in enumerate(row.runs, start=1):
            calls = ", ".join(str(run.alone[stage].calls) if stage in run.alone else "0" for stage in STAGES)
            lines.append(
                (
                    row.student.label,
                    str(number),
                    f"{run.remember_seconds / run.turns:.3f}",
                    f"{run.answer_seconds / run.questions:.3f}",
                    calls,
                    str(run.facts),
                    str(run.failures),
                    str(run.cut_off),
                    "" if run.load is None else f"{run.load:.1f}",
                )
            )
    return Table(f"The memory as a whole (calls: {', '.join(STAGES)})", columns, tuple(lines))


def _by_operation(row: Row, usages: Callable[[Work], Usages], of: Figure) -> dict[str, Spread | None]:
    def over_runs(stage: str) -> Spread | None:
        return row.spread(lambda run: of(usages(run), stage))

    found = {stage: over_runs(stage) for stage in STAGES}
    return found | {MEAN: row.spread(lambda run: averaged(usages(run), of))}


def _throughput(concurrency: int) -> str:
    return f"tok/s, {concurrency} at once"


def _cell(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "not available: no call"
    return f"{spread.mean:.{digits}f}" + ("" if spread.sd is None else f" ± {spread.sd:.{digits}f}")
