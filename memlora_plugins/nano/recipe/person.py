"""First-person sentences turned to another person: "Where do I live?" to "Where does Ana live?"."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SECOND: Mapping[str, str] = {
    "i am": "you are",
    "i'm": "you're",
    "i was": "you were",
    "am i": "are you",
    "was i": "were you",
    "i": "you",
    "me": "you",
    "my": "your",
    "mine": "yours",
    "myself": "yourself",
}
_NAMED: Mapping[str, str] = {
    "i am": "{n} is",
    "i have": "{n} has",
    "do i": "does {n}",
    "am i": "is {n}",
    "have i": "has {n}",
    "i'm": "{n} is",
    "i've": "{n} has",
    "i'd": "{n} would",
    "i'll": "{n} will",
    "i": "{n}",
    "me": "{n}",
    "my": "{n}'s",
    "mine": "{n}'s",
    "myself": "{n}",
}


def to_second(text: str) -> str:
    """What the other side would say: "Where do you live?", "you've moved to Porto"."""
    return _swap(text, _SECOND)


def to_third(question: str, name: str) -> str:
    """What somebody else would ask about `name`: by name wherever the person is meant."""
    return _swap(question, _NAMED).replace("{n}", name)


def _swap(text: str, words: Mapping[str, str]) -> str:
    swapped = _pattern(words).sub(lambda found: words[found[0].casefold()], text)
    return swapped[:1].upper() + swapped[1:]


def _pattern(words: Mapping[str, str]) -> re.Pattern[str]:
    longest = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<![\w'])({'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)
