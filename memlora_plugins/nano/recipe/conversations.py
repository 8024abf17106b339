"""Whole conversations with questions at the end, for measuring the pipeline."""

from __future__ import annotations

from datetime import timedelta

from ...evaluation.conversations import Conversation, Question
from ...types import Message
from .dialogue import Author, Told
from .person import to_third
from .relation import slots

_SESSIONS = 3
_TOLD = 9  # facts in a conversation
_CHANGED = 3  # of which get another value later


def conversation(author: Author, id: str) -> Conversation:
    """One person over three sessions: facts, some of which change, small talk, and a question about each fact."""
    rng = author.rng
    person = author.value("name")
    start = author.moment()
    days = [start + timedelta(days=40 * number) for number in range(_SESSIONS)]
    usable = [relation for relation in author.relations if slots(relation.answer) and "when" not in relation.slots]
    first = [author.tell(relation, person, start) for relation in rng.sample(usable, _TOLD)]
    current: dict[str, Told] = {told.relation.name: told for told in first}
    plan: list[list[list[Told]]] = [[] for _ in days]
    for told in first:
        plan[rng.randrange(_SESSIONS - 1)].append([told])
    changeable = [told for told in first if not told.relation.many]
    for told in rng.sample(changeable, min(_CHANGED, len(changeable))):
        later = author.another(told, slots(told.relation.answer))
        current[told.relation.name] = later
        plan[-1].append([later])
    messages: list[tuple[str | None, Message]] = []
    for number, (day, exchanges) in enumerate(zip(days, plan, strict=True)):
        exchanges.append([])  # small talk
        rng.shuffle(exchanges)
        for place, told_now in enumerate(exchanges):
            said = author.say(told_now) if told_now else author.small_talk()
            at = day + timedelta(minutes=place)
            for role, text in (("user", said), ("assistant", author.assistant())):
                if text:
                    name = person if role == "user" else None
                    spoken = Message(role, text, id=f"{id}-{len(messages)}", name=name, created_at=at)  # type: ignore[arg-type]
                    messages.append((f"session_{number}", spoken))
    questions = [Question(to_third(author.question(told), person), told.answer) for told in current.values()]
    return Conversation(id, tuple(messages), tuple(questions))
