"""What a memory holds when a new fact or a question comes: material for the update and generation experts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from ...experts.extraction import quote
from ...experts.rules import Decision
from ...types import Hit, Role
from . import chatter
from .dialogue import UNKNOWN, Author, Told
from .person import to_third
from .relation import Relation, slots

_DETAILS = (" since {year}", " together with {name}", " because of {name}", " like {name} does", " as {name} knows")
_CASES = (("changed", 34), ("another", 8), ("same", 17), ("detail", 8), ("less", 4), ("over", 16), ("new", 13))
_SOMEBODY = 0.25  # … somebody else has told the same of themselves, where a question names its person
_UNKNOWN = 0.12  # … nothing that is remembered answers a bare question
_TAKEN_BACK = 0.2  # of the memories whose kind is told
_ALIKE = 0.4  # how often the old memory is told in the sentence of the new fact

NOTED = "I will remember that."
"""The answer to what tells something and asks nothing."""
ONLY_MEMORY = "I can only tell what I remember."
"""The answer to small talk and to requests."""

Kind = Literal["known", "changed", "unknown", "remark"]
"""Whether the memories answer a question, once did otherwise, do not, or whether it is none."""

_KINDS: tuple[tuple[Kind, int], ...] = (("known", 48), ("changed", 16), ("unknown", 16), ("remark", 20))


@dataclass(frozen=True, slots=True)
class Bank:
    """Old memories and new facts, and what is to be decided about them."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A question, the memories that were found for it, when it is asked, and its answer."""

    question: str
    memories: tuple[Hit, ...]
    now: datetime
    answer: str
    kind: Kind


def bank(author: Author, *, plain: bool = False) -> Bank:
    """A few old memories of one person, and one to three new facts about the same. `plain`: less of both."""
    rng = author.rng
    person = author.person()
    count = 1 if plain else rng.choices((1, 2, 3), (70, 22, 8))[0]
    relations = rng.sample(author.relations, count + rng.choice((0, 0, 1, 1, 2) if plain else (0, 1, 1, 2, 2, 3)))
    old: list[str] = []
    new: list[str] = []
    wanted: list[tuple[str, str, str | None]] = []  # operation, new fact, old memory
    for relation in relations[:count]:
        before, fact, operation = _case(author, relation, person)
        if fact in new or set(before) & {*old, *new} or fact in old:
            continue
        old += before
        new.append(fact)
        wanted.append((operation, fact, before[0] if operation != "ADD" else None))
    for relation in relations[count:]:
        fact = author.remembered(author.tell(relation, person, None))
        if fact not in old and fact not in new:
            old.append(fact)
    if not old:
        fact = author.remembered(author.tell(rng.choice(author.relations), person, None))
        old = [fact] if fact not in new else ["Nothing is known yet"]
    rng.shuffle(old)
    decisions = []
    for operation, fact, target in wanted:
        place = old.index(target) if target is not None else None
        about = new.index(fact)
        if operation == "ADD":
            decisions.append(Decision("ADD", fact, None, about))
        elif operation == "UPDATE":
            decisions.append(Decision("UPDATE", fact, place, about))
        elif operation == "NONE":
            decisions.append(Decision("NONE", old[place or 0], place, about))
        else:
            decisions.append(Decision("ADD", fact, None, about))
            decisions.append(Decision("DELETE", old[place or 0], place, about))
    return Bank(tuple(old), tuple(new), tuple(decisions))


def _case(author: Author, relation: Relation, person: str | None) -> tuple[list[str], str, str]:
    """Old memories (the one that is meant first), a new fact, and the operation on it."""
    rng = author.rng
    names, weights = zip(*_CASES, strict=True)
    case = rng.choices(names, weights)[0]
    told = author.tell(relation, person, None)
    fact = author.remembered(told)
    answer = slots(relation.answer)
    key = relation.slots - answer

    def earlier(changed: set[str]) -> str:
        other = author.another(told, changed)
        return author.remembered(replace(other, said=told.said) if rng.random() < _ALIKE else other)

    if case == "over" and relation.ended:
        return [fact], author.remembered(author.reworded(replace(told, ended=True))), "DELETE"
    if case == "changed" and not relation.many and answer:
        return [earlier(answer)], fact, "UPDATE"
    if case == "another" and answer and (relation.many or key):
        return [earlier(answer | key)], fact, "ADD"
    if case == "same":
        return [fact], author.remembered(author.reworded(told)), "NONE"
    if case in ("detail", "less"):
        detail = rng.choice(_DETAILS).format(year=author.value("year"), name=author.value("name"))
        more = f"{told.memory.removesuffix('.')}{detail}."
        return ([told.memory], more, "UPDATE") if case == "detail" else ([more], told.memory, "NONE")
    return [], fact, "ADD"


def verdict(author: Author) -> tuple[str, str]:
    """A few old memories and a new fact, and the bare operation: the number of the memory behind its name."""
    about = bank(author, plain=True)
    meant = next((one for one in about.decisions if one.operation == "DELETE"), about.decisions[0])
    told = "" if meant.target is None else f" {meant.target}"
    return against(about.old, about.new[0]), f"{meant.operation}{told}"


def against(lines: Iterable[str], new: str) -> str:
    """Numbered lines, and a new one to compare with them."""
    return "\n".join((*(f"{number} {text}" for number, text in enumerate(lines)), f"New: {new}"))


