"""Measurements as tables: for the terminal, and as Markdown for a card or a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import write_whole
from .locomo import CATEGORIES

if TYPE_CHECKING:
    from .harness.usage import ExpertUsage
    from .pipeline import PipelineSummary
    from .statistics import Interval


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as they are to be read, under a title."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table in Markdown, under its title as a heading."""
        lines = [_line(self.columns), _line("---" for _ in self.columns), *map(_line, self.rows)]
        return f"## {self.title}\n\n" + "\n".join(lines) + "\n"


def pipeline_tables(results: Mapping[str, PipelineSummary], *, changes: bool = True) -> list[Table]:
    """Label to result: scores and what was kept, then tokens and seconds by expert, then what failed, if anything did.

    The first table has the shape of the paper's Table 4 when the rows are `pipeline.stages`, the token tables that of
    its tables A6 and A7. `changes` adds how much each score gains on the one above it.
    """
    tables = [_scores(results, changes), *usage_tables({label: result.usage for label, result in results.items()})]
    failed = tuple(
        (label, failure.stage, failure.error, str(failure.count), failure.example)
        for label, result in results.items()
        for failure in result.failures
    )
    if failed:
        tables.append(Table("What failed", ("pipeline", "stage", "error", "times", "the first one"), failed))
    return tables


def usage_tables(usages: Mapping[str, Mapping[str, ExpertUsage]]) -> list[Table]:
    """Mean input tokens, output tokens and seconds of a call by expert, and the number of calls; one table each."""
    experts = tuple(dict.fromkeys(expert for usage in usages.values() for expert in usage))
    measures: tuple[tuple[str, Callable[[ExpertUsage], str]], ...] = (
        ("Input tokens per call", lambda usage: f"{usage.per_call()[0]:.2f}"),
        ("Output tokens per call", lambda usage: f"{usage.per_call()[1]:.2f}"),
        ("Seconds per call", lambda usage: f"{usage.per_call()[2]:.3f}"),
        ("Calls", lambda usage: str(usage.calls)),
    )
    return [
        Table(
            title,
            ("pipeline", *experts),
            tuple(
                (label, *(measure(usage[expert]) if expert in usage else "" for expert in experts))
                for label, usage in usages.items()
            ),
        )
        for title, measure in measures
    ]


def _scores(results: Mapping[str, PipelineSummary], changes: bool) -> Table:
    categories = sorted({category for result in results.values() for category in result.by_category})
    metrics = ", ".join(dict.fromkeys(result.metric for result in results.values()))
    names = [CATEGORIES.get(category, f"category {category}") for category in categories]
    gained = ("change",) if changes else ()
    columns = ("pipeline", metrics, *gained, *names, "questions", "facts", "pending", "failures", "seconds")
    rows: list[tuple[str, ...]] = []
    before: float | None = None
    for label, result in results.items():
        scores = [result.by_category.get(category) for category in categories]
        rows.append(
            (
                label,
                f"{result.score:.4f}",
                *((change(before, result.score),) if changes else ()),
                *("" if found is None else f"{found.score:.4f}" for found in scores),
                str(result.questions),
                str(result.facts),
                str(result.pending),
                str(sum(failure.count for failure in result.failures)),
                f"{result.remember_seconds + result.answer_seconds:.1f}",
            )
        )
        before = result.score
    return Table("Scores", columns, tuple(rows))


def change(before: float | None, now: float) -> str:
    """What `now` gains on the row before it, in percent; nothing to say without one, or where that one is 0."""
    return f"{100 * (now - before) / before:+.0f}%" if before else ""


def told(interval: Interval) -> str:
    """`0.512 [0.430, 0.597]`."""
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def keep_private(out: Path, names: Iterable[str]) -> None:
    """Have Git leave these files of `out` alone: beside the numbers, they hold texts that are somebody else's.

    They are added to a `.gitignore` in `out`, one that is there already included.

    Raises:
        OSError: it cannot be written.
    """
    file = out / ".gitignore"
    before = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    hidden = [*(f"/{name}" for name in names), "/.*.draft"]  # what a kill left of writing one whole
    if more := [name for name in hidden if name not in before]:
        write_whole(file, "\n".join([*before, *more]) + "\n")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
