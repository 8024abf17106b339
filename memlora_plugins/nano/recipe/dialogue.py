"""Exchanges between a person and an assistant, with the facts that the person tells in them.

A fact is noted in the person's own words, as they stand in the message; only days that are told from today ("last
night") become dates, and what was said wrong and then corrected is noted as meant.

Three kinds of text are made: *train*; *values*, whose names and nouns fill no slot in training; and *phrasings*, where
the sentences that tell a fact do not.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from ...experts.extraction import Exchange
from ...experts.generation import UNKNOWN
from ...experts.quotes import quote
from . import chatter
from .person import to_second
from .pools import Pools
from .relation import Relation, fill, slots

Split = Literal["train", "values", "phrasings"]

_HELD_SENTENCES = 2  # of each relation, for the split "phrasings"
_HELD_QUESTIONS = 1
_WHEN = {
    "today": 0,
    "this morning": 0,
    "yesterday": -1,
    "last night": -1,
    "yesterday evening": -1,
    "two days ago": -2,
}
_FOREIGN = 0.05
"""Share of the values in training that come from another pool than they should: what is known by its pool need not be
copied, and then nothing new can be."""
_NAMED = 0.4  # how often a person goes by a name
_DATED = 0.5  # … an exchange has a date
_ANSWERED = 0.35  # … the assistant has said something before
_NOISE = 0.06  # … a message begins, and how often it ends, with something that tells nothing
_CLOSED = 0.08  # … a sentence is followed by such a thing
_OPENED = 0.15  # … it has an opener
_PADDED = 0.04  # … an adverb that adds nothing
_SLIPS = 0.02  # … a slip of the tongue, and then its correction
_JOINED = 0.12  # … it is joined to the next one
_AS_SAID = 0.3  # … a memory begins and ends as the message it comes from
_REPLIES = 0.08
"""Share of the single facts that are told by a short answer or a yes, or denied."""
_FACTS = ((0, 24), (1, 44), (2, 22), (3, 8), (4, 2))  # facts in an exchange, and how often in a hundred
_TAUGHT_FACTS = ((0, 14), (1, 26), (2, 28), (3, 20), (4, 12))  # in training: what is read teaches more
_PLAIN_FACTS = ((1, 60), (2, 25), (3, 15))


@dataclass(frozen=True, slots=True)
class Told:
    """A fact with its values: `spoken` is how the person says them, `values` how they are noted.

    `said` is the template of the sentence that tells it, `person` the name of who does.
    """

    relation: Relation
    person: str | None
    values: dict[str, str]
    said: str
    spoken: dict[str, str] = field(default_factory=dict)
    ended: bool = False

    @property
    def fact(self) -> str:
        """What is noted of the sentence: the same, with dates for days."""
        return fill(self.said.replace("{when}", "on {when}"), self.values)

    @property
    def memory(self) -> str:
        """The fact as a memory holds it."""
        return quote(f"{self.fact}.", self.person)

    @property
    def sentence(self) -> str:
        """What the person says, without anything around it."""
        return fill(self.said, {**self.values, **self.spoken})

    @property
    def lowers(self) -> bool:
        """Whether the sentence can begin with a small letter."""
        return not re.match(r"\{|I\b|Dr\b", self.said)

    @property
    def answer(self) -> str:
        """What answers a question about it, as it would stand in a sentence."""
        return fill(self.relation.answer, self.values, capital=False)


@dataclass(frozen=True, slots=True)
class Scene:
    """One exchange, and what is to be noted of it."""

    exchange: Exchange
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a message, and what is noted of it: mostly all of it, nothing for chatter.

    `lowers`: it can begin with a small letter, as it does not begin with a name or with "I".
    """

    text: str
    fact: str = ""
    lowers: bool = False


