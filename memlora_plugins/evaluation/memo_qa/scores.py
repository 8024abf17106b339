"""How well each method answered: means over questions with their spread over runs, as tables."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from ..report import Table
from ..statistics import mean_sd
from .reading import METRIC_ORDER, GivenAnswer, Row

ACCURACY = "judged accuracy"

Key = TypeVar("Key", bound=Hashable)


class Spread(BaseModel):
    """A mean over runs with its sample standard deviation, and the value of every run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    sd: float
    runs: tuple[float, ...]

    @classmethod
    def of(cls, runs: Iterable[float]) -> Spread:
        """Of the values of one run or more."""
        values = tuple(runs)
        mean, sd = mean_sd(values)
        return cls(mean=mean, sd=sd, runs=values)

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + (f" ± {self.sd:.3f}" if len(self.runs) > 1 else "")


class MethodScore(Row):
    """How well a method answered `questions` in `runs` runs.

    `scores` are by metric, 0 to 1. `accuracy` is the share that the judge found right, of those that it judged and
    those that failed; None without a judge, or where a run has nothing judged. `unjudged` counts answers without a
    readable verdict. `by_kind` has the same means over all runs by measure and kind of question.

    `failed` counts questions without an answer, `unanswered` questions to the Memory model that failed. Tokens and
    `documents` in the prompt are means of a question that was answered; None where none was.
    """

    runs: int
    questions: int
    accuracy: Spread | None
    unjudged: int
    scores: dict[str, Spread]
    by_kind: dict[str, dict[str, float]]
    failed: int
    unanswered: int
    documents: float | None
    input_tokens: float | None
    output_tokens: float | None

    def of(self, measure: str) -> Spread | None:
        """The accuracy, or the score by another measure."""
        return self.accuracy if measure == ACCURACY else self.scores[measure]


def summaries(answers: Sequence[GivenAnswer]) -> list[MethodScore]:
    """One for each row, in their order."""
    return [_summary(row, own) for row, own in _grouped(answers, lambda answer: answer.row).items()]


def _summary(row: Row, own: Sequence[GivenAnswer]) -> MethodScore:
    by_run = _grouped(own, lambda one: one.run)
    by_kind = _grouped(own, lambda one: one.kind)
    said = [one for one in own if one.answer is not None]
    read = [one.documents for one in said if one.documents is not None]
    accuracies = [_accuracy(of_run) for of_run in by_run.values()]
    known = [one for one in accuracies if one is not None]
    of_kinds = {
        name: {kind: _mean(one.scores[name] for one in by_kind[kind]) for kind in sorted(by_kind)}
        for name in METRIC_ORDER
    }
    judged = {kind: _accuracy(by_kind[kind]) for kind in sorted(by_kind)}
    return MethodScore(
        **row.model_dump(),
        runs=len(by_run),
        questions=len({one.id for one in own}),
        accuracy=Spread.of(known) if len(known) == len(accuracies) else None,
        unjudged=sum(one.verdict is not None and one.verdict.correct is None for one in own),
        scores={
            name: Spread.of(_mean(one.scores[name] for one in of_run) for of_run in by_run.values())
            for name in METRIC_ORDER
        },
        by_kind={ACCURACY: {kind: share for kind, share in judged.items() if share is not None}, **of_kinds},
        failed=len(own) - len(said),
        unanswered=sum(one.unanswered for one in own),
        documents=_mean(read) if read else None,
        input_tokens=_mean(one.input_tokens for one in said) if said else None,
        output_tokens=_mean(one.output_tokens for one in said) if said else None,
    )


def _accuracy(answers: Sequence[GivenAnswer]) -> float | None:
    """The share of right answers. What failed is wrong, what could not be judged does not count."""
    marks = [
        one.verdict is not None and bool(one.verdict.correct)
        for one in answers
        if one.answer is None or (one.verdict is not None and one.verdict.correct is not None)
    ]
    judged = any(one.verdict is not None and one.verdict.correct is not None for one in answers)
    return _mean(marks) if judged else None


def _grouped(answers: Sequence[GivenAnswer], by: Callable[[GivenAnswer], Key]) -> dict[Key, list[GivenAnswer]]:
    groups: dict[Key, list[GivenAnswer]] = {}
    for answer in answers:
        groups.setdefault(by(answer), []).append(answer)
    return groups


def _mean(values: Iterable[float]) -> float:
    several = list(values)
    return sum(several) / len(several)


# Tables --------------------------------------------------------------------------------------------------------------


def measure_of(scores: Sequence[MethodScore]) -> str:
    """What plots and tables go by: the judged accuracy where every method has it, else the first metric."""
    return ACCURACY if scores and all(score.accuracy is not None for score in scores) else METRIC_ORDER[0]


