"""How well a backend does nano's three tasks, on text that was kept for the tests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from ...errors import ReplyError
from ...experts import clauses, extraction, generation, quotes, spans, update
from ...serving.base import Backend, Completion, Request
from ...settings import Settings
from ...types import Operation, normalise
from .. import SETTINGS
from .dialogue import Scene
from .memories import Pair, Query

DEFAULTS: dict[str, Any] = {
    **{name: Settings.model_fields[name].default for name in ("embedder", "similarity_threshold", "answer_threshold")},
    **SETTINGS,
}
"""Settings of the memory that nano is taught and measured for, whatever the environment says."""

_AT_ONCE = 64

Item = TypeVar("Item")


class _Scores(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    unreadable: int


class ExtractionScores(_Scores):
    """`exact`: share of exchanges whose facts are all right and none too many. The rest counts single facts."""

    exact: float
    precision: float
    recall: float
    f1: float


class UpdateScores(_Scores):
    """Share of new facts with the right operation on the right old memory, over all and by the operation wanted.

    Whether the right memory is found is part of it.
    """

    accuracy: float
    by_operation: dict[str, float]
    facts: dict[str, int]


class GenerationScores(_Scores):
    """Share of answers that are the wanted words, over all and by kind of question (`memories.Kind`)."""

    accuracy: float
    by_kind: dict[str, float]


def measure_extraction(backend: Backend, scenes: Sequence[Scene]) -> ExtractionScores:
    """Ask the extraction expert about each exchange, as a memory does: for clauses of it, which are checked."""
    style = backend.prompt_style("extraction")

    def request(scene: Scene) -> Request:
        messages = extraction.messages(scene.exchange, style)
        return Request("extraction", messages, clauses.schema(scene.exchange), extraction.MAX_TOKENS)

    exact = right = found = wanted = unreadable = 0
    for scene, reply in zip(scenes, _ask(backend, scenes, request), strict=True):
        try:
            facts = quotes.as_said(extraction.read(reply.text).facts, scene.exchange).facts
            said = Counter(normalise(fact) for fact in facts)
        except ReplyError:
            unreadable += 1
            said = Counter()
        gold = Counter(normalise(fact) for fact in scene.facts)
        right += (said & gold).total()
        found += said.total()
        wanted += gold.total()
        exact += said == gold
    precision = right / found if found else 0.0
    recall = right / wanted if wanted else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return ExtractionScores(
        samples=len(scenes),
        unreadable=unreadable,
        exact=exact / len(scenes),
        precision=precision,
        recall=recall,
        f1=f1,
    )


def measure_update(backend: Backend, pairs: Sequence[Pair]) -> UpdateScores:
    """Ask the update expert about each pair. A fact without a memory near it is added unasked, as a memory does."""
    style = backend.prompt_style("update")

    def request(pair: Pair) -> Request:
        asked = [str(pair.found)], [pair.new]
        held = update.schema(*asked, verbatim=True)
        return Request("update", update.messages(*asked, style), held, update.MAX_TOKENS)

    replies = iter(_ask(backend, [pair for pair in pairs if pair.found is not None], request))
    right: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    unreadable = 0
    for pair in pairs:
        done: Operation | None = "ADD"
        if pair.found is not None:
            try:
                done = _done(update.read(next(replies).text, [pair.found], [pair.new]))
            except ReplyError:
                unreadable += 1
                done = None
        wanted[pair.operation] += 1
        right[pair.operation] += done == pair.operation and (done == "ADD" or pair.found == pair.meant)
    return UpdateScores(
        samples=len(pairs),
        unreadable=unreadable,
        accuracy=right.total() / wanted.total(),
        by_operation={operation: right[operation] / count for operation, count in sorted(wanted.items())},
        facts=dict(sorted(wanted.items())),
    )


def measure_generation(backend: Backend, queries: Sequence[Query]) -> GenerationScores:
    """Ask the generation expert each question, as a memory does: for words of the note that it is given."""
    style = backend.prompt_style("generation")

    def request(query: Query) -> Request:
        messages = generation.messages(query.question, query.memories, style, now=query.now)
        return Request("generation", messages, max_tokens=generation.MAX_TOKENS, pattern=spans.pattern(query.memories))

    right: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    unreadable = 0
    for query, reply in zip(queries, _ask(backend, queries, request), strict=True):
        try:
            answer = normalise(generation.read(reply.text))
        except ReplyError:
            unreadable += 1
            answer = ""
        wanted[query.kind] += 1
        right[query.kind] += answer == normalise(query.answer)
    return GenerationScores(
        samples=len(queries),
        unreadable=unreadable,
        accuracy=right.total() / wanted.total(),
        by_kind={kind: right[kind] / count for kind, count in sorted(wanted.items())},
    )


def _done(decisions: update.Decisions) -> Operation:
    """The operation on the one new fact; a DELETE outranks the ADD that follows from it."""
    operations = [decision.operation for decision in decisions.items]
    return "DELETE" if "DELETE" in operations else operations[0]


def _ask(backend: Backend, items: Sequence[Item], request: Callable[[Item], Request]) -> list[Completion]:
    async def one(item: Item, slots: asyncio.Semaphore) -> Completion:
        async with slots:
            return await backend.acomplete(request(item))

    async def every() -> list[Completion]:
        slots = asyncio.Semaphore(_AT_ONCE)
        asked: list[Coroutine[Any, Any, Completion]] = [one(item, slots) for item in items]
        return await asyncio.gather(*asked)

    return asyncio.run(every())
