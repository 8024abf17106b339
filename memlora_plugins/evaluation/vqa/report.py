"""What came of making a benchmark, and of answering one: as JSON, tables, Markdown, and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ...files import write_whole
from ...training.recorded import RecordedUsage
from .. import plots
from ..harness.steps import FailureCount
from ..report import Table, told
from ..statistics import Interval
from .asking import Problem
from .images import Skipped
from .questions import QuestionType, Reason

_TOLD = 20


class Rejected(BaseModel):
    """A question that was left out: `reply` is what the maker said, or the question where it could be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str
    type: QuestionType
    reason: Reason
    reply: str


class Tried(BaseModel):
    """How the validator did over `questions`: `right` ones, `unreadable` replies, calls that `failed`; the rest is
    wrong. `error_rate` is the share of wrong and unreadable among the replies; None without a reply.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int
    right: int
    unreadable: int
    failed: int
    error_rate: float | None

    @classmethod
    def of(cls, *, questions: int, right: int, unreadable: int, failed: int) -> Tried:
        """With its rate."""
        replies = questions - failed
        rate = (replies - right) / replies if replies else None
        return cls(questions=questions, right=right, unreadable=unreadable, failed=failed, error_rate=rate)


class MadeOfType(BaseModel):
    """Questions of one type: `asked` for, one an image; `kept` in the dataset, `rejected` by reason, calls `failed`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: int
    kept: int
    failed: int
    rejected: dict[Reason, int]


class MakeReport(BaseModel):
    """What making a benchmark did. `command` is the command line, where there was one.

    `splits` counts images by split. `probe` is how the validator did over the sample that chose the types, `hard` how
    over all questions (with `hard_only`). `usage` is by who was asked, `resumed` of those calls made by earlier runs;
    `cost` is the maker's, in the currency of the prices (None without prices).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    maker: str
    validator: str | None
    images: int
    splits: dict[str, int]
    skipped: tuple[Skipped, ...]
    types: tuple[QuestionType, ...]
    chosen_by: str
    hard_only: bool
    probe: dict[QuestionType, Tried]
    made: dict[QuestionType, MadeOfType]
    hard: dict[QuestionType, Tried]
    failures: tuple[FailureCount, ...]
    usage: dict[str, RecordedUsage]
    resumed: int
    cost: float | None
    seconds: float

    @property
    def kept(self) -> int:
        """Questions in the dataset."""
        return sum(made.kept for made in self.made.values())


class VqaAnswer(BaseModel):
    """A question and what one method said. `answer` is None where there is a `problem`, which `error` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    image: str
    type: str
    split: str | None = None
    question: str
    expected: str
    answer: str | None
    reason: str = ""
    correct: bool
    problem: Problem | None = None
    error: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0


class TypeScore(BaseModel):
    """V over the questions of one type; None where none got a reply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int
    v: Interval | None


class MethodScore(BaseModel):
    """V of one method, 0 to 1, over all its `questions`: `unreadable` replies and `failed` calls count as wrong.
    Where nothing got a reply, `v` is None and `not_available` says why. Tokens are per question.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    questions: int
    v: Interval | None
    not_available: str | None
    by_type: dict[str, TypeScore]
    unreadable: int
    failed: int
    input_tokens: float
    output_tokens: float


