"""The answers of a LoCoMo run, scored: metric L with its parts, metric J, token F1, exact match and containment.

Overall means are over the categories 1 to 4, as in the paper; of the adversarial questions, category 5, which the
conversation does not answer, it is told how many answers say so.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from ...errors import BackendError
from .. import similarity
from ..harness.candidates import ANSWERING, REMEMBERING
from ..harness.steps import FailureCount, happened, tallied
from ..harness.usage import ExpertUsage, total
from ..judge import JudgedItem, Verdict, kind_of
from ..judge import summary as judged
from ..locomo import ADVERSARIAL
from ..metrics import METRICS, contains
from ..pipeline import STAGES
from ..statistics import Interval, bootstrap, paired_bootstrap
from .abstention import abstains
from .recipe import MadeOn

if TYPE_CHECKING:
    from ...training.journal import Journal
    from ..conversations import Conversation, Question
    from ..harness.steps import Said
    from ..judge import Judge
    from ..similarity import Similarity
    from .answering import RowResult

J, L = "J", "L"
MEASURES = (J, L, *METRICS, *similarity.PARTS)
"""In the order of tables."""

PLAIN_F1 = "over the words of both answers, as in SQuAD, any punctuation aside: neither LoCoMo's own F1 nor Mem0's"
"""What is to be said of token F1."""


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
    """Means over `questions` by measure, with 95 % bootstrap intervals; a measure that is not available is missing.

    J is over those `judged`; of the answers to `not_judged` the judge gave no readable label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int
    judged: int
    not_judged: int
    means: dict[str, Interval]


class Change(BaseModel):
    """What one row gains on another by one measure, over the `questions` that have it in both.

    `points` is the difference of the means with its 95 % paired bootstrap interval. `share` is it as a share of the
    other's mean; None where the interval does not exclude 0, or that mean is 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int
    points: Interval
    share: float | None


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

    `experts` are the names of its adapters by stage, of a path its last part, `teacher` the student whose base answers
    by stage in the place of its own, `settings` those of its memory that answers depend on. `change` is what the row
    gains on the row before it of the same student (the first one with an expert: on the base, as the first one with a
    teacher), `over_base` on its base; None where there is nothing to compare with. `turns`, `facts`, `retired` and
    `pending` are of its memory. `cut_off`, `failures` and `usage` count a question once that is asked twice: it is
    answered once. `model_seconds` are those of all model calls, added up, whichever row or process made them: a shared
    memory's count in every row, those of calls that ran together each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    student: str
    row: str
    experts: dict[str, str]
    teacher: dict[str, str] = {}
    settings: dict[str, bool | int | float | dict[str, float | int | str] | None] = {}
    made_on: tuple[MadeOn, ...] = ()
    overall: Scores
    by_category: dict[int, Scores]
    adversarial: Adversarial | None
    change: Change | None = None
    over_base: Change | None = None
    turns: int
    facts: int
    retired: int
    pending: int
    events: dict[str, int]
    cut_off: int
    failures: tuple[FailureCount, ...]
    usage: dict[str, ExpertUsage]
    model_seconds: float


def scored(
    results: Sequence[RowResult], conversations: Sequence[Conversation], metrics: Similarity
) -> list[list[ScoredQuestion]]:
    """Every answer with its scores, by row; metric J is `ajudged`'s. Questions of categories 1 to 4 without an expected
    answer have none.

    Raises:
        EmbeddingError: a metric's model failed.
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
    made = {
        id(one): one.model_copy(update={"scores": _scores(one, found)})
        for one, found in zip(counted, parts, strict=True)
    }
    return [[made.get(id(one), one) for one in row] for row in rows]


async def ajudged(
    answers: Sequence[Sequence[ScoredQuestion]],
    judge: Judge,
    *,
    journal: Journal | None = None,
    concurrency: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[list[ScoredQuestion]], BackendError | None]:
    """The answers with their verdicts and metric J, and None; or as they were, and why the judge could not be asked.

    Verdicts are kept in `journal` and not asked for again; `progress` hears how many there are of how many.

    Raises:
        DatasetError: the journal cannot be written, or holds something else.
    """
    given = [list(row) for row in answers]
    counted = [one for row in given for one in row if _counts(one)]
    items = [JudgedItem(one.question, (one.expected or "",), one.answer or "") for one in counted]
    try:
        verdicts = await judge.ajudge_all(items, concurrency=concurrency, journal=journal, progress=progress)
    except BackendError as error:
        return given, error
    made = {id(one): _judged(one, verdict) for one, verdict in zip(counted, verdicts, strict=True)}
    return [[made.get(id(one), one) for one in row] for row in given], None


def label(result: RowResult, results: Sequence[RowResult]) -> str:
    """What tables call a row: its name, after the student's where there are several."""
    several = len({one.row.student.name for one in results}) > 1
    return f"{result.row.student.name}: {result.row.name}" if several else result.row.name


