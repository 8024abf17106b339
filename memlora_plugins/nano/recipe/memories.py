"""What a memory holds when a new fact or a question comes: material for the update and generation experts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from ...experts.generation import NOTED, ONLY_MEMORY, UNKNOWN
from ...experts.quotes import quote
from ...experts.rules import Decision
from ...types import Hit, Operation, Role
from . import chatter
from .dialogue import Author, Told
from .person import to_third
from .relation import Relation, slots

_DETAILS = (" since {year}", " together with {name}", " because of {name}", " like {name} does", " as {name} knows")
_CASES = {"changed": 34, "another": 8, "same": 17, "detail": 8, "less": 4, "over": 16, "new": 13}
_PAIRED_CASES = {**_CASES, "changed": 46, "another": 14}  # more of both: where a relation knows no change, it is new
_NEW_TAUGHT = 0.15  # share of the facts that no memory is about which are taught: without much doubt they are added
_OTHERS = 12  # memories among which one is found that is near to such a fact
_TAUGHT_OTHERS = 5  # … and in the experts' lessons: to find one takes most of the time
_COMMON = frozenset(
    "home_city job employer partner_name age birthday dog_name cat_name favourite_dish favourite_drink "
    "favourite_colour favourite_film favourite_book favourite_band allergy diet hobby plays_sport plays_instrument "
    "learning phone_brand car_driven boss best_friend daughter_name sister_name called_name reply_language moving_plan "
    "disliked_food".split()
)
_OFTEN = 0.4  # share of the experts' lessons that are about these
_ALSO = 0.3  # how often the same is remembered about something else, where a fact is about something
_SOMEBODY = 0.25  # … somebody else has told the same of themselves, where a question names its person
_UNKNOWN = 0.12  # … nothing that is remembered answers a bare question
_ALIKE = 0.4  # how often the old memory is told in the sentence of the new fact

Kind = Literal["known", "changed", "unknown", "remark"]
"""Whether the memories answer a question, once did otherwise, do not, or whether it is none."""

_KINDS: tuple[tuple[Kind, int], ...] = (("known", 48), ("changed", 16), ("unknown", 16), ("remark", 20))
_RECALLED: tuple[tuple[Kind, int], ...] = (("known", 62), ("unknown", 18), ("remark", 20))


@dataclass(frozen=True, slots=True)
class Query:
    """A question, the memories that were found for it, when it is asked, and its answer."""

    question: str
    memories: tuple[Hit, ...]
    now: datetime
    answer: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Pair:
    """A new fact, and the memory near it that a search finds first, if any.

    `operation` is what is right to do, with the memory that is `meant`; that can be another one than was found.
    """

    new: str
    found: str | None
    operation: Operation
    meant: str | None = None

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What is wanted where it is found."""
        if self.operation == "UPDATE":
            return (Decision("UPDATE", self.new, 0, 0),)
        if self.operation == "NONE":
            return (Decision("NONE", str(self.meant), 0, 0),)
        added = Decision("ADD", self.new, None, 0)
        return (added,) if self.operation == "ADD" else (added, Decision("DELETE", str(self.meant), 0, 0))


Nearest = Callable[[str, Sequence[str]], str | None]
"""(new fact or question, memories): the memory that a search finds first, if one is near enough."""


def pair(author: Author, nearest: Nearest | None = None) -> Pair:
    """One that teaches: the memory that is meant is found, and where none is, the nearest of some others, or any."""
    while True:
        person = author.person()
        relation = _often(author, author.relations) if nearest else author.rng.choice(author.relations)
        before, fact, operation = _case(author, relation, person, _PAIRED_CASES)
        if not before and author.rng.random() > _NEW_TAUGHT:
            continue
        others = _others(author, person, relation, _TAUGHT_OTHERS if nearest else 1)
        found = before[0] if before else nearest(fact, others) if nearest else others[0]
        if found is not None:
            return Pair(fact, found, operation, *before)


def served(author: Author, nearest: Nearest) -> Pair:
    """One as a memory comes upon it: a new fact, and what is found among up to 13 memories of the person."""
    person, relation = author.person(), author.rng.choice(author.relations)
    before, fact, operation = _case(author, relation, person, _CASES)
    others = _others(author, person, relation, author.rng.randint(1, _OTHERS))
    return Pair(fact, nearest(fact, [*before, *others]), operation, *before)