class VqaReport(BaseModel):
    """V by method, and what that took. `command` is the command line, where there was one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    student: str
    methods: tuple[MethodScore, ...]
    failures: tuple[FailureCount, ...]
    usage: dict[str, RecordedUsage]
    resumed: int
    seconds: float


def write_made(report: MakeReport, out: Path) -> None:
    """Write `report.json`, `report.md` and `make.png`.

    Raises:
        OSError: a file cannot be written.
    """
    write_whole(out / "report.json", report.model_dump_json(indent=1) + "\n")
    lines = [
        "# Questions about images",
        "",
        *_command(report.command),
        f"Maker: {report.maker}. Validator: {report.validator or 'none'}. Types chosen by: {report.chosen_by}.",
        "",
        *(f"> {note}\n" for note in made_notes(report)),
        "![Error rates of the validator, and questions by type](make.png)",
        "",
    ]
    write_whole(out / "report.md", "\n".join(lines) + "\n" + "\n".join(one.markdown() for one in made_tables(report)))
    _plot_made(report, out / "make.png")


def made_notes(report: MakeReport) -> list[str]:
    """What somebody who uses the questions should know, a sentence each."""
    notes = []
    if not report.kept:
        notes.append("No question came of it.")
    if report.hard_only:
        notes.append("Only questions that the validator got wrong were kept; the paper keeps all of the chosen types.")
    elif report.probe and len(report.types) < 3:
        notes.append("The validator could be tried on fewer than three types.")
    if report.validator and not (report.probe or report.hard):
        notes.append("The validator was not asked: the types were named, and all of their questions are kept.")
    if report.skipped:
        first = report.skipped[0]
        notes.append(f"{len(report.skipped)} file(s) were left out, the first: {first.path}, {first.reason}.")
    if report.failures:
        first_failure = report.failures[0]
        notes.append(
            f"{sum(one.count for one in report.failures)} call(s) failed, the first: {first_failure.stage}, "
            f"{first_failure.example} Run the same again to make them again."
        )
    return notes


def made_tables(report: MakeReport) -> list[Table]:
    """Questions by type, how the validator did, and what was left out or failed, as far as there is any."""
    reasons = sorted({reason for made in report.made.values() for reason in made.rejected})
    tables = [
        Table(
            "Questions",
            ("type", "images", "kept", "failed", *reasons),
            tuple(
                (
                    type,
                    str(made.asked),
                    str(made.kept),
                    str(made.failed),
                    *(str(made.rejected.get(reason, 0)) for reason in reasons),
                )
                for type, made in report.made.items()
            ),
        )
    ]
    for title, tried in (
        ("The validator, by type, over the sample", report.probe),
        ("The validator, by type, over all questions", report.hard),
    ):
        if tried:
            tables.append(_tried(title, tried, report.types))
    if report.splits:
        rows = tuple((split, str(count)) for split, count in report.splits.items())
        tables.append(Table("Images by split", ("split", "images"), rows))
    if report.skipped:
        left_out = tuple((one.path, one.reason, one.detail) for one in report.skipped[:_TOLD])
        tables.append(Table(f"Left out ({len(report.skipped)})", ("file", "reason", "detail"), left_out))
    return [*tables, *_work(report.usage, report.cost), *_failures(report.failures)]


def write_scored(report: VqaReport, out: Path) -> None:
    """Write `report.json`, `report.md` and `v.png`.

    Raises:
        OSError: a file cannot be written.
    """
    write_whole(out / "report.json", report.model_dump_json(indent=1) + "\n")
    lines = ["# Visual question answering", "", *_command(report.command), f"Student: {report.student}.", ""]
    lines += [*(f"> {note}\n" for note in scored_notes(report)), "![V by type](v.png)", ""]
    write_whole(out / "report.md", "\n".join(lines) + "\n" + "\n".join(one.markdown() for one in scored_tables(report)))
    _plot_scored(report, out / "v.png")


def scored_notes(report: VqaReport) -> list[str]:
    """What somebody who reads V should know, a sentence each."""
    notes = []
    most = max(one.questions for one in report.methods)
    for one in report.methods:
        if one.not_available:
            notes.append(f"V of {one.method} is not available: {one.not_available}")
        elif one.failed or one.unreadable:
            notes.append(
                f"{one.method}: {one.unreadable} unreadable replies and {one.failed} failed calls count as wrong."
            )
        if one.questions < most:
            notes.append(f"{one.method} was asked {one.questions} of {most} questions, those with a caption.")
    return notes


def scored_tables(report: VqaReport) -> list[Table]:
    """V of each method over all questions and by type, then tokens, then what failed, if anything did."""
    types = sorted({type for one in report.methods for type in one.by_type})
    rows = tuple(
        (
            one.method,
            _told(one.v),
            *(_told(one.by_type[type].v) if type in one.by_type else "" for type in types),
            str(one.questions),
            str(one.unreadable),
            str(one.failed),
            f"{one.input_tokens:.0f}",
            f"{one.output_tokens:.0f}",
        )
        for one in report.methods
    )
    columns = ("method", "V", *types, "questions", "unreadable", "failed", "tokens in", "tokens out")
    scores = Table("V: exact match of one word (95 % bootstrap interval; tokens: per question)", columns, rows)
    return [scores, *_failures(report.failures)]


def _command(command: str) -> list[str]:
    return [f"`{command}`", ""] if command else []


def _told(v: Interval | None) -> str:
    return "not available" if v is None else told(v)


def _tried(title: str, tried: dict[QuestionType, Tried], chosen: Sequence[str]) -> Table:
    columns = ("type", "error rate", "questions", "right", "unreadable", "failed", "chosen")
    rows = tuple(
        (
            type,
            "" if one.error_rate is None else f"{one.error_rate:.3f}",
            str(one.questions),
            str(one.right),
            str(one.unreadable),
            str(one.failed),
            "yes" if type in chosen else "",
        )
        for type, one in tried.items()
    )
    return Table(title, columns, rows)


def _work(usage: dict[str, RecordedUsage], cost: float | None) -> list[Table]:
    if not usage:
        return []
    rows = tuple(
        (who, str(work.calls), str(work.input_tokens), str(work.output_tokens), f"{work.seconds:.1f}")
        for who, work in usage.items()
    )
    paid = "" if cost is None else f" (the maker's cost: {cost:.4f})"
    return [Table(f"Work{paid}", ("who", "calls", "tokens in", "tokens out", "seconds"), rows)]


def _failures(failures: Sequence[FailureCount]) -> list[Table]:
    rows = tuple((one.stage, one.error, str(one.count), one.example) for one in failures)
    return [Table("What failed", ("asked", "error", "times", "the first one"), rows)] if rows else []


def _plot_made(report: MakeReport, file: Path) -> None:
    """Error rate of the validator by type where it was tried, and questions kept and not by type."""
    tried = report.probe or report.hard
    figure = plots.figure(11 if tried else 6, 4)
    axes: Any = figure.subplots(1, 2 if tried else 1, squeeze=False)[0]
    if tried:
        rates = {type: one.error_rate for type, one in tried.items() if one.error_rate is not None}
        colours = ["tab:red" if type in report.types else "tab:grey" for type in rates]
        axes[0].barh(list(rates), list(rates.values()), color=colours)
        axes[0].set_xlim(0, 1)
        axes[0].invert_yaxis()
        axes[0].set_title("error rate of the validator (red: chosen)")
    kept = [made.kept for made in report.made.values()]
    axes[-1].bar(list(report.made), kept, label="kept")
    axes[-1].bar(
        list(report.made),
        [made.asked - made.kept for made in report.made.values()],
        bottom=kept,
        label="rejected or failed",
    )
    axes[-1].margins(y=0.25)  # room for the legend
    axes[-1].set_title("questions")
    axes[-1].legend(fontsize="small")
    plots.save(figure, file)


def _plot_scored(report: VqaReport, file: Path) -> None:
    """V with its interval, over all questions and by type, a bar for each method."""
    types = sorted({type for one in report.methods for type in one.by_type})
    groups = ["all", *types]
    width = 0.8 / len(report.methods)
    figure = plots.figure(2 + 1.5 * len(groups), 4)
    axes: Any = figure.subplots()
    for place, method in enumerate(report.methods):
        shown = {"all": method.v} | {type: one.v for type, one in method.by_type.items()}
        found = [(at, v) for at, name in enumerate(groups) if (v := shown.get(name)) is not None]
        axes.bar(
            [at + (place - (len(report.methods) - 1) / 2) * width for at, _ in found],
            [v.mean for _, v in found],
            width,
            yerr=plots.errors([v for _, v in found]),
            capsize=3,
            label=method.method,
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("V")
    axes.legend(fontsize="small")
    plots.save(figure, file)
