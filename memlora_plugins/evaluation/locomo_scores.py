"""The answers of a LoCoMo run, scored: metric L with its parts, metric J, token F1, exact match and containment.

Overall means are over the categories 1 to 4, as in the paper; of the adversarial questions, category 5, which the
conversation does not answer, it is told how many answers say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from . import similarity
from .judge import JudgedItem, Verdict
from .judge import summary as judged
from .locomo import ADVERSARIAL
from .metrics import METRICS, contains
from .pipeline import STAGES
from .statistics import Interval, bootstrap
from .steps import FailureCount, happened, tallied
from .usage import ExpertUsage, total

if TYPE_CHECKING:
    from ..training.journal import Journal
    from .conversations import Conversation, Question
    from .judge import Judge
    from .locomo_qa import RowResult
    from .similarity import Similarity
    from .steps import Said

J, L = "J", "L"
MEASURES = (J, L, *METRICS, *similarity.PARTS)
"""In the order of tables."""

_KNOWN = r"(?:known|mentioned|stated|specified|said|told|given|provided|discussed|described|clear|available|possible)"
_ABSTAINS = re.compile(
    rf"(?:\b(?:not|never|nothing|nowhere)|n't)\s+(?:\w+\s+)?{_KNOWN}\b"
    r"|\b(?:do|does|did|can|could)(?:\s+not|n't)\s+(?:know|say|tell|mention|specify|answer|remember|recall|determine)\b"
    r"|\bcannot\s+(?:say|tell|answer|determine|know)\b|\b(?:cannot|can't|can not)\s+be\s+\w+"
    r"|\bno\s+(?:\w+\s+)?(?:information|mention|answer|record|memory|memories|idea|evidence)\b"
    r"|\b(?:unknown|unanswerable|unspecified|undisclosed|unsure)\b",
    re.IGNORECASE,
)


def abstains(answer: str) -> bool:
    """Whether an answer leaves a question open: it says somewhere that this is not known, not mentioned or cannot be
    told, or has no word at all."""
    return (
        not re.search(r"\w", answer)
        or _ABSTAINS.search(answer.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None
    )


class ScoredQuestion(BaseModel):
    """One answer to one question. `scores` are by measure, 0 to 1, empty for an adversarial question; `answer` is None
    where answering failed, which `error` tells and which scores 0.

    `sources` are the ids of the messages that it was answered from. Of an adversarial question, `abstained` says
    whether the answer leaves it open, `misled` whether it has the adversarial answer (None where the file has none).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    conversation: str
    question: str
    category: int | None
    expected: str | None
    answer: str | None
    sources: tuple[str, ...]
    cut_off: bool
    error: str | None
    scores: dict[str, float] = {}
    verdict: Verdict | None = None
    abstained: bool | None = None
    misled: bool | None = None


class Scores(BaseModel):
    """Means over `questions` by measure, with 95 % bootstrap intervals; a measure that is not available is missing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int
    means: dict[str, Interval]


class Adversarial(BaseModel):
    """Shares of the answers to `questions` that the conversation does not answer: that say so (`abstained`), and that
    have the adversarial answer (`misled`), among the `with_bait` questions that come with one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int
    abstained: Interval
    with_bait: int
    misled: Interval | None


class RowScores(BaseModel):
    """How well one row did, and what that took.

    `experts` are the names of its adapters by stage. `change` is what the row gains on the row before it of the same
    student, `over_base` on its base, as a share of that one's score; None where there is nothing to compare with.
    `not_judged` counts the answers of which the judge gave no readable label. `turns`, `facts`, `retired` and `pending`
    are of its memory, `seconds` the wall-clock of the row's own work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    student: str
    row: str
    experts: dict[str, str]
    overall: Scores
    by_category: dict[int, Scores]
    adversarial: Adversarial | None
    not_judged: int
    change: float | None = None
    over_base: float | None = None
    turns: int
    facts: int
    retired: int
    pending: int
    events: dict[str, int]
    cut_off: int
    failures: tuple[FailureCount, ...]
    usage: dict[str, ExpertUsage]
    seconds: float


async def scored(
    results: Sequence[RowResult],
    conversations: Sequence[Conversation],
    metrics: Similarity,
    *,
    judge: Judge | None = None,
    journal: Journal | None = None,
    concurrency: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[ScoredQuestion]]:
    """Every answer with its scores, by row. Questions of categories 1 to 4 without an expected answer have none.

    Verdicts of the judge are kept in `journal` and not asked for again; `progress` hears how many there are of how
    many.

    Raises:
        BackendUnavailableError, BackendNotConfiguredError: the judge is out of reach.
        DatasetError: the journal cannot be written. EmbeddingError: a metric's model failed.
    """
    asked = [(talk.id, question) for talk in conversations for question in talk.questions]
    rows = [
        [
            _plain(label(result, results), id, question, said)
            for (id, question), said in zip(asked, result.said, strict=True)
        ]
        for result in results
    ]
    counted = [one for row in rows for one in row if _counts(one)]
    parts = metrics.scores([(one.answer or "", one.expected or "") for one in counted])
    verdicts: Sequence[Verdict | None] = [None] * len(counted)
    if judge is not None:
        items = [JudgedItem(one.question, (one.expected or "",), one.answer or "") for one in counted]
        verdicts = await judge.ajudge_all(items, concurrency=concurrency, journal=journal, progress=progress)
    made = {
        id(one): one.model_copy(update={"scores": _scores(one, of_parts, verdict), "verdict": verdict})
        for one, of_parts, verdict in zip(counted, parts, verdicts, strict=True)
    }
    return [[made.get(id(one), one) for one in row] for row in rows]


def label(result: RowResult, results: Sequence[RowResult]) -> str:
    """What tables call a row: its name, after the student's where there are several."""
    several = len({one.row.student.name for one in results}) > 1
    return f"{result.row.student.name}: {result.row.name}" if several else result.row.name


