"""What came of a synthesis: figures, tables, a Markdown summary and a plot.

What the pairs tell by themselves is measured on `reflections.jsonl`; the rest is what the run noted in `report.json`.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import DatasetError
from ...evaluation import plots
from ...evaluation.report import Table
from ...files import write_whole
from ...training.recorded import RecordedUsage
from ...types import normalise
from ..reflections import STEPS, Reflection, Step, read_reflections, without_steps
from .asking import StepFailure
from .crossing import GroupPlan
from .options import SynthesisOptions

REPORT_FILE = "report.json"
PLOT_FILE = "synthesis.png"

_NAMES: dict[Step, str] = {
    "1a": "1a direct facts",
    "1b": "1b indirect facts",
    "2": "2 consolidated",
    "3": "3 rewritten",
    "4": "4 entities",
    "5": "5 across documents",
}
_TOLD = 20  # failures and groups in a table; report.json has all


class PairsReport(BaseModel):
    """What pairs tell by themselves.

    `kept` counts them by the step that made them, `ambiguous` the questions with more than one answer. `without` is the
    share that is left without a step, all that descends from it included (the data ratio of Table 9). `documents`
    counts pairs by the number of documents that support one. `gzip_ratio` is the size of all questions and answers
    over that of the same compressed at level 9 (Appendix K): how much they repeat each other's words. None without
    pairs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    total: int
    ambiguous: int
    kept: dict[Step, int]
    without: dict[Step, float]
    documents: dict[int, int]
    gzip_ratio: float | None


class StepWork(RecordedUsage):
    """A step's work. `made` are the pairs in its replies (of step 3, those that it rewrote), `cut_off` the replies that
    had no end and gave what was complete, `failed` the times that it failed. `cost` is None without prices."""

    made: int = 0
    cut_off: int = 0
    failed: int = 0
    cost: float | None = None


class RunReport(BaseModel):
    """What a run did.

    `steps` has those that were taken. `made` counts the pairs in all replies; one that was rewritten counts once.
    `discarded` counts those that were left out, by reason; `kinds` those in the replies to step 5. `groups` says how
    many pairs of chunks were compared and left out, `left_out` in all; `not_compared` of those had no pairs on one
    side, and `not_shown` counts pairs for which a request of step 5 had no room. `without_pairs` are the ids of
    documents that no pair is left of, not even one that another document gives as well.

    `calls` are those whose replies were used, `resumed` of them made by earlier runs, `retries` of them second
    attempts; tokens are as the endpoint reports them and cover all, and so does `cost`, in the currency of the prices
    (None without prices). `occupancy` is the mean number of calls in flight, as a share of the concurrency that was
    asked for, while there was enough to do; None if that never was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: str
    options: SynthesisOptions
    documents: int
    chunks: int
    skipped: tuple[str, ...]
    steps: dict[Step, StepWork]
    made: int
    discarded: dict[str, int]
    kinds: dict[str, int]
    groups: tuple[GroupPlan, ...]
    left_out: int
    not_compared: int
    not_shown: int
    without_pairs: tuple[str, ...] = ()
    failures: tuple[StepFailure, ...]
    calls: int
    resumed: int
    retries: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    occupancy: float | None
    seconds: float


class SynthesisReport(BaseModel):
    """The pairs, and the run that made them; None where nothing is known of it.

    `retention` is the share of the pairs that were made that is left.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: PairsReport
    run: RunReport | None = None
    retention: float | None = None


def report_of(reflections: Sequence[Reflection], run: RunReport | None = None) -> SynthesisReport:
    """Measure reflections."""
    kept = Counter(one.step for one in reflections)
    supports = Counter(len(one.documents) for one in reflections)
    total = len(reflections)
    questions = Counter(normalise(one.question) for one in reflections)
    return SynthesisReport(
        pairs=PairsReport(
            total=total,
            ambiguous=sum(times > 1 for times in questions.values()),
            kept={step: kept[step] for step in STEPS},
            without={step: len(without_steps(reflections, [step])) / total for step in STEPS} if total else {},
            documents=dict(sorted(supports.items())),
            gzip_ratio=gzip_ratio(text for one in reflections for text in (one.question, one.answer)),
        ),
        run=run,
        retention=total / run.made if run is not None and run.made else None,
    )


