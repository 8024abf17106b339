"""What a student costs to run (paper's Table 3, section 4.3, and tables A6 and A7): its size, the tokens it reads and
writes for an answer, how long that takes, and how much of it goes on at once.

The work is a memory's own: a portion of conversations is remembered and asked about through the real pipeline, and
every call of the model counts, by operation.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from ...errors import InvalidInputError
from ...experts import extraction, generation, update
from ...rows import journal_rows
from ...serving.base import Completion, Request
from ...types import Hit
from ..harness.scratch import together
from ..harness.usage import CountedBackend, ExpertUsage
from ..pipeline import STAGES, aevaluate
from ..statistics import mean_sd
from .weights import Weights

if TYPE_CHECKING:
    from ...embedding import Embedder
    from ...serving.base import Backend
    from ...settings import Settings
    from ...training.journal import Journal
    from ..conversations import Conversation

Place = Literal["in process", "vLLM"]
Usages = Mapping[str, ExpertUsage]
Figure = Callable[[Usages, str], float | None]
"""A figure of one operation, by what its calls used together; None where it had no call."""

_WARM_UP_TOKENS = 16
_SAID_ON = datetime(2025, 5, 2, tzinfo=UTC)


class Student(BaseModel):
    """What was measured, a row of the tables. `adapters` are those of its experts.

    `base` and an adapter are None where the weights are on a server only. `precision` is what is computed in, `engine`
    what computes it, with its version; `command` measured it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    place: Place
    base: Weights | None
    adapters: dict[str, Weights | None]
    precision: str
    engine: str
    command: str

    @property
    def weights(self) -> Weights | None:
        """Base and adapters together; None where one is not known."""
        total = self.base
        for adapter in self.adapters.values():
            total = None if total is None or adapter is None else total + adapter
        return total


class Work(BaseModel):
    """One run through the work.

    `alone` is what the calls of each operation used while one ran at a time. `at_once` are the same calls with several
    under way, where `seconds` are those from the first to the last; `first_text` the same ones with streaming, where
    they are those until each reply began to be told. `failures` and `cut_off` (answers that reached the limit of their
    length) are the pipeline's. `remember_seconds` and `answer_seconds` hold all that a memory does, search and
    embeddings too. `load` is the machine's load average of a minute, the higher of before and after; None where the
    system does not tell it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alone: dict[str, ExpertUsage]
    at_once: dict[str, ExpertUsage] = {}
    first_text: dict[str, ExpertUsage] = {}
    turns: int
    questions: int
    facts: int
    failures: int
    cut_off: int
    remember_seconds: float
    answer_seconds: float
    load: float | None = None


class Spread(BaseModel):
    """Mean and sample standard deviation over the runs; None for that of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    sd: float | None


class Row(BaseModel):
    """A student and its runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: Student
    runs: tuple[Work, ...]

    def spread(self, value: Callable[[Work], float | None]) -> Spread | None:
        """A figure over the runs; None where a run does not have it."""
        values = [found for run in self.runs if (found := value(run)) is not None]
        if not values or len(values) < len(self.runs):
            return None
        mean, sd = mean_sd(values)
        return Spread(mean=mean, sd=sd if len(values) > 1 else None)


class _Kept(BaseModel):
    """A finished run as the journal has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: Student
    work: Work


def input_tokens(usage: Usages, operation: str) -> float | None:
    """Of a call."""
    return usage[operation].per_call()[0] if operation in usage else None


def output_tokens(usage: Usages, operation: str) -> float | None:
    """Of a call: the paper's tok/ans."""
    return usage[operation].per_call()[1] if operation in usage else None


def seconds(usage: Usages, operation: str) -> float | None:
    """Of a call: the paper's s/ans."""
    return usage[operation].per_call()[2] if operation in usage else None


def tokens_per_second(usage: Usages, operation: str) -> float | None:
    """Output tokens over the seconds of the calls."""
    found = usage.get(operation)
    return None if found is None or not found.seconds else found.output_tokens / found.seconds


