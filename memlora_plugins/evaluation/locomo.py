"""LoCoMo: long conversations between two people, with questions and the turns that hold the evidence.

Reads the published file (`locomo10.json` of snap-research/LoCoMo, CC BY-NC 4.0; not part of this package) and copies of
it that were made smaller or went through other formats, counts what is wrong with it, and turns a conversation into
messages. `corrected` takes answers that somebody corrected; `split` gives the paper's training, validation and test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isnan
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import InvalidInputError
from ..store.ranking import CAPTION
from ..types import Message
from .corrections import corrected as corrected
from .load_report import LoadReport as LoadReport

CATEGORIES: Mapping[int, str] = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
ANSWERABLE = (1, 2, 3, 4)
ADVERSARIAL = 5

Split = Literal["training", "validation", "test"]
SPLITS: Mapping[Split, tuple[str, ...]] = {
    "training": ("conv-42", "conv-43", "conv-44", "conv-47", "conv-48", "conv-49", "conv-50"),
    "validation": ("conv-26",),
    "test": ("conv-30", "conv-41"),
}
"""The MemLoRA paper's split by whole conversations (Algorithm B1): C4 to C10, C1, and C2 with C3."""

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
        raise InvalidInputError(
            f"{file} is not a LoCoMo file: {other_layout(data) or 'it must hold a list of conversations.'}"
        )
    report = LoadReport()
    found: dict[str, Conversation] = {}
    for number, row in enumerate(data):
        one = _conversation(_Place(file, f"[{number}]", row), report)
        if one.sample_id in found:
            raise InvalidInputError(f"{file} has the conversation {one.sample_id!r} more than once.")
        found[one.sample_id] = one
    return Loaded(list(found.values()), report)


def other_layout(data: object) -> str | None:
    """What `data` is where it is made of LoCoMo and not a list of conversations, and what to do about it; or None."""
    if not isinstance(data, dict):
        return None
    if "qa" in data and isinstance(data.get("conversation"), dict):
        return "it holds one conversation by itself. Put it into a list."
    talks = [talk.get("conversation") for talk in data.values() if isinstance(talk, dict)]
    if talks and all(isinstance(talk, list) for talk in talks):
        return (
            "it is the file for retrieval of Mem0's evaluation (locomo10_rag.json), turns and questions by "
            "conversation. It tells neither sessions nor the ids of turns, which evidence names. Use the file that it "
            "was made of, locomo10.json."
        )
    if talks and all(isinstance(talk, dict) for talk in talks):
        return "it holds conversations by name. Put them into a list, each with its name as 'sample_id'."
    return None


def split(conversations: Iterable[Conversation], name: Split) -> list[Conversation]:
    """The conversations of one of `SPLITS`, in its order.

    Raises:
        InvalidInputError: there is no such split, or a conversation of it is missing.
    """
    if name not in SPLITS:
        raise InvalidInputError(f"There is no split {name!r}: it is one of {', '.join(get_args(Split))}.")
    known = {conversation.sample_id: conversation for conversation in conversations}
    if missing := [id for id in SPLITS[name] if id not in known]:
        raise InvalidInputError(
            f"The {name} split is {', '.join(SPLITS[name])}; there is no {', '.join(missing)} among the conversations "
            f"({', '.join(known) or 'none'}). Use the whole published locomo10.json, or another split."
        )
    return [known[id] for id in SPLITS[name]]


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
    sample_id = str(row.get("sample_id", (str, int)).value)
    sessions = tuple(_sessions(talk, report))
    known = {turn.dia_id for session in sessions for turn in session.turns}
    asked = [_question(place, sample_id, known, report) for place in row.get("qa", list).items()]
    questions = tuple(question for question in asked if question.text)
    facts = tuple(_facts(row, known)) if row.value.get("observation") is not None else ()
    report.turns += len(known)
    report.questions += len(questions)
    report.questions_left_out += len(asked) - len(questions)
    report.questions_repeated += len(questions) - len({question.text for question in questions})
    report.questions_without_evidence += sum(not question.evidence for question in questions)
    report.answers_missing += sum(one.answer is None and one.category in ANSWERABLE for one in questions)
    report.adversarial_answered += sum(one.answer is not None and one.category == ADVERSARIAL for one in questions)
    report.facts += len(facts)
    report.facts_without_turn += sum(not fact.dia_ids for fact in facts)
    return Conversation(sample_id, (talk.text("speaker_a"), talk.text("speaker_b")), sessions, questions, facts)


