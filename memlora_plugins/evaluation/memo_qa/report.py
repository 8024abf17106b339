"""A finished comparison of MeMo as JSON, Markdown and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ...errors import DatasetError, SettingsError
from ...files import write_whole
from ...memo.protocol import Budgets, Temperatures
from .. import plots
from ..report import Table
from .scores import MethodScore, measure_of, noise_series, row_label, tables

if TYPE_CHECKING:
    from .config import MemoConfig, MemoryEntry
    from .material import Material
    from .reading import GivenAnswer

RESULT_FILE, REPORT_FILE, FIGURE_FILE, ANSWERS_FILE = "results.json", "report.md", "accuracy.png", "answers.jsonl"
WITH_TEXTS = (ANSWERS_FILE, "answering.jsonl", "judging.jsonl")
"""Files with questions, answers, and what an endpoint said of them."""


class LevelSize(BaseModel):
    """How large the corpus of a noise level is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise: int
    documents: int
    evidence: int
    negatives: int


class MemorySize(BaseModel):
    """A Memory model that was measured, and how it was asked. `parameters` are counted in its folder, None where that
    is not there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: str | None
    parameters: int | None
    family: str | None
    epoch: float | None
    noise: int | None
    documents: int | None
    budgets: Budgets
    temperatures: Temperatures


class MemoRun(BaseModel):
    """Everything that was measured, and of what: `command` repeats it; `unjudged` says why there is no accuracy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    data: str
    questions: int
    with_evidence: int
    unanswerable: int
    levels: tuple[LevelSize, ...]
    executives: tuple[str, ...]
    judge: str | None
    unjudged: str | None
    embedder: str | None
    runs: int
    temperature: float
    top_k: int
    memory: tuple[MemorySize, ...]
    notes: tuple[str, ...]
    scores: tuple[MethodScore, ...]

    def write(self, folder: Path) -> list[Path]:
        """Write JSON, Markdown and, where matplotlib is installed, the figure into `folder`; returns the files.

        Raises:
            OSError: a file cannot be written.
        """
        drawn = plots.available()
        files = [folder / RESULT_FILE, folder / REPORT_FILE]
        write_whole(files[0], self.model_dump_json(indent=1) + "\n")
        write_whole(files[1], self.markdown(drawn=drawn))
        if drawn:
            files.append(folder / FIGURE_FILE)
            draw(self.scores, files[-1])
        return files

    def markdown(self, *, drawn: bool) -> str:
        """The report: the command, what was measured, and the tables."""
        parts = [
            "# MeMo and what it is compared with",
            f"    {self.command}",
            *self.lines(),
            plots.markdown(f"{measure_of(self.scores)} by method, and against noise", FIGURE_FILE, drawn=drawn),
            *(table.markdown().rstrip() for table in self.tables()),
        ]
        return "\n\n".join(parts) + "\n"

    def lines(self) -> list[str]:
        """What was measured, and what somebody who reads the tables should know."""
        left_out = (
            f" ({self.unanswerable} that their paragraphs do not answer were left out)" if self.unanswerable else ""
        )
        several = any(score.runs > 1 for score in self.scores)
        judged = self.unjudged is None
        papers = all(one.temperatures == Temperatures() for one in self.memory)
        warmth = "MeMo has those of its Table 14, by stage" if papers else "MeMo's are told with the Memory models"
        return [
            f"{self.questions} questions of {self.data}{left_out}, answered by {', '.join(self.executives)}"
            f" with up to {self.top_k} documents at temperature {self.temperature:g} (the paper names none for "
            f"readers; {warmth})."
            + (f" Dense: {self.embedder}." if self.embedder else "")
            + (" Mean ± standard deviation over runs, which differ by nothing but sampling." if several else ""),
            f"Judged accuracy: by {self.judge}." if judged else f"Judged accuracy: not available: {self.unjudged}.",
            *self.notes,
        ]

    def tables(self) -> list[Table]:
        """The methods, then the corpora and the Memory models."""
        made = tables(self.scores)
        made.append(
            Table(
                "Corpora",
                ("noise", "documents", "evidence", "negatives"),
                tuple(
                    (f"{one.noise}N", str(one.documents), str(one.evidence), str(one.negatives)) for one in self.levels
                ),
            )
        )
        if self.memory:
            made.append(_memory_table(self.memory))
        return made


def memo_run(
    config: MemoConfig,
    material: Material,
    scores: Sequence[MethodScore],
    *,
    command: str,
    embedder: str | None,
    unjudged: str | None,
) -> MemoRun:
    """What was measured, put together."""
    with_evidence = sum(bool(question.evidence) for question in material.questions)
    return MemoRun(
        command=command,
        data=config.questions.name,
        questions=len(material.questions),
        with_evidence=with_evidence,
        unanswerable=material.unanswerable,
        levels=tuple(
            LevelSize(noise=noise, documents=len(one.documents), evidence=one.evidence, negatives=one.negatives)
            for noise, one in material.levels.items()
        ),
        executives=tuple(one.label for one in config.executive),
        judge=config.judge.model if config.judge else None,
        unjudged=unjudged,
        embedder=embedder,
        runs=config.runs,
        temperature=config.temperature,
        top_k=config.top_k,
        memory=tuple(_memory_size(one, *config.of(one)) for one in config.memory),
        notes=tuple(_notes(config, material, scores, with_evidence)),
        scores=tuple(scores),
    )


def write_answers(file: Path, answers: Sequence[GivenAnswer]) -> None:
    """Write the answers as JSONL, all or nothing.

    Raises:
        DatasetError: the file cannot be written.
    """
    try:
        write_whole(file, "".join(f"{answer.model_dump_json()}\n" for answer in answers))
    except OSError as error:
        raise DatasetError(f"{file} cannot be written: {error}") from error


