"""LoCoMo's questions, asked of memories that several students made: the run behind the paper's tables 1, 4 and 5.

Conversations are remembered through the real pipeline into a store that is kept; rows that differ only in who answers
share it. Every model call is on record before it is used, so a run that was killed at any moment goes on without asking
for anything twice: a conversation whose remembering was cut off is begun anew, and answered from the record as far as
that goes. What a timeout or a refused call spoiled, a conversation's memory or an answer, the next run does again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from ...errors import DatasetError, InvalidInputError
from ...rows import journal_rows
from ...training.calls import CallLog
from ...training.identity import check_same, conversation_row, digest
from ...training.journal import Journal
from ..harness.candidates import ANSWERING, REMEMBERING, Candidate
from ..harness.scratch import scratch_memory, together
from ..harness.steps import Progress, Remembered, Said, Steps, ask, remember
from ..harness.usage import CallRecord, CountedBackend
from ..pipeline import CONCURRENCY, STAGES, Adapters, check_measurable
from .mixed import MixedBackend
from .recipe import MadeOn, made_here, recipe

if TYPE_CHECKING:
    from ...embedding import Embedder
    from ...memory import AsyncMemory
    from ...serving.base import Backend
    from ...settings import Settings
    from ..conversations import Conversation, Question


@dataclass(frozen=True)
class Row:
    """One memory that is measured: a student with some of its experts, or with the base of its `teacher` at the stages
    `by_teacher`. `name` is the row's within its student."""

    student: Candidate
    name: str
    adapters: Adapters
    teacher: Candidate | None = None
    by_teacher: tuple[str, ...] = ()

    @cached_property
    def settings(self) -> Settings:
        """Those of its memory; what an earlier process left is gone on with by the run, not in the background."""
        return self.student.settings(self.adapters).model_copy(update={"resume": False})

    @cached_property
    def who(self) -> dict[str, str]:
        """What answers as which expert; see `Candidate.who`."""
        taught = {} if self.teacher is None else self.teacher.who({})
        return self.student.who(self.adapters) | {stage: taught[stage] for stage in self.by_teacher}

    @property
    def computed(self) -> str:
        """Where its models compute; see `Candidate.computed`."""
        own = [] if self.by_teacher == STAGES else [self.student]
        models = own if self.teacher is None else [*own, self.teacher]
        return " and ".join(dict.fromkeys(model.computed for model in models))

    def backend(self) -> Backend:
        """What answers.

        Raises:
            as `Candidate.backend`.
        """
        if self.teacher is not None and self.by_teacher == STAGES:
            return self.teacher.backend({})
        own = self.student.backend(self.adapters)
        if self.teacher is None:
            return own
        with ExitStack() as failing:
            failing.callback(own.close)
            mixed = MixedBackend(own, dict.fromkeys(self.by_teacher, self.teacher.backend({})))
            failing.pop_all()
        return mixed

    @cached_property
    def memory(self) -> str:
        """What stands for all that its memory depends on, the conversations and the embedder aside."""
        made_by = {stage: self.who[stage] for stage in STAGES if stage != "generation"}
        return digest([made_by, self.settings.model_dump(include=set(REMEMBERING))])[:16]

    @cached_property
    def key(self) -> str:
        """What stands for its memory and for who answers from it with which settings. The conversations, the embedder
        and the recipe, which its answers depend on too, are those of the whole run."""
        return digest([self.memory, self.who, self.settings.model_dump(include=set(ANSWERING))])[:16]


@dataclass(frozen=True, slots=True)
class RowResult:
    """What became of one row: what was remembered of each conversation, and what was said to its questions, in the
    order of the conversations; and on what, its memory included, each different one once.
    """

    row: Row
    remembered: tuple[Remembered, ...]
    said: tuple[Said, ...]
    made_on: tuple[MadeOn, ...] = ()


def rows(students: Sequence[Candidate]) -> list[Row]:
    """Every row of every student, those with its teacher behind its base.

    Raises:
        InvalidInputError: two students of one name, none, or a teacher that is not among them.
    """
    names = [student.name for student in students]
    if not names or len(set(names)) < len(names):
        raise InvalidInputError("There must be at least one student, and each needs a name of its own.")
    found: list[Row] = []
    for student in students:
        base, *others = (Row(student, name, adapters) for name, adapters in student.rows().items())
        found += [base, *_taught(student, students), *others]
    return found


