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


def to_second(text: str) -> str:
    """What the other side would say: "Where do you live?", "you've moved to Porto"."""
    return _swap(text, _SECOND)


def to_third(question: str, name: str) -> str:
    """What somebody else would ask about `name`."""
    third = {
        "do i": f"does {name}",
        "am i": f"is {name}",
        "have i": f"has {name}",
        "i am": f"{name} is",
        "i'm": f"{name} is",
        "i have": f"{name} has",
        "i've": f"{name} has",
        "i": name,
        "me": name,
        "my": f"{name}'s",
        "mine": f"{name}'s",
    }
    return _swap(question, third)


def _swap(text: str, words: Mapping[str, str]) -> str:
    longest = sorted(words, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w'])({'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)
    swapped = pattern.sub(lambda found: words[found[0].casefold()], text)
    return swapped[:1].upper() + swapped[1:]
