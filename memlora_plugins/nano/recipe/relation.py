"""One thing that people tell about themselves: how it is said, noted, asked about and taken back.

Templates hold slots in braces. `{n}` is the person ("Ana", "the user"); every other slot names a pool of values
(`{city}`), with a digit for another value of the same pool (`{city2}`), and with an article in front where English
wants one (`{a job}` gives "a nurse", "an editor").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .person import to_note

SLOT = re.compile(r"\{(a )?([a-z_]+)(\d?)\}")
PERSON = "n"

_ASKED = re.compile(r"\b(do|did|am|was|have|had|can|could|should|would|will|I|my|me|mine|myself)\b", re.IGNORECASE)
_LEAST_SAID = 8
_LEAST_ASKED = 4


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact.

    `said` are sentences of the person who tells it, each of which is noted as it was said, in the third person
    (`person.to_note`). `fact` is how it is noted where there is no such sentence, as after a bare "Lisbon"; `also` are
    other wordings of that note. `asked` are questions of that person about it, `answer` what answers them. Each
    sentence has all slots of the fact, and no others. `many`: several values can be true at once
    (hobbies); otherwise a new value takes the place of the old one (home). `ended` are sentences that take it back,
    `ended_fact` is another wording of what is noted then.

    Raises:
        ValueError: a template with a wrong slot, a sentence without a first person, or too few of them.
    """

    name: str
    fact: str
    said: tuple[str, ...]
    asked: tuple[str, ...]
    answer: str
    also: tuple[str, ...]
    many: bool = False
    ended: tuple[str, ...] = ()
    ended_fact: str = ""

    def __post_init__(self) -> None:
        told = slots(self.fact) - {PERSON}
        wrong = [text for text in self.said if slots(text) != told]
        wrong += [text for text in self.also if slots(text) - {PERSON} != told]
        wrong += [text for text in (*self.ended, self.ended_fact) if text and not slots(text) - {PERSON} <= told]
        wrong += [text for text in (*self.asked, self.answer) if not slots(text) <= told]
        wrong += [text for text in (self.fact, *self.also) if PERSON not in slots(text)]
        wrong += [text for text in self.asked if not text.endswith("?") or not _ASKED.search(text)]
        wrong += [text for text in (self.fact, *self.also, *self.said, *self.ended) if text.endswith(".")]
        if set(self.asked) & {""} or wrong:
            raise ValueError(f"{self.name}: {wrong}")
        if len(set(self.said)) < _LEAST_SAID or len(set(self.asked)) < _LEAST_ASKED or not self.also:
            raise ValueError(f"{self.name}: too few sentences, questions or notes")
        wrong = [text for text in (*self.said, *self.ended) if not _tells_of_the_person(text)]
        if wrong:
            raise ValueError(f"{self.name}: no first person in {wrong}")
        if bool(self.ended) != bool(self.ended_fact):
            raise ValueError(f"{self.name}: `ended` and `ended_fact` belong together")

    @property
    def notes(self) -> tuple[str, ...]:
        """The wordings of the note that are not made of a sentence."""
        return (self.fact, *self.also)


def _tells_of_the_person(sentence: str) -> bool:
    try:
        return bool(to_note(sentence))
    except ValueError:
        return False


def slots(template: str) -> set[str]:
    """The slots of a template, articles aside: `{"city", "city2"}`."""
    return {name + digit for _, name, digit in SLOT.findall(template)}


def fill(template: str, values: Mapping[str, str], *, capital: bool = True) -> str:
    """The template with its values; with `capital`, its first letter is one."""

    def value(found: re.Match[str]) -> str:
        text = values[found[2] + found[3]]
        return f"{_article(text)} {text}" if found[1] else text

    text = SLOT.sub(value, template)
    return text[:1].upper() + text[1:] if capital else text


def _article(text: str) -> str:
    vowel = text[:1].lower() in "aeiou" and not re.match(r"(?i)(uni|use|euro|one\b|ukulele)", text)
    return "an" if vowel else "a"