def _taught(student: Candidate, students: Sequence[Candidate]) -> list[Row]:
    """The rows of the student's base with its teacher's at the first stages, the last one at all of them."""
    if student.teacher is None:
        return []
    teacher = next((one for one in students if one.name == student.teacher and one is not student), None)
    if teacher is None:
        raise InvalidInputError(
            f"{student.teacher!r}, the teacher of {student.name!r}, is no other student; it must be measured too."
        )
    first = [STAGES[:count] for count in range(1, len(STAGES) + 1)]
    where = [*(" and ".join(some) for some in first[:-1]), "every stage"]
    return [Row(student, f"{teacher.name} at {at}", {}, teacher, some) for at, some in zip(where, first, strict=True)]


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
    call, `memories.jsonl` and `answering.jsonl` what was remembered and said with its usage, `memories/` the stores,
    `passes.jsonl` on what it was done, `run.json` of what. A question that failed is asked again by the next run, and a
    conversation of which a call took too long or was refused is remembered again and, where its memory is another one
    then, asked again. Students and conversations may be added later; other prompts, another ranking or another version
    of this package are refused. `embedder` stays open. `progress` counts the turns and questions of all rows,
    `on_row` hears of each row that has something left to do, before it is done.

    Raises:
        InvalidInputError: a conversation is given twice, no question has an answer, or `out` holds other material.
        BackendUnavailableError, BackendNotConfiguredError, AdapterError, SettingsError: a model is out of reach.
        EmbeddingError, StoreError: the embedder or a store failed.
        DatasetError: a file of `out` is damaged, cannot be written, or is used by another process.
    """
    scored = [question for talk in conversations for question in talk.questions if question.answerable]
    check_measurable(conversations, scored, concurrency)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error
    with ExitStack() as opened:
        log = opened.enter_context(closing(CallLog(out / "calls.jsonl")))
        memories = opened.enter_context(Journal(out / "memories.jsonl"))
        answers = opened.enter_context(Journal(out / "answering.jsonl"))
        passes = opened.enter_context(Journal(out / "passes.jsonl"))
        try:
            check_same(out / "run.json", _identity(conversations, measured, embedder))
        except OSError as error:
            raise _unwritable(out, error) from error
        run = _Run(conversations, embedder, out, log, memories, answers, passes, concurrency)
        run.count(measured, progress)
        results = []
        for row in measured:
            if not run.finished(row):
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
    """`memory` stands for the state of the memory that it was answered from."""

    memory: str
    said: Said


class _Pass(_Kept):
    """One process's work on a row, begun."""

    made_on: MadeOn


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
    said: dict[tuple[str, str, str], _KeptAnswer] = field(init=False)
    steps: Steps = field(init=False)
    made: set[tuple[str, str]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        kept = [(one.key, one.remembered) for one in journal_rows(self.memories, _KeptMemory)]
        self.remembered = {(key, talk.conversation): talk for key, talk in kept}
        told = journal_rows(self.answers, _KeptAnswer)
        self.said = {(one.key, one.said.conversation, one.said.question): one for one in told}
        self.memories.rows.clear()
        self.answers.rows.clear()

    def count(self, measured: Sequence[Row], progress: Progress | None) -> None:
        """Tell what there is to do, and what is done of it."""
        turns = {(row.memory, talk.id): len(talk.messages) for row in measured for talk in self.conversations}
        asked = {
            (row.key, talk.id, one.text) for row in measured for talk in self.conversations for one in _asked(talk)
        }
        left = {(row.key, talk.id, one.text) for row in measured for talk, one in self._left(row)}
        self.steps = Steps(sum(turns.values()) + len(asked), progress)
        done = sum(count for which, count in turns.items() if self._remembered(which))
        self.steps.done(done + len(asked - left))

    def finished(self, row: Row) -> bool:
        """Whether there is nothing left to do for it."""
        return not self._left(row) and all(self._remembered((row.memory, talk.id)) for talk in self.conversations)

    async def row(self, row: Row) -> None:
        """Do what is left to do for one row."""
        backend = CountedBackend(
            row.backend(),
            concurrency=self.concurrency,
            record=CallRecord(self.log, row.who.__getitem__),
        )
        store = self.out / "memories" / row.memory
        async with scratch_memory(backend, store, self.embedder, row.settings) as memory:
            made_on = made_here(row.computed, self.concurrency)  # first: it may not live to tell
            done = all(self._remembered((row.memory, talk.id)) for talk in self.conversations)
            for key in (row.key,) if done else (row.memory, row.key):
                self.passes.add(_Pass(key=key, made_on=made_on).model_dump(mode="json"))
            await together(self._remember(row, memory, talk) for talk in self.conversations)
            await together(self._ask(row, memory, talk, question) for talk, question in self._left(row))

    def _remembered(self, which: tuple[str, str]) -> bool:
        """Whether a conversation is, and by an earlier run without a fault that may not happen again."""
        before = self.remembered.get(which)
        return before is not None and (which in self.made or not before.spoiled)

    def _left(self, row: Row) -> list[tuple[Conversation, Question]]:
        """The questions that have no answer yet, or one from a memory in another state."""

        def answered(talk: Conversation, question: Question) -> bool:
            kept, before = self.remembered.get((row.memory, talk.id)), self.said.get((row.key, talk.id, question.text))
            known = kept is not None and before is not None and before.memory == _state(kept)
            return known and before is not None and before.said.failure is None

        return [(talk, one) for talk in self.conversations for one in _asked(talk) if not answered(talk, one)]

    async def _remember(self, row: Row, memory: AsyncMemory, talk: Conversation) -> None:
        counts = await memory.count(scope=talk.scope)
        before = self.remembered.get((row.memory, talk.id))
        done = self._remembered((row.memory, talk.id))
        if done and before is not None and counts.items() <= before.model_dump().items():
            return
        if any(counts.values()):  # an earlier run was cut off in the middle of it, lost power, or had calls that failed
            await memory.erase(scope=talk.scope)
        kept = await remember(memory, talk, self.steps, undated=self.log.began)
        self.memories.add(_KeptMemory(key=row.memory, remembered=kept).model_dump(mode="json"))
        self.memories.rows.clear()
        self.remembered[row.memory, talk.id] = kept
        self.made.add((row.memory, talk.id))

    async def _ask(self, row: Row, memory: AsyncMemory, talk: Conversation, question: Question) -> None:
        said = await ask(memory, talk, question, self.steps, undated=self.log.began)
        kept = _KeptAnswer(key=row.key, memory=_state(self.remembered[row.memory, talk.id]), said=said)
        self.answers.add(kept.model_dump(mode="json"))
        self.answers.rows.clear()
        self.said[row.key, talk.id, question.text] = kept

    def result(self, row: Row) -> RowResult:
        """What is known of a finished row."""
        passes = journal_rows(self.passes, _Pass)
        return RowResult(
            row,
            tuple(self.remembered[row.memory, talk.id] for talk in self.conversations),
            tuple(self.said[row.key, talk.id, one.text].said for talk in self.conversations for one in talk.questions),
            tuple(dict.fromkeys(one.made_on for one in passes if one.key in (row.memory, row.key))),
        )


def _asked(talk: Conversation) -> list[Question]:
    """Each question once: to equal ones, the answer is the same."""
    return list({question.text: question for question in talk.questions}.values())


def _state(kept: Remembered) -> str:
    """What stands for a memory's content: that is the same where the same calls succeeded and the same failed."""
    return digest(kept.model_dump(mode="json", exclude={"seconds", "usage"}))[:16]


def _unwritable(out: Path, error: OSError) -> DatasetError:
    return DatasetError(f"{out} cannot be written: {error}. Make room, or use another folder.")


def _identity(conversations: Sequence[Conversation], measured: Sequence[Row], embedder: Embedder) -> dict[str, str]:
    """What the run is made of, by name. Questions are not: they, and what is right, may be corrected later."""
    made_of = {"embedder": embedder.name}
    for talk in conversations:
        made_of[f"conversation {talk.id}"] = digest(conversation_row(talk)["messages"])
    for row in measured:
        made_of[f"student {row.student.name} ({row.name})"] = digest(row.who)
        for name, value in row.settings.model_dump(mode="json", include={*REMEMBERING, *ANSWERING}).items():
            made_of[f"{name} of {row.student.name} ({row.name})"] = str(value)
    return made_of | recipe()
