"""Whom a question names, so that what they said, and what is noted of them, is favoured."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from ..experts.wording import unspaced

_COMMON = (
    "a ai am an and are as assistant at be bot can did do dr for had has have he her him his i in is it may me miss mr "
    "mrs ms my not of on or our she so that the their they this to user was we were what who will you your"
)
"""Words that a name can have and a question has for other reasons, unless it writes them as a name does."""


@dataclass(frozen=True, slots=True)
class Named:
    """The ids of turns whose speaker is named, and the words by which."""

    turns: frozenset[str]
    words: frozenset[str]

    def mentioned(self, text: str) -> bool:
        """Whether a text names one of them as well."""
        said = _plain(text)
        return any(_stands(word, said) for word in self.words)


def named(question: str, speakers: Mapping[str, str]) -> Named:
    """`speakers`: id of a turn to the name of who speaks.

    One word of a name will do, in any case; a common word ("Will", "The") only with its capital inside the sentence. Of
    a name in a script without spaces between words all has to stand in the question.
    """
    asked, common = _plain(question), _common(question)
    meant: dict[str, set[str]] = {}
    for name in set(speakers.values()):
        plain = _plain(name)
        parts = [plain.strip()] if unspaced(plain) else _words(plain)
        meant[name] = {part for part in parts if part and part not in common and _stands(part, asked)}
    turns = frozenset(id for id, name in speakers.items() if meant[name])
    return Named(turns, frozenset(part for parts in meant.values() for part in parts))


def _common(question: str) -> set[str]:
    """The common words, but for those that the question has with a capital inside the sentence."""
    inside = _words(unicodedata.normalize("NFKC", question))[1:]
    return set(_words(_COMMON)) - {word.casefold() for word in inside if word[0].isupper() and len(word) > 1}


def _stands(part: str, text: str) -> bool:
    """Whether a word of a name stands in a plain text: as a word, or where no capitals are, at the beginning of one,
    as it may have an ending."""
    if unspaced(part):
        return part in text
    cased = part.upper() != part
    return any(word == part or (not cased and word.startswith(part)) for word in _words(text))


def _plain(text: str) -> str:
    """One spelling of letters that can be written in several."""
    return unicodedata.normalize("NFKC", text).casefold()


def _words(text: str) -> list[str]:
    """Stretches of letters, digits and the marks that belong to them."""
    return "".join(char if char.isalnum() or unicodedata.category(char)[0] == "M" else " " for char in text).split()