def averaged(usage: Usages, figure: Figure) -> float | None:
    """A figure averaged over the three operations, each counting alike; None where one has no call.

    Tokens per second are averaged tokens over averaged seconds, as the paper's tok/s is its tok/ans over its s/ans in
    five of the six rows of Table 3 (GPT-OSS-120B has 11.4 there, and 209.91 / 22.82 is 9.2).
    """
    if figure is tokens_per_second:
        tokens, spent = averaged(usage, output_tokens), averaged(usage, seconds)
        return None if tokens is None or not spent else tokens / spent
    values = [found for operation in STAGES if (found := figure(usage, operation)) is not None]
    return sum(values) / len(STAGES) if len(values) == len(STAGES) else None


@dataclass(frozen=True, slots=True)
class Subject:
    """A student to measure. `open` makes a backend of it; `pass_id` is another one for each pass over the work, which
    a server with a prefix cache must not answer from what it kept of the pass before. `settings` are the memory's.
    """

    student: Student
    open: Callable[[str], Backend]
    settings: Settings


def portion(
    conversations: Sequence[Conversation], *, turns: int | None = None, questions: int | None = None
) -> list[Conversation]:
    """The first `turns` of each conversation, and the first `questions` that these answer; None is all.

    A question is answered by them if it is answerable and no evidence it names comes later.

    Raises:
        InvalidInputError: no question is left.
    """
    parts = []
    for talk in conversations:
        said = talk.messages[:turns]
        ids = {message.id for _, message in said}
        asked = [question for question in talk.questions if question.answerable and ids.issuperset(question.evidence)]
        parts.append(replace(talk, messages=said, questions=tuple(asked[:questions])))
    if not any(talk.questions for talk in parts):
        raise InvalidInputError("No question is answered by this portion of the conversations; take more turns.")
    return parts


def missing(journal: Journal, label: str, runs: int) -> range:
    """The runs of a row that are still to be made, counted from 0.

    Raises:
        DatasetError: the journal holds something else.
    """
    return range(sum(kept.student.label == label for kept in journal_rows(journal, _Kept)), runs)


def measure(
    subject: Subject,
    conversations: Sequence[Conversation],
    embedder: Embedder,
    journal: Journal,
    *,
    runs: int,
    concurrency: int,
    first_text: bool = False,
    on_run: Callable[[int], None] | None = None,
) -> None:
    """Make the runs of one student that `journal` does not have, and keep each there as it ends.

    A run remembers the conversations and asks their questions with one call at a time. Then, by operation, the same
    calls are made again, `concurrency` at once (none for 1), and with `first_text` one at a time with streaming. Before
    the first run, a made-up call of each expert loads what is loaded once; it counts in none. `on_run` hears the number
    of each run before it starts, from 0. `embedder` is only lent.

    Raises:
        InvalidInputError: `runs` or `concurrency` below 1. DatasetError: the journal holds something else, or cannot
            be written. Besides, what `pipeline.aevaluate` raises.
    """
    if min(runs, concurrency) < 1:
        raise InvalidInputError(f"runs and concurrency must be at least 1, got {runs} and {concurrency}.")
    to_do = missing(journal, subject.student.label, runs)
    if not to_do:
        return
    held = subject.open("held")  # for as long as this lasts, so that a model in process stays loaded
    try:
        embedder.embed(["warm-up"])
        asyncio.run(_warm_up(subject.open("warm-up")))
        for run in to_do:
            if on_run is not None:
                on_run(run)
            work = asyncio.run(_run(subject, conversations, embedder, run, concurrency, first_text))
            journal.add(_Kept(student=subject.student, work=work).model_dump())
    finally:
        held.close()