def _sessions(talk: _Place, report: LoadReport) -> Iterator[Session]:
    """The sessions with turns. Copies that went through a table have all keys in all conversations, some with null."""
    given = [key for key, value in talk.value.items() if value not in (None, [])]
    numbers = {int(match[1]) for key in given if (match := _SESSION.fullmatch(key))}
    dated = {int(match[1]) for key in given if (match := _DATED.fullmatch(key))}
    report.dates_without_session += len(dated - numbers)
    ids: set[str] = set()
    for number in sorted(numbers):
        said = []
        for place in talk.get(f"session_{number}", list).items():
            turn = _turn(place)
            if turn.dia_id in ids:
                raise place.wrong(f"has the dia_id {turn.dia_id!r} of another turn")
            ids.add(turn.dia_id)
            if turn.text or turn.caption:
                said.append(turn)
            else:
                report.turns_left_out += 1
        if said:
            yield Session(number, _moment(talk.get(f"session_{number}_date_time", str)), tuple(said))
        else:
            report.dates_without_session += number in dated


def _turn(place: _Place) -> Turn:
    caption = place.get("blip_caption", (str, type(None))).value
    return Turn(
        place.text("dia_id"), place.text("speaker"), place.text("text").strip(), (caption or "").strip() or None
    )


def _moment(place: _Place) -> datetime:
    """ "1:56 pm on 8 May, 2023", or ISO 8601, as UTC."""
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
    try:
        given = datetime.fromisoformat(place.value.strip())
    except ValueError:
        raise place.wrong(f"is not a date like '1:56 pm on 8 May, 2023': {place.value!r}") from None
    return given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)


def _question(place: _Place, sample_id: str, known: Collection[str], report: LoadReport) -> Question:
    text, answer = place.text("question"), _answer(place)
    report.answers_not_text += answer is not None and not isinstance(place.value["answer"], str)
    given = place.get("evidence", (list, str, type(None))).value or ()
    evidence: dict[str, None] = {}
    for item in [given] if isinstance(given, str) else given:
        ids = [id for id in _dia_ids(item) if id in known]
        if not ids:
            report.evidence_dropped.append(f"{sample_id}: {item}")
        elif ids != [item]:
            report.evidence_repaired += 1
        evidence.update(dict.fromkeys(ids))
    wrong = place.value.get("adversarial_answer")
    return Question(
        text if text.strip() else "",
        answer,
        _category(place.get("category", (int, float, str))),
        tuple(evidence),
        None if wrong is None else str(wrong),
    )


def _answer(place: _Place) -> str | None:
    """Text as it is; None where there is none. A copy may have made a number of it, or a list."""
    given = place.get("answer", (str, int, float, list, type(None)))
    parts = given.value if isinstance(given.value, list) else [given.value]
    texts = []
    for part in parts:
        match part:
            case bool():
                texts.append("Yes" if part else "No")
            case float() if part.is_integer():  # 2023, in a column that had gaps
                texts.append(str(int(part)))
            case int() | str():
                texts.append(str(part))
            case float() if not isnan(part):
                texts.append(str(part))
            case None | float():
                pass
            case _:
                raise given.wrong("has a part that is no text")
    answer = ", ".join(texts)
    return answer if answer.strip() else None


def _category(place: _Place) -> int:
    given = place.value
    if isinstance(given, bool) or str(given).strip().removesuffix(".0") not in map(str, CATEGORIES):
        raise place.wrong(f"is no category of LoCoMo, which are 1 to 5: {given!r}")
    return int(float(given))


def _facts(row: _Place, known: Collection[str]) -> Iterator[Observation]:
    observed = row.get("observation", dict)
    numbers = {int(match[1]): key for key in observed.value if (match := _OBSERVED.fullmatch(key))}
    for number in sorted(numbers):
        session = observed.get(numbers[number], (dict, type(None)))
        for speaker, written in (session.value or {}).items():
            for place in session.get(speaker, list).items() if written is not None else ():
                match place.value:
                    case [str(text), str() | list() | None as ids]:
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
