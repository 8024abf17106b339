"""A LoCoMo run as its files: every answer, the numbers, the paper's tables with figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ...errors import DatasetError
from ...files import write_whole
from ...store.ranking import Ranking
from .. import plots
from ..harness.candidates import SHARED
from ..locomo import ADVERSARIAL, CATEGORIES
from ..metrics import METRICS
from ..report import Table, told, usage_tables
from ..similarity import PARTS
from .recipe import MadeOn
from .scores import MEASURES, Change, J, L, RowScores, ScoredQuestion, Scores

if TYPE_CHECKING:
    from ..statistics import Interval

ANSWERS_FILE, SUMMARY_FILE, REPORT_FILE = "answers.jsonl", "summary.json", "report.md"
CATEGORY_FIGURE, ROW_FIGURE = "categories.png", "rows.png"
_NAMES = {"token_f1": "token F1", "exact_match": "exact match"} | {"rouge1": "ROUGE-1", "meteor": "METEOR"}
_NAMES |= {"bertscore": "BERTScore", "sentence_bert": "Sentence-BERT"}


class LocomoSummary(BaseModel):
    """Everything that was measured, in numbers, and of what: nothing of the conversations is in it.

    `command` repeats it, `data_sha256` is of the file, `load` what was found in the whole of it and `corrections` how
    many answers in it were others, by the file with `corrections_sha256`. `students` is name to base model, `judge` the
    judge's. `measures` says what computes a measure, `unavailable` why one is not there; `changes_by` is the measure
    that changes are told by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    data: str
    data_sha256: str
    load: dict[str, int]
    corrections: dict[str, int] | None
    corrections_sha256: str | None
    conversations: tuple[str, ...]
    split: str | None
    students: dict[str, str]
    embedder: str
    judge: str | None
    measures: dict[str, str]
    unavailable: dict[str, str]
    changes_by: str
    rows: tuple[RowScores, ...]

    @property
    def shown(self) -> list[str]:
        """J, L, and the other measures that some row has."""
        found = {measure for row in self.rows for measure in row.overall.means}
        return [measure for measure in MEASURES if measure in found or measure in (J, L)]

    @property
    def made_on(self) -> list[MadeOn]:
        """On what the rows were made, each different one once."""
        return list(dict.fromkeys(one for row in self.rows for one in row.made_on))

    def write(self, folder: Path, answers: Sequence[Sequence[ScoredQuestion]]) -> None:
        """Write answers, numbers, report and, where matplotlib is installed, figures into `folder`, each whole or not
        at all.

        Raises:
            DatasetError: a file cannot be written.
        """
        drawn = plots.available()
        try:
            lines = (one.model_dump_json() + "\n" for row in answers for one in row)
            write_whole(folder / ANSWERS_FILE, "".join(lines))
            write_whole(folder / SUMMARY_FILE, self.model_dump_json(indent=1) + "\n")
            write_whole(folder / REPORT_FILE, self.markdown(drawn=drawn))
            if drawn:
                draw_categories(self, folder / CATEGORY_FIGURE)
                draw_rows(self, folder / ROW_FIGURE)
        except OSError as error:
            raise DatasetError(
                f"{folder} cannot be written: {error}. The answers are kept; make room and run it again."
            ) from error

    def markdown(self, *, drawn: bool) -> str:
        """The report: the command, what made it, and the tables."""
        by = name_of(self.changes_by)
        figures = {f"{by} by category and row": CATEGORY_FIGURE, f"{by} by row": ROW_FIGURE}
        shown = [
            "# LoCoMo",
            f"    {self.command}",
            *self.notes(),
            *dict.fromkeys(plots.markdown(caption, file, drawn=drawn) for caption, file in figures.items()),
            *(part for table in tables(self) for part in (table.markdown().rstrip(), _UNDER.get(table.title)) if part),
        ]
        return "\n\n".join(shown) + "\n"

    def notes(self) -> list[str]:
        """What made the numbers and what is missing, a paragraph each."""
        split = f"the {self.split} split: " if self.split else ""
        students = ", ".join(name if name == base else f"{name} ({base})" for name, base in self.students.items())
        made = [f"{name_of(measure)}: {how}" for measure, how in self.measures.items()]
        lines = [
            f"{self.data} (SHA-256 {self.data_sha256[:16]}…), {split}{', '.join(self.conversations)}.",
            f"Answered by {students}; embedded by {self.embedder}; judged by {self.judge or 'nobody'}.",
            *(f"Remembered and answered on {made_on}." for made_on in self.made_on),
            "; ".join(made) + ".",
        ]
        if self.corrections is not None:
            counts = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in self.corrections.items())
            lines.append(
                f"With corrected answers (SHA-256 {(self.corrections_sha256 or '')[:16]}…): {counts} in the whole file."
            )
        lines += [f"{name_of(measure)}: not available: {why}" for measure, why in self.unavailable.items()]
        return lines