def _notes(config: MemoConfig, material: Material, scores: Sequence[MethodScore], with_evidence: int) -> Iterable[str]:
    if "perfect retrieval" in config.baselines and with_evidence < len(material.questions):
        yield (
            f"Perfect retrieval: over the {with_evidence} of {len(material.questions)} questions that name their "
            "documents; do not compare it with the other rows."
            if with_evidence
            else "Perfect retrieval: not available: no question names its documents."
        )
    if config.temperature == 0 and config.runs > 1:
        yield "At temperature 0 the runs of a reader differ by what its server leaves to chance alone."
    if failed := sum(score.failed for score in scores):
        yield f"{failed} times there was no answer, which counts as wrong; the same command asks for those again."
    if lost := sum(score.unanswered for score in scores):
        yield f"{lost} questions to a Memory model failed on the way; answers.jsonl says in which questions."


def _memory_size(entry: MemoryEntry, budgets: Budgets, temperatures: Temperatures) -> MemorySize:
    from ...memo.card import read_card

    return MemorySize(
        name=entry.name,
        size=entry.size,
        parameters=_parameters(entry),
        family=entry.family,
        epoch=entry.epoch,
        noise=entry.noise,
        documents=None if entry.folder is None else len(read_card(entry.folder).documents),
        budgets=budgets,
        temperatures=temperatures,
    )


def _parameters(entry: MemoryEntry) -> int | None:
    """Of the whole model, base and adapter; None where the files are not here."""
    from ...memo.models import base_of, is_lora
    from ..efficiency.weights import adapter_weights, model_weights

    if entry.folder is None:
        return None
    try:
        if not is_lora(entry.folder):
            return model_weights(entry.folder).parameters
        return (model_weights(base_of(entry.folder, entry.base)) + adapter_weights(entry.folder)).parameters
    except SettingsError:  # a server has them
        return None


def _memory_table(models: Sequence[MemorySize]) -> Table:
    """Budgets and temperatures have a column where any are other than the paper's."""
    columns = ["name", "size", "family", "epoch", "trained at", "documents"]
    rows = [list(_memory_row(one)) for one in models]
    for name in ("budgets", "temperatures"):
        told = [_beside_papers(getattr(one, name)) for one in models]
        if any(told):
            columns.append(name)
            for row, cell in zip(rows, told, strict=True):
                row.append(cell or "the paper's")
    return Table("Memory models", tuple(columns), tuple(map(tuple, rows)))


def _beside_papers(said: Budgets | Temperatures) -> str:
    """What is other than in the paper, by stage."""
    papers = asdict(type(said)())
    return ", ".join(f"{name} {value:g}" for name, value in asdict(said).items() if value != papers[name])


def _memory_row(one: MemorySize) -> tuple[str, ...]:
    counted = "" if one.parameters is None else f"{one.parameters / 1e6:,.1f} M"
    return (
        one.name,
        one.size or counted,
        one.family or "",
        "" if one.epoch is None else f"{one.epoch:g}",
        "" if one.noise is None else f"{one.noise}N",
        "" if one.documents is None else str(one.documents),
    )


# The figure ----------------------------------------------------------------------------------------------------------


def draw(scores: Sequence[MethodScore], file: Path) -> None:
    """A bar for each method, with its standard deviation; a line over noise, and one over epochs, where these vary.

    Raises:
        OSError: the file cannot be written.
    """
    measure = measure_of(scores)
    several = len({score.executive for score in scores}) > 1
    lines = {"noise (negatives per document of evidence)": _over_noise(scores, several), "epoch": _over_epochs(scores)}
    panels = {name: series for name, series in lines.items() if series}
    made = plots.figure(7 + 4.5 * len(panels), max(3.0, 1.2 + 0.32 * len(scores)))
    axes: list[Any] = list(made.subplots(1, 1 + len(panels), squeeze=False)[0])
    found = [score.of(measure) for score in scores]
    axes[0].barh(
        range(len(scores)),
        [one.mean if one else 0.0 for one in found],
        xerr=[one.sd if one else 0.0 for one in found],
        color="#4c72b0",
        capsize=3,
    )
    axes[0].set_yticks(range(len(scores)), [row_label(score, executive=several) for score in scores])
    axes[0].invert_yaxis()
    axes[0].set_xlim(0, 1)
    axes[0].set_xlabel(measure)
    for panel, (name, series) in zip(axes[1:], panels.items(), strict=True):
        for label, points in series.items():
            at = sorted(points)
            panel.errorbar(
                at, [points[x].mean for x in at], yerr=[points[x].sd for x in at], marker="o", capsize=3, label=label
            )
        panel.set_xticks(sorted({x for points in series.values() for x in points}))
        panel.set_ylim(0, 1)
        panel.set_xlabel(name)
        panel.set_ylabel(measure)
        panel.legend(fontsize="small")
    plots.save(made, file)


def _over_noise(scores: Sequence[MethodScore], several: bool) -> dict[str, dict[float, Any]]:
    series = noise_series(scores)
    return {
        f"{executive}, {method}" if several else method: {float(level): one for level, one in found.items()}
        for (executive, method), found in series.items()
    }


def _over_epochs(scores: Sequence[MethodScore]) -> dict[str, dict[float, Any]]:
    measure = measure_of(scores)
    several = len({score.executive for score in scores}) > 1
    series: dict[str, dict[float, Any]] = {}
    for score in scores:
        if score.epoch is not None and (found := score.of(measure)) is not None:
            label = row_label(score.row.model_copy(update={"epoch": None}), executive=several)
            series.setdefault(label, {})[score.epoch] = found
    return {label: found for label, found in series.items() if len(found) > 1}
