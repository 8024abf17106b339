"""LoCoMo's questions, asked of memories that several students made: the run behind the paper's tables 1, 4 and 5.

Conversations are remembered through the real pipeline into a store that is kept; rows that differ only in who answers
share it. Every model call is on record before it is used, so a run that was killed at any moment goes on without asking
for anything twice: a conversation whose remembering was cut off is begun anew, and answered from the record as far as
that goes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import DatasetError, InvalidInputError
from ..training.calls import CallLog
from ..training.identity import check_same, conversation_row, digest
from ..training.journal import Journal
from .candidates import ANSWERING, REMEMBERING, Candidate
from .pipeline import CONCURRENCY, STAGES, Adapters, check_measurable
from .scratch import scratch_memory, together
from .steps import Progress, Remembered, Said, Steps, ask, remember
from .usage import CallRecord, CountedBackend

if TYPE_CHECKING:
    from ..embedding import Embedder
    from ..memory import AsyncMemory
    from ..settings import Settings
    from .conversations import Conversation, Question

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Row:
    """One memory that is measured: a student with some of its experts. `name` is the row's within its student."""

    student: Candidate
    name: str
    adapters: Adapters

    @cached_property
    def settings(self) -> Settings:
        """Those of its memory; what an earlier process left is gone on with by the run, not in the background."""
        return self.student.settings(self.adapters).model_copy(update={"resume": False})

    @cached_property
    def who(self) -> dict[str, str]:
        """What answers as which expert; see `Candidate.who`."""
        return self.student.who(self.adapters)

    @cached_property
    def memory(self) -> str:
        """What stands for all that its memory depends on, the conversations and the embedder aside."""
        made_by = {stage: self.who[stage] for stage in STAGES if stage != "generation"}
        return digest([made_by, self.settings.model_dump(include=set(REMEMBERING))])[:16]

    @cached_property
    def key(self) -> str:
        """What stands for all that its answers depend on, beside its memory."""
        return digest([self.memory, self.who, self.settings.model_dump(include=set(ANSWERING))])[:16]


@dataclass(frozen=True, slots=True)
class RowResult:
    """What became of one row: what was remembered of each conversation, and what was said to its questions, in the
    order of the conversations. `seconds` are wall-clock, of the row's own work: a memory that it shares was the work of
    the row that came first. What a process did that was killed is not among them.
    """

    row: Row
    remembered: tuple[Remembered, ...]
    said: tuple[Said, ...]
    seconds: float


def rows(students: Sequence[Candidate]) -> list[Row]:
    """Every row of every student.

    Raises:
        InvalidInputError: two students of one name, or none.
    """
    names = [student.name for student in students]
    if not names or len(set(names)) < len(names):
        raise InvalidInputError("There must be at least one student, and each needs a name of its own.")
    return [Row(student, name, adapters) for student in students for name, adapters in student.rows().items()]