def _often(author: Author, relations: Sequence[Relation]) -> Relation:
    """One of them, now and then of what people tell most."""
    rng = author.rng
    common = [relation for relation in relations if relation.name in _COMMON]
    return rng.choice(common if rng.random() < _OFTEN else relations)


def _others(author: Author, person: str | None, relation: Relation, count: int) -> list[str]:
    """Memories of the person that have nothing to do with `relation`."""
    kinds = author.rng.sample([other for other in author.relations if other is not relation], count)
    return [author.remembered(author.tell(other, person, None)) for other in kinds]


def _case(
    author: Author, relation: Relation, person: str | None, cases: Mapping[str, int] = _CASES
) -> tuple[list[str], str, Operation]:
    """The old memory that is meant, if any, a new fact, and the operation on it."""
    rng = author.rng
    case = rng.choices(list(cases), list(cases.values()))[0]
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
    """An old memory and a new fact, and the bare operation."""
    about = pair(author)
    return against([str(about.found)], about.new), about.operation


def against(lines: Iterable[str], new: str) -> str:
    """Numbered lines, and a new one to compare with them."""
    return "\n".join((*(f"{number} {text}" for number, text in enumerate(lines)), f"New: {new}"))


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
    else:
        question, answer = _remark(author, told)
    for relation in others:
        moment = _before(rng, now, 180)
        hits += noted(author.tell(relation, person, moment), moment)
    if slots(asked.answer) < asked.slots and rng.random() < _ALSO:
        moment = _before(rng, now, 180)
        hits += noted(_about_another(author, told, moment), moment)
    if by_name and rng.random() < _SOMEBODY:  # the same of somebody else
        moment = _before(rng, now, 180)
        hits += noted(author.tell(asked, author.value("name"), moment), moment)
    if not plain and rng.random() < 0.25:
        hits.append(_turn(author, author.small_talk(), person, _before(rng, now, 180)))
    if not plain and rng.random() < 0.15 and (line := author.assistant()):
        hits.append(_turn(author, line, None, _before(rng, now, 180), speaker="assistant"))
    rng.shuffle(hits)
    return Query(question, tuple(hits), now, answer, kind)


def recalled(author: Author, closest: Nearest, *, held_out: bool = False, taught: bool = False) -> Query:
    """A question or remark with the one note that is nearest among up to 14, if one is near enough.

    That can be another than the one that answers; the right answer is still that one's. Where it is `taught`, a note
    that answers is found whenever there is one: whether to trust what was found is not for so small a model to learn.
    """
    rng = author.rng
    person = author.person()
    now = author.moment() + timedelta(days=200)
    usable = [relation for relation in author.relations if slots(relation.answer)]
    asked = _often(author, usable) if taught else rng.choice(usable)
    moment = _before(rng, now, 100)
    told = author.tell(asked, person, moment)
    question = author.question(told, held_out=held_out)
    if person is not None and rng.random() < 0.6:
        question = to_third(question, person)
    notes = _others(author, person, asked, rng.randint(1, _TAUGHT_OTHERS if taught else _OTHERS))
    answer = told.answer
    kinds, weights = zip(*_RECALLED, strict=True)
    kind: Kind = rng.choices(kinds, weights)[0]
    if kind == "known":
        notes.append(author.remembered(told))
    elif kind == "unknown":
        answer = UNKNOWN
    else:
        question, answer = _remark(author, told)
    found = notes[-1] if taught and kind == "known" else None
    if slots(asked.answer) < asked.slots and rng.random() < _ALSO:
        notes.append(author.remembered(_about_another(author, told, moment)))
    found = found or closest(question, notes)
    if found is None:
        return Query(question, (), now, answer, kind)
    hit = Hit(kind="fact", text=found, score=1.0, id=str(rng.random()), created_at=_before(rng, now, 100))
    return Query(question, (hit,), now, answer, kind)


def _remark(author: Author, told: Told) -> tuple[str, str]:
    """What is no question, and its answer: it tells something, or nothing."""
    if author.rng.random() < 0.65:
        return author.say([told]), NOTED
    return author.small_talk(questions=False), ONLY_MEMORY


def _about_another(author: Author, told: Told, moment: datetime) -> Told:
    """The same about something else."""
    if "when" in told.relation.slots:
        return author.tell(told.relation, told.person, moment)
    return author.another(told, told.relation.slots)


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