def kinds(author: Author) -> tuple[str, str]:
    """A few memories, and of what kind each is: its relation, and whether there can be one or many of it, or it is
    taken back."""
    rng = author.rng
    person = author.person()
    told = [
        author.tell(relation, person, None, ended=bool(relation.ended) and rng.random() < _TAKEN_BACK)
        for relation in rng.sample(author.relations, rng.randint(1, 3))
    ]
    names = [
        f"{one.relation.name.replace('_', ' ')} {'over' if one.ended else 'many' if one.relation.many else 'one'}"
        for one in told
    ]
    return "\n".join(author.remembered(one) for one in told), f" {'; '.join(names)}"


def lookup(author: Author) -> tuple[str, str]:
    """A few memories and a question, and its answer."""
    rng = author.rng
    person = author.person()
    usable = [relation for relation in author.relations if slots(relation.answer)]
    told = [author.tell(relation, person, author.moment()) for relation in rng.sample(usable, rng.randint(1, 3))]
    question, answer = author.question(told[0]), told[0].answer
    if len(told) > 1 and rng.random() < _UNKNOWN:
        told, answer = told[1:], UNKNOWN
    rng.shuffle(told)
    return "\n".join((*(one.memory for one in told), question)), answer


def query(author: Author, *, held_out: bool = False, plain: bool = False) -> Query:
    """A question about one fact among others, or a remark. `held_out`: in words unseen in training; `plain`: among few
    others, all of them notes."""
    rng = author.rng
    person = author.person()
    now = author.moment() + timedelta(days=200)
    usable = [relation for relation in author.relations if slots(relation.answer)]
    relations = rng.sample(usable, rng.randint(1, 3) if plain else rng.randint(2, 6))
    noted = partial(_hits, author, notes_only=plain)
    asked, *others = relations
    moment = _before(rng, now, 100)
    told = author.tell(asked, person, moment)
    question = author.question(told, held_out=held_out)
    by_name = person is not None and rng.random() < 0.6
    if by_name:
        question = to_third(question, str(person))
    hits: list[Hit] = []
    answer = told.answer
    kinds, weights = zip(*_KINDS, strict=True)
    kind: Kind = rng.choices(kinds, weights)[0]
    if kind == "changed" and asked.many:
        kind = "known"
    if kind in ("known", "changed"):
        if kind == "changed":
            earlier = author.another(told, slots(asked.answer))
            hits += noted(earlier, _before(rng, moment, 80), turn_only=True)
        hits += noted(told, moment)
    elif kind == "unknown":
        answer = UNKNOWN
    elif rng.random() < 0.65:
        question, answer = author.say([told]), NOTED
    else:
        question, answer = author.small_talk(questions=False), ONLY_MEMORY
    for relation in others:
        moment = _before(rng, now, 180)
        hits += noted(author.tell(relation, person, moment), moment)
    key = asked.slots - slots(asked.answer)
    if key and rng.random() < 0.3:  # the same about something else
        moment = _before(rng, now, 180)
        dated = "when" in key | slots(asked.answer)
        other = author.tell(asked, person, moment) if dated else author.another(told, key | slots(asked.answer))
        hits += noted(other, moment)
    if by_name and rng.random() < _SOMEBODY:  # the same of somebody else
        moment = _before(rng, now, 180)
        hits += noted(author.tell(asked, author.value("name"), moment), moment)
    if not plain and rng.random() < 0.25:
        hits.append(_turn(author, author.small_talk(), person, _before(rng, now, 180)))
    if not plain and rng.random() < 0.15 and (line := author.assistant()):
        hits.append(_turn(author, line, None, _before(rng, now, 180), speaker="assistant"))
    rng.shuffle(hits)
    return Query(question, tuple(hits), now, answer, kind)


def _before(rng: random.Random, moment: datetime, days: int) -> datetime:
    return moment - timedelta(days=rng.randint(1, days), seconds=rng.randrange(80_000))


def _hits(
    author: Author, told: Told, moment: datetime, *, turn_only: bool = False, notes_only: bool = False
) -> Sequence[Hit]:
    """A fact as a note, as what was said, or both."""
    rng = author.rng
    form = "fact" if notes_only else "turn" if turn_only else rng.choices(("fact", "turn", "both"), (50, 20, 30))[0]
    text, facts = author.message([told])
    note = told.memory if form == "fact" else quote(facts[0], told.person)
    hits: list[Hit] = []
    if form != "turn":
        hits.append(Hit(kind="fact", text=note, score=1.0, id=str(rng.random()), created_at=moment))
    if form != "fact":
        hits.append(_turn(author, text, told.person, moment))
    return hits


def _turn(author: Author, text: str, person: str | None, moment: datetime, speaker: Role = "user") -> Hit:
    return Hit(
        kind="turn",
        text=text,
        score=1.0,
        id=str(author.rng.random()),
        created_at=moment,
        role=speaker,
        name=person,
    )


def small_talk(author: Author) -> list[tuple[str, str]]:
    """A short chat of lines without anything to note, as (role, text); for the base model's general English."""
    lines: list[tuple[str, str]] = []
    for _ in range(author.rng.randint(1, 3)):
        lines.append(("user", author.small_talk()))
        lines.append(("assistant", author.assistant() or author.rng.choice(chatter.AGREEING)))
    return lines