def read_report(out: Path) -> SynthesisReport:
    """The report of a folder: its reflections, measured anew, and what its run noted.

    Raises:
        DatasetError: there are no reflections, or a file cannot be read.
    """
    file = out / REPORT_FILE
    run: RunReport | None = None
    try:
        if file.exists():
            run = SynthesisReport.model_validate_json(file.read_text(encoding="utf-8")).run
        empty = run is not None and not (out / "reflections.jsonl").stat().st_size
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read as a report: {error}") from error
    return report_of([] if empty else read_reflections(out / "reflections.jsonl"), run)


def gzip_ratio(texts: Iterable[str]) -> float | None:
    """The size of `texts`, a line each, over that of the same under gzip at level 9; None if there are none."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: with gzip's header
    size = packed = 0
    for text in texts:
        line = f"{text}\n".encode()
        size += len(line)
        packed += len(packer.compress(line))
    return size / (packed + len(packer.flush())) if size else None


def write(report: SynthesisReport, out: Path) -> None:
    """Write `report.json`, `summary.md` and, where matplotlib is installed, `synthesis.png` to `out`.

    Raises:
        DatasetError: a file cannot be written.
    """
    drawn = find_spec("matplotlib") is not None
    try:
        write_whole(out / REPORT_FILE, report.model_dump_json(indent=1) + "\n")
        write_whole(out / "summary.md", markdown(report, drawn=drawn))
        if drawn:
            plot(report, out / PLOT_FILE)
    except OSError as error:
        raise DatasetError(f"{out} cannot be written: {error}. The calls are kept; run the same again.") from error


def notes(report: SynthesisReport) -> list[str]:
    """What somebody who uses the pairs should know, a sentence each."""
    told: list[str] = []
    run = report.run
    if run is None:
        return ["Nothing is known of the run that made these pairs: there is no report.json."]
    if not report.pairs.total:
        told.append("No pair came of it.")
    if run.skipped:
        told.append(f"{len(run.skipped)} document(s) were skipped, the first: {run.skipped[0]}.")
    if run.failures:
        told.append(
            f"{len(run.failures)} time(s) a step failed, the first: step {run.failures[0].step} of "
            f"{run.failures[0].unit}, {run.failures[0].message} Run the same again to ask again what got no reply."
        )
    if run.without_pairs and report.pairs.total:
        told.append(
            f"Of {len(run.without_pairs)} of {run.documents} document(s) no pair is left, the first: "
            f"{run.without_pairs[0]}. A model that learns these pairs knows nothing of them."
        )
    if cut := sum(work.cut_off for work in run.steps.values()):
        told.append(
            f"{cut} replies had no end, and what was complete of them was kept. Give replies more tokens, or chunk the "
            "corpus smaller."
        )
    if run.left_out:
        pairs = sum(group.pairs for group in run.groups)
        told.append(f"Step 5 left out {run.left_out} of {pairs} pairs of chunks, because of its caps.")
    if run.not_shown:
        told.append(f"Step 5 had no room for {run.not_shown} pairs in its requests; which ones was drawn at random.")
    if "5" in run.steps and not run.groups:
        told.append("The corpus has no groups, so step 5 compared nothing. Group it by label, document or similarity.")
    return told


def tables(report: SynthesisReport) -> list[Table]:
    """Pairs and work by step, and the whole; what was discarded, left out, and failed, as far as there is any."""
    run = report.run
    found = [_steps(report), _whole(report)]
    if run is None:
        return found
    if run.discarded:
        ranked = sorted(run.discarded.items(), key=lambda item: (-item[1], item[0]))
        found.append(Table("Discarded", ("reason", "pairs"), tuple((name, str(count)) for name, count in ranked)))
    if capped := [group for group in run.groups if group.left_out][:_TOLD]:
        rows = tuple((one.group, str(one.chunks), str(one.compared), str(one.left_out)) for one in capped)
        found.append(Table("Left out in step 5", ("group", "chunks", "compared", "left out"), rows))
    if run.failures:
        rows = tuple((one.step, one.unit, one.error, one.message) for one in run.failures[:_TOLD])
        found.append(Table("What failed", ("step", "of", "error", "message"), rows))
    return found


def markdown(report: SynthesisReport, *, drawn: bool = True) -> str:
    """The summary: notes, the plot beside it, and tables."""
    lines = ["# Synthesis", "", *(f"> {note}\n" for note in notes(report))]
    picture = f"![Pairs and tokens by step]({PLOT_FILE})"
    lines.append(picture if drawn else "No plot: install matplotlib with pip install 'memlora-plugins[train]'.")
    return "\n".join(lines) + "\n\n" + "\n".join(table.markdown() for table in tables(report))


def plot(report: SynthesisReport, file: Path) -> None:
    """Pairs that were made and kept by step, the tokens that each step took, and the reasons for discarding.

    Raises:
        OSError: the file cannot be written.
    """
    run = report.run
    figure = plots.figure(12, 4)
    axes: Any = figure.subplots(1, 3)
    places = range(len(STEPS))
    work = [run.steps.get(step, StepWork()) if run is not None else StepWork() for step in STEPS]
    axes[0].bar([at - 0.2 for at in places], [one.made for one in work], 0.4, label="made")
    axes[0].bar([at + 0.2 for at in places], [report.pairs.kept[step] for step in STEPS], 0.4, label="kept")
    axes[0].set_title("pairs")
    axes[1].bar(places, [one.input_tokens for one in work], label="in")
    axes[1].bar(places, [one.output_tokens for one in work], bottom=[one.input_tokens for one in work], label="out")
    axes[1].set_title("tokens")
    for one in axes[:2]:
        one.set_xticks(places, STEPS)
        one.set_xlabel("step")
        one.legend(fontsize="small")
    reasons = sorted((run.discarded if run is not None else {}).items(), key=lambda item: item[1])
    if reasons:
        axes[2].barh([name for name, _ in reasons], [count for _, count in reasons])
    else:
        axes[2].set_axis_off()
    axes[2].set_title("discarded" if reasons else "nothing discarded")
    plots.save(figure, file)


def _steps(report: SynthesisReport) -> Table:
    columns = (
        "step",
        "made",
        "kept",
        "data ratio without it",
        "calls",
        "retries",
        "cut off",
        "failed",
        "tokens in",
        "tokens out",
        "cost",
    )
    rows: list[tuple[str, ...]] = []
    for step in STEPS:
        ratio = report.pairs.without.get(step)
        counted = (str(report.pairs.kept[step]), "" if ratio is None else f"{ratio:.3f}")
        work = report.run.steps.get(step) if report.run is not None else None
        if work is None:
            rows.append((_NAMES[step], "", *counted, *[""] * 7))
            continue
        numbers = (work.calls, work.retries, work.cut_off, work.failed, work.input_tokens, work.output_tokens)
        cost = "" if work.cost is None else f"{work.cost:.4f}"
        rows.append((_NAMES[step], str(work.made), *counted, *map(str, numbers), cost))
    return Table("Pairs by step", columns, tuple(rows))


def _whole(report: SynthesisReport) -> Table:
    pairs, run = report.pairs, report.run
    rows = [("pairs", str(pairs.total))]
    if report.retention is not None and run is not None:
        rows.append(("retention", f"{report.retention:.3f} of {run.made} made"))
    if pairs.gzip_ratio is not None:
        rows.append(("gzip ratio", f"{pairs.gzip_ratio:.2f}"))
    more = sum(count for number, count in pairs.documents.items() if number > 1)
    rows += [("pairs with several documents", str(more)), ("questions with several answers", str(pairs.ambiguous))]
    if run is not None:
        rows += [
            ("documents", str(run.documents)),
            ("chunks", str(run.chunks)),
            ("Generator", run.generator),
            ("calls", f"{run.calls}, {run.resumed} of them made by earlier runs, {run.retries} retries"),
            ("tokens", f"{run.input_tokens} in, {run.output_tokens} out"),
        ]
        rows += [(f"{kind}, step 5", str(count)) for kind, count in sorted(run.kinds.items())]
        if run.cost is not None:
            rows.append(("cost", f"{run.cost:.4f}"))
        if run.occupancy is not None:
            rows.append(("occupancy", f"{run.occupancy:.2f} of {run.options.concurrency} calls at once"))
        rows.append(("seconds", f"{run.seconds:.1f}"))
    return Table("The whole", ("", ""), tuple(rows))