def unavailable(
    metrics: Similarity, verdicts: Sequence[Verdict] | None, unasked: BackendError | None = None
) -> dict[str, str]:
    """Measure to why it is not available, and what to do about it; `verdicts` are all of the judge's, None without
    one, and `unasked` why it could not be asked. What that says is left out: it may quote what the judge was sent."""
    missing = dict(metrics.missing)
    if missing:
        missing[L] = "it is the mean of four parts, and never of some: " + ", ".join(missing) + " missing"
    if verdicts is None:
        missing[J] = "no judge is named: --judge-url and --judge-model, or [judge] in the config, name one"
    elif unasked is not None:
        missing[J] = f"the judge cannot be asked ({kind_of(unasked)}); run it again when it can: only it is asked then"
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
    for place, row in enumerate(rows):
        own = [earlier for earlier in range(place) if rows[earlier].student == row.student]
        base = next((earlier for earlier in own if rows[earlier].row == "base"), None)
        alike = [earlier for earlier in own if earlier == base or bool(rows[earlier].teacher) == bool(row.teacher)]
        changes = {
            name: None if other is None else change(answers[other], answers[place], by)
            for name, other in (("change", alike[-1] if alike else None), ("over_base", base))
        }
        told.append(row.model_copy(update=changes))
    return told, by


def change(before: Sequence[ScoredQuestion], now: Sequence[ScoredQuestion], by: str) -> Change | None:
    """What answers gain by a measure on others to the same questions, in the same order; None where no question has it
    in both."""
    both = [
        (then.scores[by], one.scores[by])
        for then, one in zip(before, now, strict=True)
        if by in then.scores and by in one.scores
    ]
    if not both:
        return None
    old, new = [then for then, _ in both], [one for _, one in both]
    points, earlier = paired_bootstrap(old, new), statistics.fmean(old)
    sure = points.low < points.high and (points.low > 0 or points.high < 0)
    return Change(questions=len(both), points=points, share=points.mean / earlier if sure and earlier else None)


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


def _judged(one: ScoredQuestion, verdict: Verdict) -> ScoredQuestion:
    scores = one.scores if verdict.correct is None else {J: float(verdict.correct), **one.scores}
    return one.model_copy(update={"scores": scores, "verdict": verdict})


def _scores(one: ScoredQuestion, parts: Mapping[str, float]) -> dict[str, float]:
    found = {
        name: 0.0 if one.answer is None else metric(one.answer, one.expected or "") for name, metric in METRICS.items()
    }
    found |= parts
    if (mean := similarity.composite(parts)) is not None:
        found[L] = mean
    return {measure: found[measure] for measure in MEASURES if measure in found}


def _row(result: RowResult, name: str, answers: Sequence[ScoredQuestion]) -> RowScores:
    counted = [one for one in answers if _counts(one)]
    categories = sorted({one.category for one in counted if one.category is not None})
    row, kept = result.row, result.remembered
    failures = [failure for talk in kept for failure in talk.failures]
    said = list({(one.conversation, one.question): one for one in result.said}.values())
    failures += [one.failure for one in said if one.failure is not None]
    usage = total([*(talk.usage for talk in kept), *(one.usage for one in said)])
    return RowScores(
        label=name,
        student=row.student.name,
        row=row.name,
        experts={stage: Path(name).name for stage, name in row.student.names(row.adapters).items()},
        teacher={} if row.teacher is None else dict.fromkeys(row.by_teacher, row.teacher.name),
        settings=row.settings.model_dump(mode="json", include={*REMEMBERING, *ANSWERING}),
        made_on=result.made_on,
        overall=_means(counted),
        by_category={one: _means([a for a in counted if a.category == one]) for one in categories},
        adversarial=_adversarial([one for one in answers if one.category == ADVERSARIAL]),
        turns=sum(talk.turns for talk in kept),
        facts=sum(talk.facts for talk in kept),
        retired=sum(talk.retired for talk in kept),
        pending=sum(talk.pending for talk in kept),
        events=happened(kept),
        cut_off=sum(one.cut_off for one in said),
        failures=tuple(failure.model_copy(update={"example": ""}) for failure in tallied(failures)),
        usage={stage: usage[stage] for stage in STAGES if stage in usage},
        model_seconds=sum(spent.seconds for spent in usage.values()),
    )


def _means(answers: Iterable[ScoredQuestion]) -> Scores:
    several = list(answers)
    values = {measure: [one.scores[measure] for one in several if measure in one.scores] for measure in MEASURES}
    verdicts = judged([one.verdict for one in several if one.verdict is not None])
    return Scores(
        questions=len(several),
        judged=verdicts.judged,
        not_judged=verdicts.unjudged,
        means={measure: bootstrap(found) for measure, found in values.items() if found},
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