def unavailable(metrics: Similarity, verdicts: Sequence[Verdict] | None) -> dict[str, str]:
    """Measure to why it is not available, and what to do about it; `verdicts` are all of the judge's, None without
    one."""
    missing = dict(metrics.missing)
    if missing:
        missing[L] = "it is the mean of four parts, and never of some: " + ", ".join(missing) + " missing"
    if verdicts is None:
        missing[J] = "no judge is named: --judge-url and --judge-model, or [judge] in the config, name one"
    elif why := judged(verdicts).unavailable:
        missing[J] = why
    return {measure: missing[measure] for measure in MEASURES if measure in missing}


def summarised(
    results: Sequence[RowResult], answers: Sequence[Sequence[ScoredQuestion]]
) -> tuple[list[RowScores], str]:
    """The scores of every row, and the measure that changes are told by: J where every row has it, else L, else
    token F1."""
    rows = [_row(result, label(result, results), own) for result, own in zip(results, answers, strict=True)]
    by = next((measure for measure in (J, L) if all(measure in row.overall.means for row in rows)), "token_f1")
    told: list[RowScores] = []
    for row in rows:
        before = next((one for one in reversed(told) if one.student == row.student), None)
        base = next((one for one in told if one.student == row.student and one.row == "base"), None)
        told.append(row.model_copy(update={"change": _gain(before, row, by), "over_base": _gain(base, row, by)}))
    return told, by


def _plain(row: str, conversation: str, question: Question, said: Said) -> ScoredQuestion:
    adversarial = question.category == ADVERSARIAL
    bait = question.adversarial_answer if adversarial else None
    answer = said.answer or ""
    return ScoredQuestion(
        row=row,
        conversation=conversation,
        question=question.text,
        category=question.category,
        expected=question.answer,
        answer=said.answer,
        sources=said.sources,
        cut_off=said.cut_off,
        error=None if said.failure is None else f"{said.failure.error}: {said.failure.example}",
        abstained=abstains(answer) and said.answer is not None if adversarial else None,
        misled=None if bait is None else contains(answer, bait) == 1.0,
    )


def _counts(one: ScoredQuestion) -> bool:
    return one.expected is not None and one.category != ADVERSARIAL


def _scores(one: ScoredQuestion, parts: Mapping[str, float], verdict: Verdict | None) -> dict[str, float]:
    found = {
        name: 0.0 if one.answer is None else metric(one.answer, one.expected or "") for name, metric in METRICS.items()
    }
    found |= parts
    if (mean := similarity.composite(parts)) is not None:
        found[L] = mean
    if verdict is not None and verdict.correct is not None:
        found[J] = float(verdict.correct)
    return {measure: found[measure] for measure in MEASURES if measure in found}


def _row(result: RowResult, name: str, answers: Sequence[ScoredQuestion]) -> RowScores:
    counted = [one for one in answers if _counts(one)]
    categories = sorted({one.category for one in counted if one.category is not None})
    verdicts = judged([one.verdict for one in counted if one.verdict is not None])
    row, kept = result.row, result.remembered
    failures = [failure for talk in kept for failure in talk.failures]
    failures += [said.failure for said in result.said if said.failure is not None]
    usage = total([*(talk.usage for talk in kept), *(said.usage for said in result.said)])
    return RowScores(
        label=name,
        student=row.student.name,
        row=row.name,
        experts=row.student.names(row.adapters),
        overall=_means(counted),
        by_category={one: _means([a for a in counted if a.category == one]) for one in categories},
        adversarial=_adversarial([one for one in answers if one.category == ADVERSARIAL]),
        not_judged=verdicts.unjudged,
        turns=sum(talk.turns for talk in kept),
        facts=sum(talk.facts for talk in kept),
        retired=sum(talk.retired for talk in kept),
        pending=sum(talk.pending for talk in kept),
        events=happened(kept),
        cut_off=sum(said.cut_off for said in result.said),
        failures=tuple(failure.model_copy(update={"example": ""}) for failure in tallied(failures)),
        usage={stage: usage[stage] for stage in STAGES if stage in usage},
        seconds=result.seconds,
    )


def _means(answers: Iterable[ScoredQuestion]) -> Scores:
    several = list(answers)
    values = {measure: [one.scores[measure] for one in several if measure in one.scores] for measure in MEASURES}
    return Scores(
        questions=len(several), means={measure: bootstrap(found) for measure, found in values.items() if found}
    )


def _adversarial(answers: Sequence[ScoredQuestion]) -> Adversarial | None:
    if not answers:
        return None
    misled = [float(one.misled) for one in answers if one.misled is not None]
    return Adversarial(
        questions=len(answers),
        abstained=bootstrap([float(one.abstained or False) for one in answers]),
        with_bait=len(misled),
        misled=bootstrap(misled) if misled else None,
    )


def _gain(before: RowScores | None, now: RowScores, by: str) -> float | None:
    """What `now` gains, as a share of what was there before; None where that is nothing."""
    if before is None or not (scores := before.overall.means.get(by)) or not scores.mean or by not in now.overall.means:
        return None
    return now.overall.means[by].mean / scores.mean - 1
