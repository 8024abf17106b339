"""A scripted Executive and a scripted Memory model, and what an Executive replies at each stage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memlora_plugins import Usage
from memlora_plugins.memo.answers import MemoryAnswer

UNSURE = "I don't know."


class ScriptedExecutive:
    """Says one reply after the other, the last one for ever; records what it was asked."""

    def __init__(self, replies: Iterable[Any]) -> None:
        self.replies = [reply if isinstance(reply, str) else json.dumps(reply) for reply in replies]
        self.prompts: list[str] = []
        self.asked: list[tuple[str, float]] = []

    def complete(self, messages: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any], temperature: float) -> str:
        self.prompts.append(str(messages[0]["content"]))
        self.asked.append((next(iter(schema["properties"])), temperature))
        return self.replies[min(len(self.prompts), len(self.replies)) - 1]

    async def acomplete(self, messages: Any, *, schema: Any, temperature: float) -> str:
        await asyncio.sleep(0)
        return self.complete(messages, schema=schema, temperature=temperature)


class ScriptedMemory:
    """Knows what it was given; records each round."""

    def __init__(self, known: Mapping[str, str] | None = None, failing: Exception | None = None) -> None:
        self.known = known or {}
        self.failing = failing
        self.rounds: list[tuple[str, ...]] = []
        self.temperatures: list[float] = []

    def ask(self, questions: Sequence[str], *, temperature: float = 0.0) -> list[MemoryAnswer]:
        self.rounds.append(tuple(questions))
        self.temperatures.append(temperature)
        if self.failing:
            raise self.failing
        return [MemoryAnswer(one, self.known.get(one, UNSURE), usage=Usage(1, 5, 2)) for one in questions]

    async def aask(self, questions: Sequence[str], *, temperature: float = 0.0) -> list[MemoryAnswer]:
        await asyncio.sleep(0)
        return self.ask(questions, temperature=temperature)


class PlainMemory:
    """As little of a Memory model as is promised: it takes no temperature, and tells nothing but text."""

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self.known = known or {}

    def ask(self, questions: Sequence[str]) -> list[MemoryAnswer]:
        return [MemoryAnswer(question, self.known.get(question, UNSURE)) for question in questions]

    async def aask(self, questions: Sequence[str]) -> list[MemoryAnswer]:
        return self.ask(questions)


def ground(*questions: str) -> dict[str, Any]:
    return {"sub_questions": [{"question": question} for question in questions]}


def ask(*questions: tuple[str, str], candidates: Sequence[tuple[str, Any]] = (("Ada", 1),)) -> dict[str, Any]:
    return entity("ask", candidates, [{"question": q, "targets_candidate": target} for q, target in questions])


def entity(
    decision: str, candidates: Sequence[tuple[str, Any]] = (("Ada", 1),), questions: Any = (), **more: Any
) -> dict[str, Any]:
    return {
        "known_facts": [],
        "candidate_entities": [{"name": name, "rank": rank} for name, rank in candidates],
        "entity_confirmed": False,
        "confirmed_entity": "",
        "decision": decision,
        "sub_questions": list(questions),
        **more,
    }


def confirm(name: str, **more: Any) -> dict[str, Any]:
    return entity("ask", entity_confirmed=True, confirmed_entity=name, **more)


def seek(*questions: str, pivot: str = "", decision: str = "ask") -> dict[str, Any]:
    return {
        "known_facts": [],
        "remaining_unknowns": [],
        "decision": decision,
        "entity_pivot": pivot,
        "sub_questions": [{"question": question} for question in questions],
    }


DONE = seek(decision="answer")
FINAL = {"final_answer": "Porto", "justification": "It said so."}
