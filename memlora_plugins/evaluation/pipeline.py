"""The whole pipeline, measured: conversations remembered, their questions answered, the answers scored.

This is the paper's full-pipeline evaluation (section B, Algorithm B1) and its stage-by-stage ablation (Table 4): the
quality of an expert is what the memory as a whole gains by it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import InvalidInputError
from ..files import write_whole
from .harness.scratch import scratch_memory, together
from .harness.steps import FailureCount, Progress, Steps, ask, happened, remember, tallied
from .harness.usage import CountedBackend, ExpertUsage
from .metrics import Metric, metric_name, token_f1

if TYPE_CHECKING:
    from ..embedding import Embedder
    from ..serving.base import Backend
    from ..settings import Settings
    from .conversations import Conversation

Adapters = Mapping[str, str | Path]
"""Expert to the folder (or served name) of its adapter; an expert that is missing is the base model."""
Opener = Callable[[Adapters], "Backend"]
"""Makes a backend of one base model with these adapters."""

STAGES = ("extraction", "update", "generation")
"""The operations of a conversational memory, in the order of the pipeline."""
CONCURRENCY = 8
"""Model calls under way at once."""


class CategoryScore(BaseModel):
    """Mean score of the questions of one category."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int
    score: float


class ScoredAnswer(BaseModel):
    """One question and what became of it. `answer` is None where answering failed; that scores 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conversation: str
    question: str
    expected: str
    answer: str | None
    score: float
    category: int | None = None


class PipelineSummary(BaseModel):
    """How well a memory answered, and what that took.

    `score` is the mean of the metric over `questions`, `by_category` the same by category number (questions without a
    category count in `score` only). `facts` are those current at the end, `events` counts what happened to facts by
    operation, `pending` the turns left undistilled, `cut_off` the answers that reached the limit of their length.
    `usage` is by expert. Seconds are wall-clock: remembering everything, then answering everything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    embedder: str
    metric: str
    score: float
    questions: int
    by_category: dict[int, CategoryScore]
    conversations: int
    turns: int
    facts: int
    events: dict[str, int]
    pending: int
    cut_off: int
    failures: tuple[FailureCount, ...]
    usage: dict[str, ExpertUsage]
    remember_seconds: float
    answer_seconds: float


class PipelineResult(PipelineSummary):
    """A summary, and every question with its answer."""

    answers: tuple[ScoredAnswer, ...]

    @property
    def summary(self) -> PipelineSummary:
        """The result without the answers."""
        return PipelineSummary.model_validate(self.model_dump(exclude={"answers"}))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, all or nothing.

        Raises:
            OSError: the file cannot be written; one that was there before is unchanged.
        """
        write_whole(Path(path), self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PipelineResult:
        """A result that `write` wrote.

        Raises:
            InvalidInputError: the file cannot be read, or holds something else.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise InvalidInputError(f"{path} holds no pipeline result: {error}") from error


def evaluate(
    conversations: Sequence[Conversation],
    backend: Backend,
    embedder: Embedder,
    *,
    metric: Metric = token_f1,
    settings: Settings | None = None,
    concurrency: int = CONCURRENCY,
    progress: Progress | None = None,
) -> PipelineResult:
    """`aevaluate`, for code without an event loop."""
    return asyncio.run(
        aevaluate(
            conversations,
            backend,
            embedder,
            metric=metric,
            settings=settings,
            concurrency=concurrency,
            progress=progress,
        )
    )