def rows(journal: Journal) -> list[Row]:
    """What was measured so far, in the order it was begun in; a student as its last run describes it.

    Raises:
        DatasetError: the journal holds something else.
    """
    students: dict[str, Student] = {}
    works: dict[str, list[Work]] = {}
    for kept in journal_rows(journal, _Kept):
        students[kept.student.label] = kept.student
        works.setdefault(kept.student.label, []).append(kept.work)
    return [Row(student=student, runs=tuple(works[label])) for label, student in students.items()]


async def _run(
    subject: Subject,
    conversations: Sequence[Conversation],
    embedder: Embedder,
    run: int,
    concurrency: int,
    first_text: bool,
) -> Work:
    load = _load()
    recorder = _Recorder(subject.open(f"{run}, alone"))
    result = await aevaluate(conversations, recorder, embedder, settings=subject.settings, concurrency=1)
    at_once: dict[str, ExpertUsage] = {}
    first: dict[str, ExpertUsage] = {}
    by_operation = {stage: asked for stage in STAGES if (asked := recorder.asked(stage))}
    if concurrency > 1:
        backend = subject.open(f"{run}, at once")
        try:
            for stage, asked in by_operation.items():
                at_once[stage] = await _at_once(backend, asked, concurrency)
        finally:
            await backend.aclose()
    if first_text:
        backend = subject.open(f"{run}, streamed")
        try:
            for stage, asked in by_operation.items():
                first[stage] = await _first_text(backend, asked)
        finally:
            await backend.aclose()
    return Work(
        alone=result.usage,
        at_once=at_once,
        first_text=first,
        turns=result.turns,
        questions=result.questions,
        facts=result.facts,
        failures=sum(failure.count for failure in result.failures),
        cut_off=result.cut_off,
        remember_seconds=result.remember_seconds,
        answer_seconds=result.answer_seconds,
        load=None if load is None else max(load, _load() or 0.0),
    )


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


class _Recorder(CountedBackend):
    """Keeps the requests that were answered. (A memory asks by `acomplete` alone, unless somebody wants a stream.)"""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._requests: list[Request] = []

    def asked(self, expert: str) -> list[Request]:
        return [request for request in self._requests if request.expert == expert]

    async def acomplete(self, request: Request) -> Completion:
        completion = await super().acomplete(request)
        self._requests.append(request)
        return completion


async def _at_once(backend: Backend, requests: Sequence[Request], concurrency: int) -> ExpertUsage:
    """What they used, `concurrency` under way at a time; `seconds` are by the clock on the wall."""
    counted = CountedBackend(backend, concurrency=concurrency)
    began = time.perf_counter()
    await together(counted.acomplete(request) for request in requests)
    spent = time.perf_counter() - began
    return counted.usage[requests[0].expert].model_copy(update={"seconds": spent})


async def _first_text(backend: Backend, requests: Sequence[Request]) -> ExpertUsage:
    """What they used, one at a time, and the seconds until the first piece of each (its end, for one without text)."""
    counted = CountedBackend(backend)
    waited = 0.0
    for request in requests:
        began, first = time.perf_counter(), None
        async for _ in counted.astream(request):
            first = first or time.perf_counter()
        waited += (first or began) - began
    return counted.usage[requests[0].expert].model_copy(update={"seconds": waited})


async def _warm_up(backend: Backend) -> None:
    try:
        for request in _invented(backend):
            await backend.acomplete(replace(request, max_tokens=_WARM_UP_TOKENS))
    finally:
        await backend.aclose()


def _invented(backend: Backend) -> Iterator[Request]:
    """One request to each expert."""
    old, new = ["Lives in Porto."], ["Lives in Lisbon."]
    exchange = extraction.Exchange("I moved from Porto to Lisbon.", date=_SAID_ON)
    hit = Hit(kind="fact", text=new[0], score=1.0, id="1", created_at=_SAID_ON)
    style = backend.prompt_style
    yield Request("extraction", extraction.messages(exchange, style("extraction")), extraction.SCHEMA)
    yield Request("update", update.messages(old, new, style("update")), update.schema(old, new))
    yield Request("generation", generation.messages("Where?", [hit], style("generation"), now=_SAID_ON))
