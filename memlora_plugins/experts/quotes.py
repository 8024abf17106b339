"""Facts in the person's own words (`Settings.quoted_facts`): checked against what was said, and kept with who said it.

A small model copies with slips: half of a name becomes another one, a word is said twice. So the words of a fact are
looked up in the exchange. The few that nobody said are put right where it is plain which ones are meant; a fact that
has little of what was said is none. It is a check of words: that they were put together otherwise, or that a "not" is
missing, it does not see. Nothing is put right in scripts without spaces between words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from itertools import takewhile

from .extraction import Exchange
from .wording import QUESTION_MARK, meaning, speaker, strip_injected, unspaced, words

_NAMELESS = "The user"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_REPEATED = re.compile(r"\b(\w+)(?: \1\b)+")
_EDGES = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)
_SAID, _ANSWERED = 0.6, 0.35
"""So many of its words must have been said; fewer where it answers a question, as an answer is noted as a sentence."""
_ALIKE = 0.75
"""So much of its letters a slip shares with the word that is meant, and a fact with the sentence that is meant."""
_IN_PLACE = 0.4  # … where the words around it are the same
_LONGER = 2  # words that what is meant may have more than the slip or the fact
_LONGEST = 40  # words of a fact that is put right
_TRIED = 300  # stretches of a message that are compared with the facts of which more than a word is wrong
_ENDING = 3  # letters by which forms of one word may differ
_DENIED = re.compile(r"\b(no|not|never|nobody|none|without|hardly)$|n['’]t$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Quotes:
    """Facts as the person said them, and those that nobody said."""

    facts: tuple[str, ...]
    unsaid: tuple[str, ...] = ()


def as_said(facts: Sequence[str], exchange: Exchange) -> Quotes:
    """`facts` in the words of the exchange; days may have become dates."""
    message = _Message(exchange)
    kept: dict[str, str] = {}
    unsaid: list[str] = []
    for fact in dict.fromkeys(facts):
        right = message.put_right(fact)
        if message.tells(right):
            kept.setdefault(right.casefold(), right)
        else:
            unsaid.append(fact)
    return Quotes(tuple(kept.values()), tuple(unsaid))


def asks(exchange: Exchange) -> bool:
    """Whether the other side has asked something: then half of what is told may be its words."""
    return bool(QUESTION_MARK.search(strip_injected(exchange.assistant_text or "")))


def quote(fact: str, name: str | None) -> str:
    """A fact in the person's own words, with who said it: `Ana: I moved to Porto.`"""
    return f"{speaker('user', name).removeprefix('user').strip() or _NAMELESS}: {fact}"


def named(quote: str) -> str:
    """Who said it, or nothing for a text that does not tell."""
    name, colon, _ = quote.partition(": ")
    return name.casefold() if colon else ""


def unnamed(quote: str) -> str:
    """What was said, without who said it: what makes two quotes near to each other is not the name."""
    return quote.partition(": ")[2] or quote


def may_be_one_person(quote: str, other: str) -> bool:
    """Whether two quotes can be of the same person: by name, or one of them has none."""
    names = {named(quote), named(other)}
    return len(names) == 1 or not names.isdisjoint(("", _NAMELESS.casefold()))


