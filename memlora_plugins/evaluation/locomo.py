"""LoCoMo: long conversations between two people, with questions and the turns that hold the evidence.

Reads the published file (`locomo10.json` of snap-research/LoCoMo, CC BY-NC 4.0; not part of this package), turns a
conversation into messages, and measures how much of the evidence a search finds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError
from ..store.ranking import CAPTION
from ..types import Message

CATEGORIES: Mapping[int, str] = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
ANSWERABLE = (1, 2, 3, 4)
ADVERSARIAL = 5

_SESSION = re.compile(r"session_(\d+)")
_DATED = re.compile(r"session_(\d+)_date_time")
_OBSERVED = re.compile(r"session_(\d+)_observation")
_DIA_ID = re.compile(r"D:?\s*(\d+)\s*:\s*(\d+)")
_MOMENT = re.compile(r"(\d{1,2}):(\d{2})\s*([ap])m on (\d{1,2}) ([a-z]+),? (\d{4})", re.IGNORECASE)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing said. `caption` describes the image that came with it, in words."""

    dia_id: str
    speaker: str
    text: str
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """Turns of one sitting, in order. `began` is UTC (the file names no time zone)."""

    number: int
    began: datetime
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a conversation. `evidence` are dia_ids; `answer` is None for most adversarial ones."""

    text: str
    answer: str | None
    category: int
    evidence: tuple[str, ...] = ()
    adversarial_answer: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """A fact that a large model wrote about `speaker`, with the turns it came from."""

    text: str
    speaker: str
    session: int
    dia_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation of the file."""

    sample_id: str
    speakers: tuple[str, str]
    sessions: tuple[Session, ...]
    questions: tuple[Question, ...]
    facts: tuple[Observation, ...]

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Every turn, in order."""
        return tuple(turn for session in self.sessions for turn in session.turns)


@dataclass(slots=True)
class LoadReport:
    """What was found in a file, and what was wrong with it."""

    turns: int = 0
    questions: int = 0
    facts: int = 0
    dates_without_session: int = 0
    turns_left_out: int = 0
    """Without text and without a caption."""
    answers_not_text: int = 0
    evidence_repaired: int = 0
    """Evidence strings that were not simply the id of a turn, and could be read all the same."""
    evidence_dropped: list[str] = field(default_factory=list)
    """Evidence strings that name no turn, as "sample_id: string"."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The conversations of a file, in its order, and the report."""

    conversations: list[Conversation]
    report: LoadReport


def load(path: str | PathLike[str]) -> list[Conversation]:
    """The conversations of a LoCoMo file; see `read` for the faults that were mended.

    Raises:
        InvalidInputError: the file cannot be read or is not a LoCoMo file; the message says where.
    """
    return read(path).conversations


def read(path: str | PathLike[str]) -> Loaded:
    """`load`, with a report."""
    file = Path(path)
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(data, list):
        raise InvalidInputError(f"{file} is not a LoCoMo file: it must hold a list of conversations.")
    report = LoadReport()
    return Loaded([_conversation(_Place(file, f"[{n}]", row), report) for n, row in enumerate(data)], report)


def messages(conversation: Conversation) -> Iterator[tuple[str, Message]]:
    """The conversation as (session id, message), in order.

    Every turn is a user message with its speaker in `name`, its dia_id as id, and its image's caption in
    `metadata`. The turns of a session are a second apart.
    """
    for session in conversation.sessions:
        for place, turn in enumerate(session.turns):
            yield (
                f"session_{session.number}",
                Message(
                    "user",
                    turn.text or f"[{turn.caption}]",
                    id=turn.dia_id,
                    name=turn.speaker,
                    created_at=session.began + timedelta(seconds=place),
                    metadata={CAPTION: turn.caption} if turn.caption else {},
                ),
            )


# Measuring ---------------------------------------------------------------------------------------------------------

Search = Callable[[Conversation, str, int], Sequence[Collection[str]]]
"""(conversation, question, limit) to found items, best first, each as the dia_ids it covers (`Hit.sources`)."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Mean share of the evidence found, by number of items looked at."""

    questions: int
    at: Mapping[int, float]
    by_category: Mapping[int, Mapping[int, float]]


def evidence_recall(found: Sequence[Collection[str]], gold: Collection[str], k: int) -> float:
    """Share of `gold` that the first `k` items cover. Each item is the ids it covers.

    Raises:
        InvalidInputError: `gold` is empty; such questions are not measured.
    """
    wanted = set(gold)
    if not wanted:
        raise InvalidInputError("evidence_recall needs at least one gold id.")
    return len(wanted.intersection(id for item in found[:k] for id in item)) / len(wanted)


def measure(
    conversations: Iterable[Conversation],
    search: Search,
    *,
    ks: Sequence[int] = (10, 30),
    categories: Collection[int] = ANSWERABLE,
) -> Recall:
    """Ask every question that has evidence and average `evidence_recall` over them.

    Raises:
        InvalidInputError: no question with evidence in these categories.
    """
    shares: dict[int, list[list[float]]] = {}
    for conversation in conversations:
        for question in conversation.questions:
            if question.evidence and question.category in categories:
                found = search(conversation, question.text, max(ks))
                share = [evidence_recall(found, question.evidence, k) for k in ks]
                shares.setdefault(question.category, []).append(share)
    every = [share for of_category in shares.values() for share in of_category]
    if not every:
        raise InvalidInputError("No question with evidence to measure.")

    def mean(rows: list[list[float]]) -> dict[int, float]:
        return {k: sum(row[place] for row in rows) / len(rows) for place, k in enumerate(ks)}

    return Recall(len(every), mean(every), {category: mean(shares[category]) for category in sorted(shares)})


