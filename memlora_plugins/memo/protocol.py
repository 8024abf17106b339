"""The Executive's protocol with the Memory model: grounding, entity identification, answer seeking, synthesis.

Section 4.4 and Appendix J.1 of the MeMo paper; `single_turn` and `unstructured` are its baselines (Appendix J.2).
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..errors import BackendError, InvalidInputError, ReplyError
from ..experts.reply import after_thinking, find_object
from ..experts.wording import one_line
from ..flows.effects import CALLS_ONLY, Call, Emit, Finished, Flow, adrive, aevents, drive, events
from ..types import Stage, Usage
from . import prompts
from .answers import UNSURE, AnswersQuestions, MemoryAnswer, aask_model, ask_model
from .executive import Executive
from .prompts import Prompts

Method = Literal["structured", "single_turn", "unstructured"]
StageName = Literal["grounding", "entity", "answer", "synthesis"]

DEAD_END = 3
"""So many answers in a row in which the Memory model does not know, and a candidate is a dead end."""
_FINAL_ANSWER = re.compile(r'"final_answer"\s*:\s*("(?:[^"\\]|\\.)*")?', re.S)


@dataclass(frozen=True, slots=True)
class Budgets:
    """How many interactions a stage may take (Appendix J.1). `unstructured` is that of the method of this name."""

    grounding: int = 1
    entity: int = 7
    answer: int = 8
    unstructured: int = 15

    def __post_init__(self) -> None:
        for name in ("grounding", "entity", "answer", "unstructured"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise InvalidInputError(f"Budgets.{name} must be a whole number of at least 0, got {value!r}.")


@dataclass(frozen=True, slots=True)
class Temperatures:
    """Of the Executive and of the Memory model (`memory_…`), by stage (Table 14)."""

    grounding: float = 0.4
    entity: float = 0.4
    answer: float = 1.0
    synthesis: float = 0.3
    memory_grounding: float = 0.1
    memory_entity: float = 0.1
    memory_answer: float = 0.3


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entity that the question may turn on; rank 1 is the likeliest, None one without a readable rank."""

    name: str
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Interaction:
    """One reply of the Executive, and what the Memory model answered to it.

    `targets` are the candidates that the questions are about, in their order. `problem` says why a reply was of no use.
    """

    stage: StageName
    reply: str
    answers: tuple[MemoryAnswer, ...] = ()
    targets: tuple[str | None, ...] = ()
    decision: str | None = None
    candidates: tuple[Candidate, ...] = ()
    entity: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """The answer and how it came about. `entity` is what the question turns on, `confirmed` or a best guess.

    `usage` has the tokens of the Memory model, and the Executive's where its replies tell them (an attribute `usage`).
    """

    answer: str
    justification: str
    interactions: tuple[Interaction, ...]
    entity: str | None = None
    confirmed: bool = False
    usage: Usage = field(default_factory=Usage)


Event = Stage | Interaction | ProtocolResult
"""What `stream` yields: stages as they begin, interactions as they end, and the result last."""