def answer_questions(
    conversations: Sequence[Conversation],
    measured: Sequence[Row],
    embedder: Embedder,
    out: Path,
    *,
    concurrency: int = CONCURRENCY,
    progress: Progress | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> list[RowResult]:
    """Remember every conversation, once for each choice of who remembers, and ask every row all their questions,
    adversarial ones too, as on the day the conversation ended.

    What is finished is kept under `out` and not done again, in this run or a later one: `calls.jsonl` has every model
    call, `memories.jsonl` and `answering.jsonl` what was remembered and said with its usage, `memories/` the stores. A
    question that failed is asked again by the next run. Students and conversations may be added later. `embedder` stays
    open. `progress` counts the turns and questions of all rows.

    Raises:
        InvalidInputError: a conversation is given twice, no question has an answer, or `out` holds other material.
        BackendUnavailableError, BackendNotConfiguredError, AdapterError, SettingsError: a model is out of reach.
        DatasetError: a file of `out` is damaged, cannot be written, or is used by another process.
    """
    scored = [question for talk in conversations for question in talk.questions if question.answerable]
    check_measurable(conversations, scored, concurrency)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        log = opened.enter_context(closing(CallLog(out / "calls.jsonl")))
        memories = opened.enter_context(Journal(out / "memories.jsonl"))
        answers = opened.enter_context(Journal(out / "answering.jsonl"))
        passes = opened.enter_context(Journal(out / "passes.jsonl"))
        check_same(out / "run.json", _identity(conversations, measured, embedder))
        run = _Run(conversations, embedder, out, log, memories, answers, passes, concurrency)
        run.count(measured, progress)
        results = []
        for row in measured:
            if on_row is not None:
                on_row(row)
            asyncio.run(run.row(row))
            results.append(run.result(row))
        return results


class _Kept(BaseModel):
    """A finished step as its journal has it; `key` is the memory's or the row's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str


class _KeptMemory(_Kept):
    remembered: Remembered


class _KeptAnswer(_Kept):
    said: Said


class _Pass(_Kept):
    """One process's work on a row, ended."""

    seconds: float


@dataclass
class _Run:
    conversations: Sequence[Conversation]
    embedder: Embedder
    out: Path
    log: CallLog
    memories: Journal
    answers: Journal
    passes: Journal
    concurrency: int
    remembered: dict[tuple[str, str], Remembered] = field(init=False)
    said: dict[tuple[str, str, str], Said] = field(init=False)
    steps: Steps = field(init=False)

    def __post_init__(self) -> None:
        kept = [(one.key, one.remembered) for one in _read(self.memories, _KeptMemory)]
        self.remembered = {(key, talk.conversation): talk for key, talk in kept}
        told = [(one.key, one.said) for one in _read(self.answers, _KeptAnswer)]
        self.said = {(key, said.conversation, said.question): said for key, said in told}
        self.memories.rows.clear()
        self.answers.rows.clear()

    def count(self, measured: Sequence[Row], progress: Progress | None) -> None:
        """Tell what there is to do, and what is done of it."""
        turns = {(row.memory, talk.id): len(talk.messages) for row in measured for talk in self.conversations}
        asked = {
            (row.key, talk.id, question.text)
            for row in measured
            for talk in self.conversations
            for question in talk.questions
        }
        self.steps = Steps(sum(turns.values()) + len(asked), progress)
        done = sum(count for which, count in turns.items() if which in self.remembered)
        self.steps.done(done + sum(which in asked and said.failure is None for which, said in self.said.items()))

    async def row(self, row: Row) -> None:
        """Do what is left to do for one row."""
        questions = [
            (talk, question)
            for talk in self.conversations
            for question in _asked(talk)
            if (before := self.said.get((row.key, talk.id, question.text))) is None or before.failure is not None
        ]
        if not questions and all((row.memory, talk.id) in self.remembered for talk in self.conversations):
            return
        backend = CountedBackend(
            row.student.backend(row.adapters),
            concurrency=self.concurrency,
            record=CallRecord(self.log, row.who.__getitem__),
        )
        store = self.out / "memories" / row.memory
        began = time.perf_counter()
        async with scratch_memory(backend, store, self.embedder, row.settings) as memory:
            await together(self._remember(row, memory, talk) for talk in self.conversations)
            await together(self._ask(row, memory, talk, question) for talk, question in questions)
        self.passes.add(_Pass(key=row.key, seconds=time.perf_counter() - began).model_dump())

    async def _remember(self, row: Row, memory: AsyncMemory, talk: Conversation) -> None:
        counts = await memory.count(scope=talk.scope)
        before = self.remembered.get((row.memory, talk.id))
        if before is not None and counts.items() <= before.model_dump().items():
            return
        if any(counts.values()):  # an earlier run was cut off in the middle of it, or lost power
            await memory.erase(scope=talk.scope)
        kept = await remember(memory, talk, self.steps, undated=self.log.began)
        self.memories.add(_KeptMemory(key=row.memory, remembered=kept).model_dump(mode="json"))
        self.memories.rows.clear()
        self.remembered[row.memory, talk.id] = kept

    async def _ask(self, row: Row, memory: AsyncMemory, talk: Conversation, question: Question) -> None:
        said = await ask(memory, talk, question, self.steps, undated=self.log.began)
        self.answers.add(_KeptAnswer(key=row.key, said=said).model_dump(mode="json"))
        self.answers.rows.clear()
        self.said[row.key, talk.id, question.text] = said

    def result(self, row: Row) -> RowResult:
        """What is known of a finished row."""
        return RowResult(
            row,
            tuple(self.remembered[row.memory, talk.id] for talk in self.conversations),
            tuple(self.said[row.key, talk.id, one.text] for talk in self.conversations for one in talk.questions),
            sum(done.seconds for done in _read(self.passes, _Pass) if done.key == row.key),
        )


def _asked(talk: Conversation) -> list[Question]:
    """Each question once: to equal ones, the answer is the same."""
    return list({question.text: question for question in talk.questions}.values())


def _identity(conversations: Sequence[Conversation], measured: Sequence[Row], embedder: Embedder) -> dict[str, str]:
    """What the run is made of, by name. Questions are not: they, and what is right, may be corrected later."""
    made_of = {"embedder": embedder.name}
    for talk in conversations:
        made_of[f"conversation {talk.id}"] = digest(conversation_row(talk)["messages"])
    for student in {row.student.name: row.student for row in measured}.values():
        own = {row.name: row.key for row in measured if row.student.name == student.name}
        made_of |= {f"student {student.name} ({name})": key for name, key in own.items()}
    return made_of


def _read(journal: Journal, kind: type[T]) -> list[T]:
    found = []
    for number, row in enumerate(journal.rows, start=1):
        try:
            found.append(kind.model_validate(row))
        except ValidationError as error:
            raise DatasetError(
                f"{journal.path}, line {number} is damaged: {error.errors()[0]['msg']}. Delete that line; its work is "
                "done again."
            ) from error
    return found
