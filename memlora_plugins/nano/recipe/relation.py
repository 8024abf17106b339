"""One thing that people tell about themselves: how it is said, asked about and taken back.

Templates hold slots in braces. A slot names a pool of values (`{city}`), with a digit for another value of the same
pool (`{city2}`), and with an article in front where English wants one (`{a job}` gives "a nurse", "an editor").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

SLOT = re.compile(r"\{(a )?([a-z_]+)(\d?)\}")

_ASKED = re.compile(r"\b(do|did|am|was|have|had|can|could|should|would|will|I|my|me|mine|myself)\b", re.IGNORECASE)
_FIRST_PERSON = re.compile(r"(?<![\w'])(?:I|I'm|I've|I'd|I'll|me|my|mine|myself)(?!\w)", re.IGNORECASE)
_LEAST_SAID = 8
_LEAST_ASKED = 4


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact.

    `said` are sentences of the person who tells it, which is how it is noted; the first of them, the plainest, where
    there is no such sentence, as after a bare "Lisbon". All of them have the same slots. `asked` are questions of that
    person about it, `answer` what answers them. `many`: several values can be true at once (hobbies); otherwise a new
    value takes the place of the old one (home). `ended` are sentences that take it back.

    Raises:
        ValueError: a template with a wrong slot, a sentence without a first person, or too few of them.
    """

    name: str
    said: tuple[str, ...]
    asked: tuple[str, ...]
    answer: str
    many: bool = False
    ended: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.said)) < _LEAST_SAID or len(set(self.asked)) < _LEAST_ASKED:
            raise ValueError(f"{self.name}: too few sentences or questions")
        told = self.slots
        wrong = [text for text in self.said if slots(text) != told]
        wrong += [text for text in self.ended if not slots(text) <= told]
        wrong += [text for text in (*self.asked, self.answer) if not slots(text) <= told]
        wrong += [text for text in self.asked if not text.endswith("?") or not _ASKED.search(text)]
        wrong += [text for text in (*self.said, *self.ended) if text.endswith(".")]
        if set(self.asked) & {""} or wrong:
            raise ValueError(f"{self.name}: {wrong}")
        wrong = [text for text in (*self.said, *self.ended) if not _FIRST_PERSON.search(text)]
        if wrong:
            raise ValueError(f"{self.name}: no first person in {wrong}")

    @property
    def slots(self) -> set[str]:
        """The slots that make the fact."""
        return slots(self.said[0])


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