class Protocol:
    """Lets an Executive answer questions with the help of a Memory model.

    Args:
        executive: see `Executive`.
        memory_model: see `AnswersQuestions`.
        budgets, temperatures: by stage; the paper's by default.
        method: `"structured"` (default), or a baseline: `"single_turn"` asks once, `"unstructured"` asks until it has
            enough or its budget is used up.
        prompts: what the Executive is asked at each stage; by default in our words.

    Raises (by a run):
        InvalidInputError: a blank question. Whatever the Executive raises when it cannot be reached. A reply that
        cannot be read costs an interaction, and a Memory model that cannot be reached gives answers that say so.
    """

    def __init__(
        self,
        *,
        executive: Executive,
        memory_model: AnswersQuestions,
        budgets: Budgets | None = None,
        temperatures: Temperatures | None = None,
        method: Method = "structured",
        prompts: Prompts | None = None,
    ) -> None:
        if method not in ("structured", "single_turn", "unstructured"):
            raise InvalidInputError(f"Unknown method {method!r}; use structured, single_turn or unstructured.")
        self.executive = executive
        self.memory_model = memory_model
        self.budgets = budgets or Budgets()
        self.temperatures = temperatures or Temperatures()
        self.method: Method = method
        self.prompts = prompts or Prompts()

    def run(self, question: str) -> ProtocolResult:
        """The answer to `question`."""
        return drive(self.flow(question), CALLS_ONLY)

    async def arun(self, question: str) -> ProtocolResult:
        """As `run`."""
        return await adrive(self.flow(question), CALLS_ONLY)

    def stream(self, question: str) -> Generator[Event, None, None]:
        """`run`, as it happens."""
        result = yield from events(self.flow(question), CALLS_ONLY)
        yield result

    async def astream(self, question: str) -> AsyncGenerator[Event, None]:
        """As `stream`."""
        async with aclosing(aevents(self.flow(question), CALLS_ONLY)) as items:
            async for item in items:
                yield item.result if isinstance(item, Finished) else item

    def flow(self, question: str) -> Flow[ProtocolResult]:
        """The protocol without a driver: what `run` and its kin carry out."""
        if not isinstance(question, str) or not question.strip():
            raise InvalidInputError("The question is blank; pass what is to be answered.")
        return _Run(self, question).flow()