# Reading the file ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A value of the file, and where it stands."""

    file: Path
    where: str
    value: Any

    def wrong(self, what: str) -> InvalidInputError:
        return InvalidInputError(f"{self.file} is not a LoCoMo file: {self.where} {what}.")

    def get(self, key: str, kind: type[Any] | tuple[type[Any], ...]) -> _Place:
        if not isinstance(self.value, dict):
            raise self.wrong("is not an object")
        if not isinstance(self.value.get(key), kind):
            raise self.wrong(f"has no usable {key!r}")
        return _Place(self.file, f"{self.where}.{key}", self.value.get(key))

    def text(self, key: str) -> str:
        text: str = self.get(key, str).value
        return text

    def items(self) -> Iterator[_Place]:
        for place, value in enumerate(self.value):
            yield _Place(self.file, f"{self.where}[{place}]", value)


def _conversation(row: _Place, report: LoadReport) -> Conversation:
    talk = row.get("conversation", dict)
    sample_id = row.text("sample_id")
    sessions = tuple(_sessions(talk, report))
    known = {turn.dia_id for session in sessions for turn in session.turns}
    questions = tuple(_question(place, sample_id, known, report) for place in row.get("qa", list).items())
    facts = tuple(_facts(row, known)) if "observation" in row.value else ()
    report.turns += len(known)
    report.questions += len(questions)
    report.facts += len(facts)
    return Conversation(sample_id, (talk.text("speaker_a"), talk.text("speaker_b")), sessions, questions, facts)


def _sessions(talk: _Place, report: LoadReport) -> Iterator[Session]:
    numbers = {int(match[1]) for key in talk.value if (match := _SESSION.fullmatch(key))}
    dated = {int(match[1]) for key in talk.value if (match := _DATED.fullmatch(key))}
    report.dates_without_session += len(dated - numbers)
    for number in sorted(numbers):
        turns = [_turn(place) for place in talk.get(f"session_{number}", list).items()]
        said = tuple(turn for turn in turns if turn.text or turn.caption)
        report.turns_left_out += len(turns) - len(said)
        yield Session(number, _moment(talk.get(f"session_{number}_date_time", str)), said)


def _turn(place: _Place) -> Turn:
    caption = place.get("blip_caption", (str, type(None))).value
    return Turn(
        place.text("dia_id"), place.text("speaker"), place.text("text").strip(), (caption or "").strip() or None
    )


def _moment(place: _Place) -> datetime:
    """ "1:56 pm on 8 May, 2023", as UTC."""
    if match := _MOMENT.fullmatch(place.value.strip()):
        hour, minute, half, day, month, year = match.groups()
        try:
            return datetime(
                int(year),
                _MONTHS.index(month[:3].lower()) + 1,
                int(day),
                int(hour) % 12 + (12 if half.lower() == "p" else 0),
                int(minute),
                tzinfo=UTC,
            )
        except ValueError:
            pass  # no such month or day: said below
    raise place.wrong(f"is not a date like '1:56 pm on 8 May, 2023': {place.value!r}")


def _question(place: _Place, sample_id: str, known: Collection[str], report: LoadReport) -> Question:
    answer = place.get("answer", (str, int, float, type(None))).value
    report.answers_not_text += answer is not None and not isinstance(answer, str)
    evidence: dict[str, None] = {}
    for item in place.get("evidence", (list, type(None))).value or ():
        ids = [id for id in _dia_ids(item) if id in known]
        if not ids:
            report.evidence_dropped.append(f"{sample_id}: {item}")
        elif ids != [item]:
            report.evidence_repaired += 1
        evidence.update(dict.fromkeys(ids))
    return Question(
        place.text("question"),
        None if answer is None else str(answer),
        place.get("category", int).value,
        tuple(evidence),
        None if (wrong := place.value.get("adversarial_answer")) is None else str(wrong),
    )


def _facts(row: _Place, known: Collection[str]) -> Iterator[Observation]:
    observed = row.get("observation", dict)
    numbers = {int(match[1]): key for key in observed.value if (match := _OBSERVED.fullmatch(key))}
    for number in sorted(numbers):
        session = observed.get(numbers[number], dict)
        for speaker in session.value:
            for place in session.get(speaker, list).items():
                match place.value:
                    case [str(text), str() | list() as ids]:
                        sources = tuple(id for id in dict.fromkeys(_dia_ids(ids)) if id in known)
                        yield Observation(text, speaker, number, sources)
                    case _:
                        raise place.wrong("is not a pair of a fact and its dia_id")


def _dia_ids(value: object) -> list[str]:
    """The ids in a string or a list of strings, however they are joined: "D8:6; D9:17", "D:11:26", "D30:05"."""
    if isinstance(value, list):
        return [id for item in value for id in _dia_ids(item)]
    text = str(value)
    return [f"D{int(session)}:{int(turn)}" for session, turn in _DIA_ID.findall(text)]