def tables(scores: Sequence[MethodScore]) -> list[Table]:
    """Every method; by kind of question, where there are several; and against noise, where it was varied."""
    made = (answers_table(scores), _kinds_table(scores), _noise_table(scores))
    return [one for one in made if one is not None]


def answers_table(scores: Sequence[MethodScore]) -> Table:
    """One row a method; a column that would say nothing is left out."""
    labels = _labels(scores)
    columns: list[tuple[str, Callable[[MethodScore], str]]] = []
    if any(score.accuracy is not None for score in scores):
        columns.append((ACCURACY, lambda score: _told(score.accuracy) + _unjudged(score)))
    columns += [(name, partial(_metric, name)) for name in METRIC_ORDER]
    if any(score.runs > 1 for score in scores):
        columns.append(("runs", lambda score: str(score.runs)))
    columns += [("questions", lambda score: str(score.questions)), ("failed", lambda score: str(score.failed))]
    if any(score.unanswered for score in scores):
        columns.append(("sub-questions failed", lambda score: str(score.unanswered)))
    columns += [
        ("documents read", lambda score: _rounded(score.documents, 1)),
        ("tokens in", lambda score: _rounded(score.input_tokens, 0)),
        ("tokens out", lambda score: _rounded(score.output_tokens, 0)),
    ]
    return Table(
        "Answers (documents and tokens: per question)",
        (*labels, *(name for name, _ in columns)),
        tuple(
            (*(label(score) for label in labels.values()), *(cell(score) for _, cell in columns)) for score in scores
        ),
    )


def _kinds_table(scores: Sequence[MethodScore]) -> Table | None:
    measure = measure_of(scores)
    kinds = sorted({kind for score in scores for kind in score.by_kind[measure]})
    if len(kinds) < 2:
        return None
    labels = _labels(scores)
    rows = tuple(
        (
            *(label(score) for label in labels.values()),
            *(_rounded(score.by_kind[measure].get(kind), 3) for kind in kinds),
        )
        for score in scores
    )
    return Table(f"By kind of question ({measure})", (*labels, *kinds), rows)


def _noise_table(scores: Sequence[MethodScore]) -> Table | None:
    """As the paper's Table 3: a row for each method that was measured at several levels, with what it loses."""
    series = noise_series(scores)
    levels = sorted({level for found in series.values() for level in found})
    if len(levels) < 2:
        return None
    several = len({score.executive for score in scores}) > 1
    rows = []
    for (executive, method), found in series.items():
        first = found[min(found)].mean
        cells = [
            f"{found[level]}" + (f" ({found[level].mean - first:+.3f})" if level != min(found) else "")
            if level in found
            else ""
            for level in levels
        ]
        rows.append((*((executive,) if several else ()), method, *cells))
    columns = (*(("Executive",) if several else ()), "method", *(f"{level}N" for level in levels))
    return Table(f"Against noise ({measure_of(scores)})", columns, tuple(rows))


def noise_series(scores: Sequence[MethodScore]) -> dict[tuple[str, str], dict[int, Spread]]:
    """Executive and method to noise level to what was measured there, of the methods with several levels.

    Of a Memory model with several epochs at a level, the best counts, as in the paper's tables.
    """
    measure = measure_of(scores)
    series: dict[tuple[str, str], dict[int, Spread]] = {}
    for score in scores:
        found = score.of(measure)
        if score.noise is not None and found is not None:
            own = series.setdefault((score.executive, score.method), {})
            if score.noise not in own or found.mean > own[score.noise].mean:
                own[score.noise] = found
    return {who: dict(sorted(own.items())) for who, own in series.items() if len(own) > 1}


def row_label(row: Row, *, executive: bool) -> str:
    """A row of a table on one line; `executive` says whether it names that."""
    parts = [row.executive] if executive else []
    parts.append(row.method)
    parts += [] if row.noise is None else [f"{row.noise}N"]
    parts += [] if row.epoch is None else [f"epoch {row.epoch:g}"]
    return ", ".join(parts)


def _labels(scores: Sequence[MethodScore]) -> Mapping[str, Callable[[MethodScore], str]]:
    """Columns that tell the rows apart."""
    labels: dict[str, Callable[[MethodScore], str]] = {}
    if len({score.executive for score in scores}) > 1:
        labels["Executive"] = lambda score: score.executive
    labels["method"] = lambda score: score.method
    if any(score.noise is not None for score in scores):
        labels["noise"] = lambda score: "" if score.noise is None else f"{score.noise}N"
    if any(score.epoch is not None for score in scores):
        labels["epoch"] = lambda score: "" if score.epoch is None else f"{score.epoch:g}"
    return labels


def _metric(name: str, score: MethodScore) -> str:
    return str(score.scores[name])


def _told(spread: Spread | None) -> str:
    return "not available" if spread is None else str(spread)


def _unjudged(score: MethodScore) -> str:
    return f" ({score.unjudged} not judged)" if score.unjudged else ""


def _rounded(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