async def aevaluate(
    conversations: Sequence[Conversation],
    backend: Backend,
    embedder: Embedder,
    *,
    metric: Metric = token_f1,
    settings: Settings | None = None,
    concurrency: int = CONCURRENCY,
    progress: Progress | None = None,
) -> PipelineResult:
    """Remember every conversation, ask its questions, score the answers against the expected ones.

    Every conversation has a scope of its own in an embedded store in a temporary folder; sessions and dates are the
    file's. Questions that are not `answerable` are left out, the others asked as on the day the conversation ended.
    `backend` is closed at the end, as by a `Memory`; `embedder` is only lent. `settings` are those of the memory
    (default: `Settings()`). At most `concurrency` model calls are under way at once.

    A turn or a question that fails scores as a user would see it (the fact is missing, the answer is worth 0) and is
    counted in `failures`. A model that is not there at all is an error: its score would say nothing.

    Raises:
        InvalidInputError: no question with an expected answer, two conversations of one id, or a `concurrency` below 1.
        BackendUnavailableError, BackendNotConfiguredError, AdapterError: the model or an adapter is out of reach.
    """
    scored = [
        (talk, question, question.answer)
        for talk in conversations
        for question in talk.questions
        if question.answerable and question.answer is not None
    ]
    try:
        check_measurable(conversations, scored, concurrency)
    except InvalidInputError:
        await backend.aclose()
        raise
    counted = CountedBackend(backend, concurrency=concurrency)
    steps = Steps(len(scored) + sum(len(talk.messages) for talk in conversations), progress)
    with tempfile.TemporaryDirectory(prefix="memlora-eval-") as folder:
        async with scratch_memory(counted, Path(folder) / "store", embedder, settings) as memory:
            began = time.perf_counter()
            kept = await together(remember(memory, talk, steps) for talk in conversations)
            remembered = time.perf_counter()
            answers = await together(ask(memory, talk, question, steps) for talk, question, _ in scored)
            answered = time.perf_counter()
    results = tuple(
        ScoredAnswer(
            conversation=talk.id,
            question=question.text,
            expected=gold,
            answer=said.answer,
            score=0.0 if said.answer is None else float(metric(said.answer, gold)),
            category=question.category,
        )
        for (talk, question, gold), said in zip(scored, answers, strict=True)
    )
    return PipelineResult(
        backend=counted.describe(),
        embedder=embedder.name,
        metric=metric_name(metric),
        score=_mean(results),
        questions=len(results),
        by_category=_by_category(results),
        conversations=len(conversations),
        turns=sum(talk.turns for talk in kept),
        facts=sum(talk.facts for talk in kept),
        events=happened(kept),
        pending=sum(talk.pending for talk in kept),
        cut_off=sum(said.cut_off for said in answers),
        failures=tallied(
            [failure for talk in kept for failure in talk.failures] + [said.failure for said in answers if said.failure]
        ),
        usage={stage: counted.usage[stage] for stage in STAGES if stage in counted.usage},
        remember_seconds=remembered - began,
        answer_seconds=answered - remembered,
        answers=results,
    )


def stages(adapters: Adapters, shared: str | Path | None = None) -> dict[str, dict[str, str | Path]]:
    """The rows of the paper's Table 4: label to the adapters of that row.

    The base model alone, then one expert after the other in the order of the pipeline, the stages after it filled by
    the base. `shared` adds a row in which one adapter serves every stage.
    """
    rows: dict[str, dict[str, str | Path]] = {"base": {}}
    so_far: dict[str, str | Path] = {}
    for stage in STAGES:
        if stage in adapters:
            so_far = {**so_far, stage: adapters[stage]}
            rows[f"+ {stage}"] = so_far
    if shared is not None:
        rows["one shared adapter"] = dict.fromkeys(STAGES, shared)
    return rows


def ablation(
    conversations: Sequence[Conversation],
    rows: Mapping[str, Adapters],
    open_backend: Opener,
    embedder: Embedder,
    *,
    settings: Settings | Callable[[Adapters], Settings] | None = None,
    on_row: Callable[[str], None] | None = None,
    **options: Any,
) -> dict[str, PipelineResult]:
    """`evaluate` once for each row of `stages`, with one backend open at a time; `options` are those of `evaluate`.

    `settings` may be what says them of a row, such as `Candidate.settings`. `on_row` hears the label of each row before
    it is measured.
    """
    results = {}
    for label, adapters in rows.items():
        if on_row is not None:
            on_row(label)
        of_row = settings(adapters) if callable(settings) else settings
        results[label] = evaluate(conversations, open_backend(adapters), embedder, settings=of_row, **options)
    return results


def check_measurable(conversations: Sequence[Conversation], scored: Sequence[object], concurrency: int) -> None:
    """Refuse what cannot be measured; `scored` are the questions with an expected answer.

    Raises:
        InvalidInputError: two conversations of one id, no question, or a `concurrency` below 1.
    """
    twice = [id for id, count in Counter(talk.id for talk in conversations).items() if count > 1]
    if twice:
        raise InvalidInputError(f"The conversation {twice[0]} is given twice; ids tell conversations apart.")
    if not scored:
        raise InvalidInputError("There is no question with an expected answer to score.")
    if concurrency < 1:
        raise InvalidInputError(f"concurrency must be at least 1, got {concurrency}.")


def _mean(answers: Sequence[ScoredAnswer]) -> float:
    return sum(answer.score for answer in answers) / len(answers)


def _by_category(answers: Sequence[ScoredAnswer]) -> dict[int, CategoryScore]:
    groups: defaultdict[int, list[ScoredAnswer]] = defaultdict(list)
    for answer in answers:
        if answer.category is not None:
            groups[answer.category].append(answer)
    return {
        category: CategoryScore(questions=len(found), score=_mean(found)) for category, found in sorted(groups.items())
    }