def name_of(measure: str) -> str:
    """What tables call a measure."""
    return _NAMES.get(measure, measure)


def tables(summary: LocomoSummary, *, intervals: bool = True) -> list[Table]:
    """The paper's tables: scores and changes (1, 4), students (5), tokens (A6, A7), and what else there is to know.

    Without `intervals` they are narrower.
    """
    tell = _Tables(summary, intervals)
    found = [tell.overall()]
    if any(part in summary.shown for part in PARTS):
        found.append(tell.parts())
    found += [tell.by_category(measure) for measure in (J, L, "token_f1") if measure in tell.there]
    found.append(tell.students())
    if any(row.adversarial for row in summary.rows):
        found.append(tell.adversarial())
    found += [tell.remembered(), *tell.settings()]
    found += usage_tables({row.label: row.usage for row in summary.rows})
    failed = tuple(
        (row.label, failure.stage, failure.error, str(failure.count))
        for row in summary.rows
        for failure in row.failures
    )
    if failed:
        found.append(Table("What failed", ("pipeline", "stage", "error", "times"), failed))
    counts = tuple((what.replace("_", " "), str(count)) for what, count in summary.load.items() if count)
    return [*found, Table("The whole file", ("what", "number"), counts)]


_SCORES, _STUDENTS, _REMEMBERED = "Scores, categories 1 to 4", "Students", "What was remembered"
CHANGES = (
    "In brackets: 95 % of a bootstrap over these questions, which says nothing of other conversations. Changes are "
    "differences of means, over the questions that are scored in both, paired. A percentage of the earlier score "
    "stands behind one only where its interval has a width and excludes 0."
)
"""What is to be said of intervals and changes."""
MODEL_SECONDS = (
    "Model seconds are those of all model calls behind a row, added up, by whichever process they were made: calls "
    "that ran together each count, and a memory that rows share counts in each of them."
)
"""What is to be said of seconds."""
_UNDER = {_SCORES: CHANGES, _STUDENTS: CHANGES, _REMEMBERED: MODEL_SECONDS}

Cell = Callable[[RowScores], str]


class _Tables:
    """One method for each table; a line for each row of the run."""

    def __init__(self, summary: LocomoSummary, intervals: bool) -> None:
        self._summary = summary
        self._intervals = intervals
        self.there = {measure for row in summary.rows for measure in row.overall.means}

    def overall(self) -> Table:
        by = name_of(self._summary.changes_by)
        columns = [(name_of(one), self._mean(one)) for one in (J, L, *METRICS)]
        columns += [
            (f"change, {by}", lambda row: self._gained(row.change)),
            (f"over base, {by}", lambda row: self._gained(row.over_base)),
            ("questions", lambda row: str(row.overall.questions)),
        ]
        return self._table(_SCORES, columns)

    def parts(self) -> Table:
        return self._table("The parts of L", [(name_of(part), self._mean(part)) for part in PARTS])

    def by_category(self, measure: str) -> Table:
        counts = {one: scores.questions for row in self._summary.rows for one, scores in row.by_category.items()}

        def cell(category: int) -> Cell:
            return lambda row: self._scored(row.by_category.get(category), measure)

        columns = [(f"{CATEGORIES.get(one, f'category {one}')} ({counts[one]})", cell(one)) for one in sorted(counts)]
        return self._table(f"{name_of(measure)} by category", columns)

    def students(self) -> Table:
        """The paper's Table 5: each base with and without its experts."""
        shown = (J, L, "token_f1")
        rows: list[tuple[str, ...]] = []
        for student in self._summary.students:
            every = [row for row in self._summary.rows if row.student == student]
            own = [row for row in every if row.row != SHARED and not row.teacher]
            for row in (own[0], own[-1]) if len(own) > 1 else own:
                what = "base" if row is own[0] else "with its experts"
                means = (self._scored(row.overall, measure) for measure in shown)
                rows.append((f"{student}, {what}", *means, self._gained(row.over_base)))
        over = f"over base, {name_of(self._summary.changes_by)}"
        return Table(_STUDENTS, ("student", *map(name_of, shown), over), tuple(rows))

    def adversarial(self) -> Table:
        cells = tuple(
            (row.label, self._told(one.abstained), self._told(one.misled), str(one.questions), str(one.with_bait))
            for row in self._summary.rows
            if (one := row.adversarial) is not None
        )
        columns = ("pipeline", "says it is not known", "has the adversarial answer", "questions", "with such an answer")
        return Table(f"Category {ADVERSARIAL}, {CATEGORIES[ADVERSARIAL]} questions", columns, cells)

    def remembered(self) -> Table:
        events = sorted({event for row in self._summary.rows for event in row.events})

        def happened(event: str) -> Cell:
            return lambda row: str(row.events.get(event, 0))

        columns: list[tuple[str, Cell]] = [
            ("turns", lambda row: str(row.turns)),
            ("facts", lambda row: str(row.facts)),
            ("retired", lambda row: str(row.retired)),
            *((event, happened(event)) for event in events),
            ("pending", lambda row: str(row.pending)),
            ("cut off", lambda row: str(row.cut_off)),
            ("failures", lambda row: str(sum(failure.count for failure in row.failures))),
            ("model seconds", lambda row: f"{row.model_seconds:.0f}"),
        ]
        return self._table(_REMEMBERED, columns)

    def settings(self) -> list[Table]:
        """Those of the memories."""
        names = list(dict.fromkeys(name for row in self._summary.rows for name in row.settings))

        def cell(name: str) -> Cell:
            return lambda row: _setting(row.settings.get(name, ""))

        return [self._table("Settings of the memories", [(name, cell(name)) for name in names])] if names else []

    def _table(self, title: str, columns: Sequence[tuple[str, Cell]]) -> Table:
        return Table(
            title,
            ("pipeline", *(name for name, _ in columns)),
            tuple((row.label, *(cell(row) for _, cell in columns)) for row in self._summary.rows),
        )

    def _mean(self, measure: str) -> Cell:
        return lambda row: self._scored(row.overall, measure)

    def _scored(self, scores: Scores | None, measure: str) -> str:
        mean = self._told(None if scores is None else scores.means.get(measure))
        left_out = scores.not_judged if scores is not None and measure == J and J in scores.means else 0
        return f"{mean} ({left_out} not judged)" if left_out else mean

    def _gained(self, gain: Change | None) -> str:
        if gain is None:
            return ""
        points = gain.points
        between = f" [{points.low:+.3f}, {points.high:+.3f}]" if self._intervals else ""
        return f"{points.mean:+.3f}{between}" + ("" if gain.share is None else f" ({100 * gain.share:+.0f}%)")

    def _told(self, interval: Interval | None) -> str:
        if interval is None:
            return "n/a"
        return told(interval) if self._intervals else f"{interval.mean:.3f}"