class _Run:
    """One question on its way."""

    def __init__(self, protocol: Protocol, question: str) -> None:
        self._protocol = protocol
        self._question = question
        self._interactions: list[Interaction] = []
        self._said: list[tuple[str, str]] = []  # by the Memory model, "I don't know" included: nobody asks that again
        self._evidence: list[tuple[str, str]] = []  # what it knew
        self._streaks: dict[str, int] = {}  # answers in a row that did not know, by candidate
        self._candidates: tuple[Candidate, ...] = ()
        self._entity: str | None = None
        self._confirmed = False
        self._usage = Usage()

    def flow(self) -> Flow[ProtocolResult]:
        if self._protocol.method == "unstructured":
            yield from self._answer_seeking(self._protocol.prompts.unstructured, self._protocol.budgets.unstructured)
        else:
            yield from self._grounding()
        if self._protocol.method == "structured":
            yield from self._entity_identification()
            if self._entity is not None:
                yield from self._answer_seeking(self._protocol.prompts.answer, self._protocol.budgets.answer)
        return (yield from self._synthesis())

    def _grounding(self) -> Flow[None]:
        """Stage 1: every clue of the question by itself."""
        yield from Emit(Stage("grounding"))
        for _ in range(self._protocol.budgets.grounding):
            reply = yield from self._ask_executive(
                "grounding", self._protocol.prompts.grounding, prompts.GROUNDING_SCHEMA
            )
            try:
                questions = _questions(find_object(reply, key="sub_questions"), reply)
            except ReplyError as error:
                yield from self._note(Interaction("grounding", reply, problem=str(error)))
                continue
            answers = yield from self._ask_memory([question for question, _ in questions], "grounding")
            yield from self._note(Interaction("grounding", reply, answers))
            return

    def _entity_identification(self) -> Flow[None]:
        """Stage 2: candidates until one is confirmed, or nothing is left to ask."""
        yield from Emit(Stage("entity"))
        budget = self._protocol.budgets.entity
        for interaction in range(budget):
            dead = [name for name, streak in self._streaks.items() if streak >= DEAD_END]
            reply = yield from self._ask_executive(
                "entity",
                self._protocol.prompts.entity,
                prompts.ENTITY_SCHEMA,
                evidence=prompts.evidence(self._said),
                dead_ends=prompts.names(dead),
                most=DEAD_END,
                left=budget - interaction,
            )
            try:
                said = _entity_reply(reply)
                confirmed = _name(said.get("confirmed_entity")) if _true(said.get("entity_confirmed")) else ""
                decision = "confirm" if confirmed else _decision(said, "ask", "exhaust", reply)
                questions = _questions(said, reply) if decision == "ask" else []
            except ReplyError as error:
                yield from self._note(Interaction("entity", reply, problem=str(error)))
                continue
            self._candidates = _candidates(said) or self._candidates
            if confirmed:
                self._entity, self._confirmed = confirmed, True
            answers = yield from self._ask_memory([question for question, _ in questions], "entity")
            targets = tuple(target for _, target in questions)
            self._count(answers, targets)
            yield from self._note(Interaction("entity", reply, answers, targets, decision))
            if not questions:
                break
        if self._entity is None:
            self._entity = _best(self._candidates)

    def _answer_seeking(self, prompt: str, budget: int) -> Flow[None]:
        """Stage 3: what is still missing, of the entity that was found."""
        yield from Emit(Stage("answer", {"entity": self._entity, "confirmed": self._confirmed}))
        for interaction in range(budget):
            reply = yield from self._ask_executive(
                "answer",
                prompt,
                prompts.ANSWER_SCHEMA,
                entity=prompts.entity_line(self._entity, self._confirmed),
                evidence=prompts.evidence(self._said),
                left=budget - interaction,
            )
            try:
                said = find_object(reply, key="decision")
                decision = _decision(said, "ask", "answer", reply)
                questions = _questions(said, reply) if decision == "ask" else []
            except ReplyError as error:
                yield from self._note(Interaction("answer", reply, problem=str(error)))
                continue
            pivot = _name(said.get("entity_pivot"))
            replaces = pivot.casefold() != (self._entity or "").casefold()  # some name the same entity again
            if pivot and replaces and self._protocol.method == "structured":
                self._entity, self._confirmed = pivot, False
            answers = yield from self._ask_memory([question for question, _ in questions], "answer")
            yield from self._note(Interaction("answer", reply, answers, decision=decision))
            if not questions:
                break

    def _synthesis(self) -> Flow[ProtocolResult]:
        yield from Emit(Stage("synthesis"))
        answer = justification = ""
        for _ in range(2):
            reply = yield from self._ask_executive(
                "synthesis",
                self._protocol.prompts.synthesis,
                prompts.SYNTHESIS_SCHEMA,
                entity=prompts.entity_line(self._entity, self._confirmed),
                evidence=prompts.evidence(self._evidence),
            )
            try:
                said = find_object(reply, key="final_answer")
            except ReplyError as error:
                answer = _without_json(reply) or answer
                yield from self._note(Interaction("synthesis", reply, problem=str(error)))
                continue
            answer, justification = _answer(said.get("final_answer")), _text(said.get("justification"))
            yield from self._note(Interaction("synthesis", reply))
            break
        return ProtocolResult(
            answer or UNSURE,
            justification,
            tuple(self._interactions),
            self._entity,
            self._confirmed,
            self._usage,
        )

    def _ask_executive(self, stage: StageName, prompt: str, schema: Mapping[str, Any], **given: object) -> Flow[str]:
        executive = self._protocol.executive
        messages = prompts.filled(prompt, self._question, **given)
        temperature = getattr(self._protocol.temperatures, stage)
        reply: str = yield from Call(
            lambda: executive.complete(messages, schema=schema, temperature=temperature),
            lambda: executive.acomplete(messages, schema=schema, temperature=temperature),
        )
        self._usage += getattr(reply, "usage", None) or Usage()
        return reply

    def _ask_memory(self, questions: Sequence[str], stage: StageName) -> Flow[tuple[MemoryAnswer, ...]]:
        """All questions of a round at once, each by itself; what is not known is no evidence."""
        if not questions:
            return ()
        model = self._protocol.memory_model
        temperature = getattr(self._protocol.temperatures, f"memory_{stage}")
        try:
            answers: Sequence[MemoryAnswer] = yield from Call(
                lambda: ask_model(model, questions, temperature),
                lambda: aask_model(model, questions, temperature),
            )
        except BackendError as error:
            answers = [MemoryAnswer(question, "", error=f"{type(error).__name__}: {error}") for question in questions]
        for answer in answers:
            self._usage += answer.usage
            if answer.error is None:
                self._said.append((answer.question, answer.text.strip() or UNSURE))
            if answer.knows:
                self._evidence.append((answer.question, answer.text))
        return tuple(answers)

    def _count(self, answers: Sequence[MemoryAnswer], targets: Sequence[str | None]) -> None:
        """How often in a row the Memory model did not know anything of a candidate. What failed tells nothing."""
        for answer, target in zip(answers, targets, strict=True):
            if target and answer.error is None:
                name = self._spelled(target)
                self._streaks[name] = 0 if answer.knows else self._streaks.get(name, 0) + 1

    def _spelled(self, target: str) -> str:
        """A candidate's name as it was spelled before: models vary upper and lower case."""
        known = (*self._streaks, *(candidate.name for candidate in self._candidates))
        return next((name for name in known if name.casefold() == target.casefold()), target)

    def _note(self, interaction: Interaction) -> Flow[None]:
        noted = replace(interaction, candidates=self._candidates, entity=self._entity)
        self._interactions.append(noted)
        yield from Emit(noted)


