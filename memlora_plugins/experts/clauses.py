"""The facts that an exchange can tell in the person's own words: the clauses of the message, as a schema of the reply.

A small model that copies slips: half of a name becomes another, a word is said twice. So it is not left to spell. A
fact begins where a clause of the message can begin, goes on word for word, and ends where a clause can end; it has at
least two words, and a question is none. The words for a day ("two days ago") may have become its date, which is counted
here. Where the message corrects itself, a few words of the clause may be others that were said. Where it answers a
question, runs into one ("I moved to Porto can you help me?") or is in a script without spaces between words, the words
are free. What came of it, `quotes` checks.

Punctuation serves for many languages; conjunctions, days and words of correction are English ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import accumulate
from typing import Any

from ..types import as_utc
from . import extraction
from .extraction import Exchange
from .quotes import asks
from .wording import QUESTION_MARK, one_line, strip_injected, unspaced, words

_CONJUNCTIONS = frozenset(("and", "but", "or", "because", "so", "while", "though", "since"))
_CORRECTS = re.compile(
    r"\b(?:I mean|meant|typo|(?:auto)?correct|correction|oops|instead|rather|mistake|rephrase|mixed|scratch)\b"
    r"|[.!?…,;:] (?:ah |oh )?(?:no|not|sorry|wait|hang on|hold on|well|my bad|silly|forget|replace|please read)\b"
    r"|\*\w|\bdid I (?:say|write)\b",
    re.IGNORECASE,
)
"""What is heard where somebody corrects what they just said."""
_DAYTIME = r"(?: (?:morning|afternoon|evening|night))?"
_NUMBERS = {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
_COUNTED = rf"(?P<many>{'|'.join(_NUMBERS)}|\d{{1,2}}) (?P<unit>day|week)s?"
_DAYS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"today|tonight|this (?:morning|afternoon|evening)"), 0),
    (re.compile(rf"yesterday{_DAYTIME}|last night"), -1),
    (re.compile(rf"tomorrow{_DAYTIME}"), 1),
    (re.compile("the day before yesterday"), -2),
    (re.compile("the day after tomorrow"), 2),
    (re.compile(rf"{_COUNTED} ago"), -1),
)
"""How days are told from today, with how many days that is, or which way to count."""
_LARGER = re.compile("half|and|hundred|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety", re.IGNORECASE)
"""Words before a number that make it a part of another one."""
_LONGEST_DAY = 4  # words
_NEW = 4  # words that a correction may bring, or take the place of
_ANSWER = 4, 8  # words of the first clause, or of all, that may be an answer to what was asked
_MARKS = ',;:.!?…)]"”»–—-।。？！؟،'
"""What stands after a word and is no part of it."""
_STOP = re.compile(r"[.!?…।。？！؟]")
_OPENS = ("(", "[")
_ASKING = re.compile(
    r"(?:who|whom|whose|what|which|when|where|why|how)(?:'s|'re)?|(?:do|does|did|is|are|was|were|have|has|had|could"
    r"|should|would|may|might)(?:n't)?|am|can|can't|will|won't|shall",
    re.IGNORECASE,
)
"""The first words of English questions."""
_ABBREVIATED = 3  # letters: so short a word may have a full stop of its own
_SPECIAL = re.compile(r"[\\.^$*+?()\[\]{}|]")
_DEEPEST = 200  # groups in groups; grammar engines take 250
_LONGEST = 20_000  # letters of a pattern; a longer one would cost more than the slips that it prevents


def schema(exchange: Exchange) -> Mapping[str, Any]:
    """The JSON schema of a reply about `exchange`: each fact has a `pattern`, or none where words are free. Where the
    message has no clause that could be a fact and only asks, there is none."""
    lines = [line.split() for line in map(one_line, strip_injected(exchange.user_text).splitlines())]
    text = " ".join(piece for line in lines for piece in line)
    if not text or unspaced(text):
        return extraction.SCHEMA
    message = _Message(lines, None if exchange.date is None else as_utc(exchange.date).date())
    if asks(exchange) and message.may_answer:
        return extraction.SCHEMA
    clauses = message.clauses(corrected=_CORRECTS.search(text) is not None)
    if not clauses:
        return extraction.schema(most=0) if message.only_asks else extraction.SCHEMA
    pattern = f"^ ?{either(clauses)}$"
    too_much = len(pattern) > _LONGEST or _depth(pattern) > _DEEPEST
    return extraction.SCHEMA if too_much else extraction.schema(pattern)


class _Message:
    """The words of a message, and where its clauses begin and end. `today` is when it was said."""

    def __init__(self, lines: Sequence[Sequence[str]], today: date | None) -> None:
        pieces = [piece for line in lines for piece in line]
        self._parts = [parts(piece) for piece in pieces]
        closed = set(accumulate(map(len, lines)))  # where the next line begins
        spoken = [bool(words(piece)) for piece in pieces]
        joins = [piece.casefold() in _CONJUNCTIONS for piece in pieces]
        self._begins: list[int] = []
        self._ends: set[int] = set()
        self._stops: set[int] = set()
        pauses: list[int] = []
        for at, (word, marks) in enumerate(self._parts):
            after = at + 1
            last = after in closed
            first = at == 0 or at in closed or not spoken[at - 1] or self._parts[at - 1][1] or joins[at - 1]
            if spoken[at] and first:
                self._begins.append(at)
            follows = "" if last else pieces[after]
            if spoken[at] and (last or marks or not spoken[after] or joins[after] or follows.startswith(_OPENS)):
                pauses.append(at)
                if not QUESTION_MARK.search(marks if last or spoken[after] else marks + follows):
                    self._ends.add(at)
            if last or (_STOP.search(marks) and not _abbreviated(word, marks)):
                self._stops.add(at)
        self._days = {} if today is None else {at: day for at in range(len(pieces)) if (day := self._day(at, today))}
        self.may_answer = not pauses or pauses[0] < _ANSWER[0] or len(pieces) <= _ANSWER[1]

    @property
    def only_asks(self) -> bool:
        """Whether each sentence begins, or goes on after a pause, as a question does, or is one word."""
        begin = 0
        for stop in sorted(self._stops):
            begins = (self._parts[at][0] for at in self._begins if begin <= at <= stop)
            if begin < stop and not any(_ASKING.fullmatch(word.replace("’", "'")) for word in begins):
                return False
            begin = stop + 1
        return True

    def clauses(self, *, corrected: bool) -> list[str]:
        """Regular expressions of all of them. `corrected`: a few words of each may be others of the message."""
        some = ""
        if corrected:
            said = sorted({literal(form) for word, marks in self._parts for form in (word, word + marks) if form})
            word = either([*said, "an?"])
            some = f"{word}(?: {word}){{0,{_NEW - 1}}}"
        found: list[str] = []
        for begin in self._begins:
            found += self._told(begin, some)
            if sum(map(len, found)) > _LONGEST:
                break
        return found

    def _day(self, begin: int, today: date) -> tuple[int, str] | None:
        """Where the words for a day that begin here end, and its date."""
        if self._parts[begin][0][:1].isupper() and begin not in self._begins:
            return None  # a name
        counts = self._parts[begin][0].casefold() in _NUMBERS
        if counts and begin and _LARGER.fullmatch(self._parts[begin - 1][0]):
            return None  # "twenty two days ago"
        for after in range(min(begin + _LONGEST_DAY, len(self._parts)), begin, -1):
            if any(marks for _, marks in self._parts[begin : after - 1]):
                continue
            if (told := _date(" ".join(word for word, _ in self._parts[begin:after]), today)) is not None:
                return after, told
        return None

    def _told(self, begin: int, some: str) -> Iterator[str]:
        """The clauses that begin here."""
        yield from self._from(begin, some, first=True)
        yield from (f"[Oo]n {rest}" for rest in self._dated(begin, some, first=True))
        yield from self._corrected(begin, some, first=True)

    def _from(self, begin: int, some: str = "", *, first: bool = False) -> list[str]:
        """All that begins with this word and ends where a clause can end, as one expression, or none if nothing does.

        With `first`, the word alone is no clause.
        """
        stop = next(at for at in range(begin, len(self._parts)) if at in self._stops)
        patterns: list[str] = []
        for at in range(stop, begin - 1, -1):
            word, marks = map(literal, self._parts[at])
            follows = [self._end(at)] if at in self._ends and not (first and at == begin) else []
            follows += [f"{marks} {pattern}" for pattern in patterns]
            if at < stop:
                follows += [f"{marks} (?:on )?{rest}" for rest in self._dated(at + 1, some)]
                follows += [f"{marks} {rest}" for rest in self._corrected(at + 1, some)]
            patterns = [f"{word}{either(follows)}"] if follows else []
            if patterns and len(patterns[0]) > _LONGEST:
                break
        return patterns

    def _dated(self, at: int, some: str, *, first: bool = False) -> Iterator[str]:
        """The date of the day that is told from here, and what follows."""
        if at in self._days:
            after, told = self._days[at]
            if after - 1 in self._ends and not first:
                yield f"{told}{self._end(after - 1)}"
            if after - 1 not in self._stops:
                marks = literal(self._parts[after - 1][1])
                yield from (f"{told}{marks} {pattern}" for pattern in self._from(after, some))

    def _corrected(self, at: int, some: str, *, first: bool = False) -> Iterator[str]:
        """Words that were said elsewhere, in the place of those from here, and what follows."""
        if not some:
            return
        follows: list[str] = []
        for after in range(at + 1, at + 1 + _NEW):
            if after - 1 in self._ends and not first:
                follows.append(self._end(after - 1))
            if after - 1 in self._stops:
                break
            follows += [f" {pattern}" for pattern in self._from(after)]
        if follows:
            yield f"{some}{either(follows)}"

    def _end(self, at: int) -> str:
        """The marks after the last word of a clause: its own, a full stop or none."""
        marks = literal(self._parts[at][1])
        return rf"(?:{marks}|\.)?" if marks else r"\.?"


def _date(told: str, today: date) -> str | None:
    """The date of a day that is told from today."""
    for pattern, days in _DAYS:
        if (found := pattern.fullmatch(told.casefold())) is not None:
            counted = found.groupdict()
            if counted:
                many = counted["many"]
                days *= (_NUMBERS.get(many) or int(many)) * (7 if counted["unit"] == "week" else 1)
            try:
                return (today + timedelta(days=days)).isoformat()
            except OverflowError:  # before the first day of the calendar, or after the last
                return None
    return None


def _abbreviated(word: str, marks: str) -> bool:
    """Whether the full stop may be one of a word such as "Dr."."""
    return marks == "." and (len(word) <= _ABBREVIATED or "." in word)


def parts(piece: str) -> tuple[str, str]:
    """A word and the marks after it."""
    word = piece.rstrip(_MARKS)
    return word, piece[len(word) :]


def _depth(pattern: str) -> int:
    """How deep its groups are nested."""
    depth = deepest = 0
    for found in re.finditer(r"\\.|[()]", pattern):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        deepest = max(deepest, depth)
    return deepest


def literal(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


def either(patterns: Iterable[str]) -> str:
    some = list(patterns)
    return some[0] if len(some) == 1 else f"(?:{'|'.join(some)})"