class Author:
    """Writes exchanges. The same seed gives the same text."""

    def __init__(self, relations: Sequence[Relation], pools: Pools, seed: int, split: Split = "train") -> None:
        self.split = split
        self.relations = tuple(relation for relation in relations if self.sentences(relation))
        self.pools = pools
        self.rng = random.Random(f"{seed}-{split}")
        self._open = pools.open

    def person(self) -> str | None:
        """A name, or None for a person who goes by none."""
        return self.value("name") if self.rng.random() < _NAMED else None

    def moment(self) -> datetime:
        return datetime(2019, 1, 1, tzinfo=UTC) + timedelta(days=self.rng.randrange(3000), hours=self.rng.randrange(24))

    def value(self, pool: str, avoid: frozenset[str] = frozenset()) -> str:
        """A value of the pool; in training, now and then of any open one."""
        if self.split == "train" and pool in self._open and self.rng.random() < _FOREIGN:
            pool = self.rng.choice(self._open)
        return self.pools.draw(self.rng, pool, held_out=self.split == "values", avoid=avoid)

    def tell(self, relation: Relation, person: str | None, date: datetime | None, *, ended: bool = False) -> Told:
        """The relation with values and a sentence drawn for it."""
        values: dict[str, str] = {}
        spoken: dict[str, str] = {}
        for slot in sorted(relation.slots):
            if slot == "when":
                spoken[slot] = self.rng.choice(list(_WHEN))
                day = (date or self.moment()) + timedelta(days=_WHEN[spoken[slot]])
                values[slot] = day.date().isoformat()
            else:
                values[slot] = spoken[slot] = self.value(slot.rstrip("0123456789"), frozenset(values.values()))
        said = self.rng.choice(relation.ended if ended else self.sentences(relation))
        return Told(relation, person, values, said, spoken, ended)

    def another(self, told: Told, changed: set[str]) -> Told:
        """The same in a sentence drawn anew, still true, with other values in the slots `changed`."""
        taken = frozenset(told.values.values())
        new = {slot: self.value(slot.rstrip("0123456789"), taken) for slot in sorted(changed - {"when"})}
        spoken = {**told.spoken, **new}
        if "when" in changed:
            earlier = timedelta(days=self.rng.randint(3, 300))
            new["when"] = (datetime.fromisoformat(told.values["when"]) - earlier).date().isoformat()
        said = self.rng.choice(self.sentences(told.relation))
        return Told(told.relation, told.person, {**told.values, **new}, said, spoken)

    def reworded(self, told: Told) -> Told:
        """The same, told in any of its sentences."""
        sentences = told.relation.ended if told.ended else self.sentences(told.relation)
        return replace(told, said=self.rng.choice(sentences))

    def remembered(self, told: Told) -> str:
        """It as a memory: now and then with all that stood around it in the message."""
        if self.rng.random() < _AS_SAID:
            return quote(self.message([told])[1][0], told.person)
        return told.memory

    def sentences(self, relation: Relation) -> tuple[str, ...]:
        """Sentences of a relation that this split may use."""
        return _split(relation.said, _HELD_SENTENCES, held=self.split == "phrasings")

    def question(self, told: Told, *, held_out: bool = False) -> str:
        """A first-person question about it."""
        asked = _split(told.relation.asked, _HELD_QUESTIONS, held=held_out)
        return fill(self.rng.choice(asked), told.values)

    # Exchanges ---------------------------------------------------------------------------------------------------

    def scene(self) -> Scene:
        """An exchange with any number of facts."""
        person = self.person()
        date = self.moment() if self.rng.random() < _DATED else None
        count = self._count(_TAUGHT_FACTS if self.split == "train" else _FACTS)
        if count == 0:
            return Scene(Exchange(self.small_talk(), person, self.assistant(), date=date), ())
        relations = self.rng.sample(self.relations, count)
        if date is None:
            relations = [relation for relation in relations if "when" not in relation.slots]
        told = [self.tell(relation, person, date, ended=self._over(relation)) for relation in relations]
        if not told:
            return Scene(Exchange(self.small_talk(), person, self.assistant(), date=date), ())
        if count == 1 and not told[0].ended and self.split != "phrasings" and self.rng.random() < _REPLIES:
            return self._reply(told[0], person, date)
        text, facts = self.message(told)
        return Scene(Exchange(text, person, self.assistant(), date=date), facts)

    def plain_scene(self) -> Scene:
        """An exchange of one to three sentences, each of which tells a fact, without anything around them."""
        relations = self.rng.sample(self.relations, self._count(_PLAIN_FACTS))
        person = self.person()
        date = self.moment() if any("when" in relation.slots for relation in relations) else None
        told = [self.tell(relation, person, date, ended=self._over(relation)) for relation in relations]
        text = " ".join(f"{one.sentence}." for one in told)
        return Scene(Exchange(text, person, date=date), tuple(f"{one.fact}." for one in told))

    def say(self, told: Sequence[Told]) -> str:
        """The message that tells it all, in order."""
        return self.message(told)[0]

    def message(self, told: Sequence[Told]) -> tuple[str, tuple[str, ...]]:
        """The message that tells it all, in order, and what is noted of it."""
        rng = self.rng
        parts: list[_Part] = []
        if rng.random() < _NOISE:
            parts.append(_Part(rng.choice((*chatter.NOISE, *chatter.CLOSERS))))
        for one in told:
            parts.append(self._sentence(one))
            if rng.random() < _CLOSED:
                parts.append(_Part(rng.choice(chatter.CLOSERS)))
        if rng.random() < _NOISE:
            parts.append(_Part(self._chatter()))
        text, facts = self._joined(parts)
        if rng.random() < 0.04 and text.isascii() and not _has_names(told):
            return text.lower(), tuple(fact.lower() for fact in facts)
        return text, facts

    def small_talk(self, *, questions: bool = True) -> str:
        """A message that tells nothing to note; with `questions`, now and then one about what may be remembered."""
        rng = self.rng
        if questions and rng.random() < 0.2:
            return self.question(self.tell(rng.choice(self.relations), None, None))
        parts = [_Part(self._chatter() if rng.random() < 0.75 else rng.choice(chatter.NOISE))]
        if rng.random() < 0.3:
            parts.append(_Part(rng.choice((*chatter.NOISE, *chatter.CLOSERS))))
        return self._joined(parts)[0]

    def assistant(self) -> str | None:
        """What the assistant said before; nothing is ever noted of it."""
        if self.rng.random() >= _ANSWERED:
            return None
        kind = self.rng.random()
        if kind < 0.25:
            told = self.tell(self.rng.choice(self.relations), None, None)
            return told.answer if kind < 0.1 else to_second(self.question(told))
        if kind < 0.3:
            return UNKNOWN
        return self._filled(self.rng.choice(chatter.ASSISTANT))

    def _reply(self, told: Told, person: str | None, date: datetime | None) -> Scene:
        """A short answer to what the assistant asked, or a yes or no to what it claims."""
        rng = self.rng
        if rng.random() < 0.6:
            answer = fill(told.relation.answer, {**told.values, **told.spoken}, capital=rng.random() < 0.7)
            shape = rng.choice(
                ("{0}", "{0}.", "{0}!", "It's {0}.", "{0}, actually.", "That would be {0}.", "{0} I think")
            )
            text = shape.format(answer)
            noted = replace(told, said=told.relation.said[0])
            return Scene(Exchange(text, person, to_second(self.question(told)), date=date), (f"{noted.fact}.",))
        asked = rng.choice(("So {0}?", "If I got it right, {0}?", "{0}, right?", "Do I understand that {0}?"))
        inside = not asked.startswith("{") and (told.lowers or told.said[0] == "I")
        said = asked.format(_lowered(to_second(told.sentence), inside))
        if rng.random() < 0.7:
            return Scene(Exchange(rng.choice(chatter.AGREEING), person, said, date=date), (f"{told.fact}.",))
        return Scene(Exchange(rng.choice(chatter.DENYING), person, said, date=date), ())

    def _count(self, weighted: Sequence[tuple[int, int]]) -> int:
        return self.rng.choices([count for count, _ in weighted], [weight for _, weight in weighted])[0]

    def _over(self, relation: Relation) -> bool:
        """Whether a fact is told by taking it back; of these sentences none is kept from training."""
        return bool(relation.ended) and self.rng.random() < 0.1 and self.split != "phrasings"

    def _sentence(self, told: Told) -> _Part:
        rng = self.rng
        spoken = {**told.values, **told.spoken}
        text, fact, lowers = told.sentence, told.fact, told.lowers
        own = sorted(told.relation.slots - {"when"})
        slipped = None
        if own and not told.ended and rng.random() < _SLIPS:
            slot = rng.choice(own)
            slipped = self.value(slot.rstrip("0123456789"), frozenset(spoken.values()))
            text = fill(told.said, {**spoken, slot: slipped})
        if rng.random() < _PADDED and not told.ended and "when" not in told.values:
            padding = f" {rng.choice(chatter.ADVERBS)}"
            text, fact = text + padding, fact + padding
        if rng.random() < _OPENED:
            opener = rng.choice(chatter.OPENERS)
            alone = opener[-1] in ".!?"
            text = f"{opener} {_lowered(text, lowers and not alone)}"
            fact = fact if alone else f"{opener} {_lowered(fact, lowers)}"
            lowers = True
        if slipped is None:
            return _Part(text, fact, lowers)
        correction = rng.choice(chatter.CORRECTIONS).format(old=slipped, new=spoken[slot])
        return _Part(f"{text}. {correction}", fact, lowers)

    def _joined(self, parts: Sequence[_Part]) -> tuple[str, tuple[str, ...]]:
        """The parts as one text with punctuation, and what is noted of them, as it stands there."""
        rng = self.rng
        text = ""
        facts: list[str] = []
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            closed = part.text[-1:] in ".!?:)"
            end = "" if closed else rng.choices((".", "!", "", "..."), (70, 12, 14 if last else 0, 4))[0]
            follows = not last and end == "." and rng.random() < _JOINED and bool(parts[place + 1].fact)
            lowers = part.lowers and text.endswith((", and", ";"))
            said = _lowered(part.text, lowers)
            if part.fact:
                fact = _lowered(part.fact, lowers and part.text[:1] == part.fact[:1])
                facts.append(fact if follows else fact + ("." if closed and part.fact[-1] not in ".!?" else end))
            text += (" " if text else "") + said + (rng.choice((", and", ";")) if follows else end)
        return text, tuple(facts)

    def _chatter(self) -> str:
        return self._filled(self.rng.choice(chatter.CHATTER))

    def _filled(self, template: str) -> str:
        return fill(template, {slot: self.value(slot.rstrip("0123456789")) for slot in sorted(slots(template))})


def _split(sentences: Sequence[str], held_out: int, *, held: bool) -> tuple[str, ...]:
    """The sentences that are kept for the tests (the ones with the lowest hashes), or the others.

    The first one, which is the plainest, is always taught.
    """
    kept = sorted(sentences[1:], key=lambda text: zlib.crc32(text.encode()))[:held_out]
    return tuple(text for text in sentences if (text in kept) == held)


def _lowered(text: str, lowers: bool) -> str:
    return text[:1].lower() + text[1:] if lowers else text


def _has_names(told: Sequence[Told]) -> bool:
    return any(value[:1].isupper() for one in told for value in one.values.values())