def _setting(value: object) -> str:
    """As a table has it; of a ranking, what is not the default's."""
    if not isinstance(value, dict):
        return str(value)
    default = asdict(Ranking())
    return ", ".join(f"{name} {one}" for name, one in value.items() if one != default[name]) or "the default"


# Figures -------------------------------------------------------------------------------------------------------------


def draw_categories(summary: LocomoSummary, file: Path) -> None:
    """A bar for each row in each category, with its interval.

    Raises:
        OSError: the file cannot be written.
    """
    by = summary.changes_by
    categories = sorted({category for row in summary.rows for category in row.by_category})
    made = plots.figure(2 + 1.8 * max(1, len(categories)), 4.5)
    axes: Any = made.subplots()
    width = 0.8 / len(summary.rows)
    for place, row in enumerate(summary.rows):
        found = [(at, row.by_category[one].means[by]) for at, one in enumerate(categories) if by in _means(row, one)]
        shift = width * (place - (len(summary.rows) - 1) / 2)
        _bars(axes, [at + shift for at, _ in found], [mean for _, mean in found], width, row.label)
    axes.set_xticks(range(len(categories)), [CATEGORIES.get(one, f"category {one}") for one in categories])
    axes.set_ylabel(name_of(by))
    axes.legend(fontsize="small")
    plots.save(made, file)


def draw_rows(summary: LocomoSummary, file: Path) -> None:
    """A panel for each of the main measures, a bar for each row, with its interval: the stage-by-stage ablation.

    Raises:
        OSError: the file cannot be written.
    """
    measures = [measure for measure in summary.shown if measure not in PARTS and measure not in summary.unavailable]
    made = plots.figure(3.2 * len(measures) + 1.5, 1.5 + 0.4 * len(summary.rows))
    panels: Any = made.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    for panel, measure in zip(panels, measures, strict=True):
        for place, row in enumerate(summary.rows):
            if measure in row.overall.means:
                mean = row.overall.means[measure]
                panel.barh(place, mean.mean, xerr=plots.errors([mean]), capsize=2)
        panel.set_xlabel(name_of(measure))
    panels[0].set_yticks(range(len(summary.rows)), [row.label for row in summary.rows])
    panels[0].invert_yaxis()
    plots.save(made, file)


def _means(row: RowScores, category: int) -> dict[str, Interval]:
    return row.by_category[category].means if category in row.by_category else {}


def _bars(axes: Any, places: Sequence[float], means: Sequence[Interval], width: float, label: str) -> None:
    axes.bar(places, [mean.mean for mean in means], width, yerr=plots.errors(means), capsize=2, label=label)