class _Message:
    """What was said: the message, and the question that it answers, if any."""

    def __init__(self, exchange: Exchange) -> None:
        self._text = " ".join(strip_injected(exchange.user_text).split())
        before = strip_injected(exchange.assistant_text or "")
        asked = asks(exchange)
        self._least = _ANSWERED if asked else _SAID
        self._said = words(f"{self._text} {before if asked else ''}")
        self._dated = bool(_DATE.search(self._text))
        self._pieces = self._text.split()
        self._cores = [_core(piece) for piece in self._pieces]
        self._count = Counter(word for piece in self._pieces for word in words(piece))
        self._left = _TRIED

    def tells(self, fact: str) -> bool:
        """Whether enough of its words were said."""
        if fact in self._text:
            return True
        told = meaning(self._dateless(fact))
        if not told:
            return not words(fact).isdisjoint(self._said)
        return sum(map(self._has, told)) >= self._least * len(told)

    def put_right(self, fact: str) -> str:
        """The fact, with the words in place of its slips that were meant."""
        if unspaced(f"{fact}{self._text}"):
            return fact
        pieces = _REPEATED.sub(self._once, fact).split()
        slips = [place for place, piece in enumerate(pieces) if not self._all_said(piece)]
        if not slips or 2 * len(slips) > len(pieces) or len(pieces) > _LONGEST:
            return " ".join(pieces)
        right = [self._meant(pieces, place) or piece for place, piece in enumerate(pieces)]
        if not all(map(self._all_said, right)):
            return self._sentence(right) or " ".join(right)
        return " ".join(right)

    def _all_said(self, piece: str) -> bool:
        return all(map(self._has, meaning(self._dateless(piece))))

    def _has(self, word: str) -> bool:
        """Whether a word was said, in this or another form."""
        if word in self._said:
            return True
        return any(_forms(word, said) for said in self._said)

    def _dateless(self, text: str) -> str:
        return text if self._dated else _DATE.sub(" ", text)

    def _once(self, found: re.Match[str]) -> str:
        said = re.search(rf"\b{re.escape(found[0])}\b", self._text)
        return found[0] if said else found[1]

    def _meant(self, pieces: Sequence[str], place: int) -> str | None:
        """The word for a slip: one much like it, or what stands in the message where it stands in the fact."""
        if self._all_said(pieces[place]):
            return None
        before, slip, after = _parts(pieces[place])
        close = get_close_matches(slip, self._cores, 1, _ALIKE)
        meant = close[0] if close else self._in_place(pieces, place, slip)
        if not meant or not meaning(slip) & self._said <= words(meant):
            return None
        return f"{before}{meant}{after}"

    def _in_place(self, pieces: Sequence[str], place: int, slip: str) -> str | None:
        left = _core(pieces[place - 1]) if place else None
        right = _core(pieces[place + 1]) if place + 1 < len(pieces) else None
        best = _IN_PLACE
        meant: str | None = None
        for start in range(len(self._cores)):
            if left is not None and (start == 0 or self._cores[start - 1] != left):
                continue
            for end in range(start + 1, min(start + 1 + _LONGER, len(self._cores)) + 1):
                if right is not None and (end == len(self._cores) or self._cores[end] != right):
                    continue
                found = " ".join(self._cores[start:end])
                if (alike := _ratio(slip, found)) > best:
                    best, meant = alike, found
        return meant

    def _sentence(self, pieces: Sequence[str]) -> str | None:
        """The stretch of the message that the fact is meant to be; it has all of its words that were said."""
        fact = " ".join(pieces)
        said = meaning(fact) & words(self._text)
        if not said or (_DATE.search(fact) and not self._dated):
            return None
        rarest = min(sorted(said), key=self._count.__getitem__)
        places = [place for place, piece in enumerate(self._pieces) if rarest in words(piece)]
        longest = len(pieces) + _LONGER
        best = _ALIKE
        meant: str | None = None
        for start in sorted({at for place in places for at in range(max(0, place - longest + 1), place + 1)}):
            if self._denied(start):
                continue
            for end in range(start + len(pieces), min(start + longest, len(self._pieces)) + 1):
                stretch = " ".join(self._pieces[start:end])
                if not said <= words(stretch):
                    continue
                if not self._left:
                    return None
                self._left -= 1
                if (alike := _ratio(stretch, fact)) > best:
                    best, meant = alike, stretch.rstrip(",;:")
        return meant

    def _denied(self, start: int) -> bool:
        """Whether the sentence says no before this piece of it."""
        before = reversed(self._pieces[:start])
        return any(map(_DENIED.search, takewhile(lambda piece: piece[-1] not in ".!?…", before)))


def _parts(piece: str) -> tuple[str, str, str]:
    """A word with the marks before and after it."""
    found = _EDGES.match(piece)
    assert found is not None  # it matches everything
    return found[1], found[2], found[3]


def _core(piece: str) -> str:
    return _parts(piece)[1]


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _forms(word: str, other: str) -> bool:
    """Whether two words are forms of one, as "work" and "works"."""
    short, long = sorted((word, other), key=len)
    return len(short) > _ENDING and len(long) - len(short) <= _ENDING and long.startswith(short)
