"""First-person sentences turned to another person: "Where do I live?" to "Where does Ana live?"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from . import chatter

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
_MENTIONED: Mapping[str, str] = {
    "i am": "they are",
    "i'm": "they are",
    "i was": "they were",
    "i wasn't": "they weren't",
    "i've": "they have",
    "i'd": "they would",
    "i'll": "they will",
    "i": "they",
    "me": "them",
    "my": "their",
    "mine": "theirs",
    "myself": "themselves",
}
_VERB = re.compile(
    r"^(?P<before>(?: (?:accidentally|actually|also|always|finally|first|just|most|mostly|nearly|never|no longer|now"
    r"|once|only|really|simply|still|usually))*) (?P<verb>[a-z'-]+)"
)
_VERBS: Mapping[str, str] = {"am": "is", "have": "has", "haven't": "hasn't", "don't": "doesn't"}
_UNCHANGED = frozenset(
    """
    and are as at became began borrowed bought broke came can can't caught chose could couldn't did ever felt for found
    from gave got grew had has held hurt in is kept let left lent lost made met must on or paid quit ran read reread
    said sat saw set should shut sold spent swam to told took was wasn't went with won won't would wrote
    """.split()
)
"""Verbs that are the same for all persons, and words that are no verbs."""
_TOGETHER = re.compile(r"^(?:My |\{)[^,]* and $")  # "{name} and I share"
_OPENERS = (
    *chatter.OPENERS,
    *("So", "Imagine,", "Nowadays", "Note to self,", "Funny enough,", "It may sound silly, but", "It was great,"),
    "I must tell you that",
)
_OPENING = re.compile(rf"^(?:{'|'.join(map(re.escape, sorted(_OPENERS, key=len, reverse=True)))}) ")
_PADDING = re.compile(rf",? (?:{'|'.join(map(re.escape, (*chatter.ADVERBS, 'right now')))})$")
PRONOUNS = frozenset("i me my mine myself am do have".split())
"""Words that stand for the person who speaks, and those that do so with "I" behind them."""


def to_second(text: str) -> str:
    """What the other side would say: "Where do you live?", "you've moved to Porto"."""
    return _swap(text, _SECOND)


def to_third(question: str, name: str) -> str:
    """What somebody else would ask about `name`: by name wherever the person is meant."""
    return _swap(question, {**_NAMED, "i am": "{n} is", "i have": "{n} has"}).replace("{n}", name)


@cache
def to_note(sentence: str) -> str:
    """What a person says, as a note about the person, both as templates: "My cat sleeps where I sleep" gives "{n}'s cat
    sleeps where they sleep". The first mention names the person; what only opens or pads the sentence
    (`chatter.OPENERS`, `chatter.ADVERBS`) is left out; a day that was told from today (`{when}`) is a date.

    Raises:
        ValueError: the sentence mentions no first person.
    """
    told = _PADDING.sub("", _OPENING.sub("", sentence))
    first = _pattern(_NAMED).search(told)
    if first is None:
        raise ValueError(f"{sentence!r} does not say whom it is about.")
    rest = _pattern(_MENTIONED).sub(lambda found: _MENTIONED[found[0].casefold()], told[first.end() :])
    if first[0].casefold() == "i" and not _TOGETHER.search(told[: first.start()]):
        rest = _VERB.sub(_agreeing, rest)
    note = told[: first.start()] + _NAMED[first[0].casefold()] + rest
    note = note.replace("{when}", "on {when}")
    return note[:1].upper() + note[1:]


def _agreeing(found: re.Match[str]) -> str:
    """The verb after the name: " now live" gives " now lives"."""
    verb = found["verb"]
    if verb in _VERBS:
        verb = _VERBS[verb]
    elif verb not in _UNCHANGED and not (verb.endswith("ed") and verb != "need"):
        if re.search("[^aeiou]y$", verb):
            verb = verb[:-1] + "ie"
        verb += "es" if re.search("(s|x|z|ch|sh|o)$", verb) else "s"
    return f"{found['before']} {verb}"


def _swap(text: str, words: Mapping[str, str]) -> str:
    swapped = _pattern(words).sub(lambda found: words[found[0].casefold()], text)
    return swapped[:1].upper() + swapped[1:]


def _pattern(words: Mapping[str, str]) -> re.Pattern[str]:
    longest = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<![\w'])({'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)