def _entity_reply(reply: str) -> dict[str, Any]:
    """The JSON object in a reply of stage 2. One that confirms an entity may have no decision.

    Raises:
        ReplyError: there is none.
    """
    try:
        return find_object(reply, key="decision")
    except ReplyError:
        if "entity_confirmed" not in reply:
            raise
        return find_object(reply, key="entity_confirmed")


def _decision(said: Mapping[str, Any], go_on: str, stop: str, reply: str) -> str:
    decision = _text(said.get("decision")).casefold()
    if decision not in (go_on, stop):
        raise ReplyError(f"The Executive decided {decision!r}; it is to be {go_on} or {stop}.", reply=reply)
    return decision


def _questions(said: Mapping[str, Any], reply: str) -> list[tuple[str, str | None]]:
    """Questions and the candidates they are about, each question once. A single one may come without its list.

    Raises:
        ReplyError: there is something, and nothing that could be a question.
    """
    found: dict[str, str | None] = {}
    given = said.get("sub_questions")
    items = given if isinstance(given, list) else [given]
    for item in items:
        question = one_line(_text(item.get("question") if isinstance(item, dict) else item))
        target = _name(item.get("targets_candidate")) if isinstance(item, dict) else ""
        if question:
            found.setdefault(question, target or None)
    if not found and any(isinstance(item, dict) and item and "question" not in item for item in items):
        raise ReplyError("The Executive's sub_questions are to be objects with a question each.", reply=reply)
    return list(found.items())


def _candidates(said: Mapping[str, Any]) -> tuple[Candidate, ...]:
    items = said.get("candidate_entities")
    found = []
    for item in items if isinstance(items, list) else []:
        name = _name(item.get("name") if isinstance(item, dict) else item)
        if name:
            found.append(Candidate(name, _whole(item.get("rank")) if isinstance(item, dict) else None))
    return tuple(found)


def _best(candidates: Sequence[Candidate]) -> str | None:
    """The best-ranked one, of equals the first."""
    ranked = sorted(candidates, key=lambda one: (one.rank is None, one.rank or 0))
    return ranked[0].name if ranked else None


def _answer(value: Any) -> str:
    """A final answer as text. Models that are held to no form also give lists and truth values."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    if isinstance(value, list | dict):
        parts = value if isinstance(value, list) else value.values()
        return ", ".join(filter(None, map(_answer, parts)))
    return _text(value)


def _without_json(reply: str) -> str:
    """The answer in a last reply that cannot be read as JSON: prose is one, too. Of JSON that was cut off, it is the
    answer in it, if that is whole.
    """
    said = after_thinking(reply)
    found = _FINAL_ANSWER.search(said)
    if found is None:
        return said
    try:
        return _answer(json.loads(found[1] or "null", strict=False))
    except ValueError:
        return ""


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).strip()


def _name(value: Any) -> str:
    """The name of an entity; nothing for the words that models write where there is none."""
    name = _text(value)
    return "" if name.casefold() in ("none", "null", "n/a") else name


def _true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.strip().casefold() in ("true", "yes"))


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None
