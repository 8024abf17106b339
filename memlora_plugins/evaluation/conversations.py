"""Conversations to learn from and to be asked about: a LoCoMo file, or plain chat JSONL with questions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any

from ..conversation_file import chat_message, is_export, rows
from ..errors import InvalidInputError
from ..types import Message, Scope, clean_text
from . import locomo


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a conversation. `answer` is None where the conversation does not tell it; `category` is
    LoCoMo's (`locomo.CATEGORIES`) or the file's own, None where it names none; `evidence` are ids of messages;
    `adversarial_answer` is what somebody who is misled by an adversarial question would say."""

    text: str
    answer: str | None = None
    category: int | None = None
    evidence: tuple[str, ...] = ()
    adversarial_answer: str | None = None

    @property
    def answerable(self) -> bool:
        """Whether the conversation tells the answer: it has one, and it is not one of LoCoMo's adversarial ones."""
        return self.answer is not None and self.category != locomo.ADVERSARIAL


@dataclass(frozen=True, slots=True)
class WrittenFact:
    """A fact about `speaker` that a teacher wrote into the file, with the ids of the messages it came from."""

    text: str
    message_ids: tuple[str, ...]
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation. `messages` are (session id, message) in order; `facts` those of LoCoMo's `observation`."""

    id: str
    messages: tuple[tuple[str | None, Message], ...]
    questions: tuple[Question, ...] = ()
    facts: tuple[WrittenFact, ...] = ()

    @property
    def scope(self) -> Scope:
        """One person's memory for each conversation: who speaks is told by the messages' names."""
        return Scope(self.id)

    @property
    def ended(self) -> datetime | None:
        """When the last dated thing was said."""
        return max((said.created_at for _, said in self.messages if said.created_at), default=None)

    def sessions(self, *, undated: datetime | None = None) -> Iterator[tuple[Scope, list[Message]]]:
        """What to add, in order: the messages of one session after another, each with its scope.

        A message without a time is given that of the message before it plus a second; the first ones that of the
        first dated one, or `undated` (default: now) where none is. So equal arguments make equal prompts.
        """
        at = next((said.created_at for _, said in self.messages if said.created_at), undated or datetime.now(UTC))
        current: list[Message] = []
        session: str | None = None
        for id, said in self.messages:
            at = said.created_at or (at + timedelta(seconds=1) if current else at)
            if current and id != session:
                yield Scope(self.id, session_id=session), current
                current = []
            session = id
            current.append(replace(said, created_at=at))
        if current:
            yield Scope(self.id, session_id=session), current


def load_conversations(path: str | PathLike[str]) -> list[Conversation]:
    """The conversations of a file, in its order.

    The file is LoCoMo's (a JSON list), or JSONL with one message or one question a line:

        {"role": "user", "content": "I moved to Lisbon.", "name": "Ana", "created_at": "2025-05-02", "id": "m1",
         "conversation": "c1", "session": "s1"}
        {"question": "Where does Ana live?", "answer": "Lisbon", "evidence": ["m1"], "conversation": "c1"}

    Only `role` and `content`, or `question`, are needed. `conversation` is by default the file's name without its
    ending; `answer` is left out where the conversation does not tell it; `category` is a number, 1 to 5 are LoCoMo's
    (`locomo.CATEGORIES`).

    Raises:
        InvalidInputError: the file cannot be read, is neither, holds no message, or names a conversation twice; the
            message says where.
    """
    file = Path(path)
    found = from_locomo(locomo.load(file)) if _is_list(file) else _chat(file)
    if not found:
        raise InvalidInputError(f"{file} holds no conversation.")
    return found


def from_locomo(conversations: Iterable[locomo.Conversation]) -> list[Conversation]:
    """LoCoMo's conversations, for instance of one `locomo.split` or with `locomo.corrected` answers."""
    return [
        Conversation(
            read.sample_id,
            tuple(locomo.messages(read)),
            tuple(
                Question(
                    clean_text(one.text),
                    one.answer and clean_text(one.answer),
                    one.category,
                    one.evidence,
                    one.adversarial_answer and clean_text(one.adversarial_answer),
                )
                for one in read.questions
            ),
            tuple(WrittenFact(fact.text, fact.dia_ids, fact.speaker) for fact in read.facts),
        )
        for read in conversations
    ]


def chosen(conversations: Iterable[Conversation], ids: Iterable[str]) -> list[Conversation]:
    """The conversations named by `ids`, in the order of `ids`.

    Raises:
        InvalidInputError: there is none of that name; the message lists those there are.
    """
    known = {conversation.id: conversation for conversation in conversations}
    wanted = list(dict.fromkeys(ids))
    if missing := [id for id in wanted if id not in known]:
        some = ", ".join(list(known)[:20]) + (", …" if len(known) > 20 else "")
        raise InvalidInputError(f"No conversation {', '.join(missing)}. There are: {some}.")
    return [known[id] for id in wanted]


def _is_list(file: Path) -> bool:
    """Whether the file begins like a JSON list; a line of JSONL is an object.

    Raises:
        InvalidInputError: it cannot be read, or is one object that holds LoCoMo in another form.
    """
    try:
        with file.open(encoding="utf-8-sig") as text:
            while (char := text.read(1)).isspace():
                pass
            if char == "{" and (layout := locomo.other_layout(_whole(char + text.read()))):
                raise InvalidInputError(f"{file} is not a LoCoMo file: {layout}")
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} is not UTF-8 text.") from error
    return char == "["


def _whole(text: str) -> object:
    """`text` as one JSON value; None for JSONL, and where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


@dataclass(slots=True)
class _Rows:
    """One conversation of a JSONL file while it is read."""

    messages: list[tuple[str | None, Message]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    ids: set[tuple[str | None, str]] = field(default_factory=set)


def _chat(file: Path) -> list[Conversation]:
    found: dict[str, _Rows] = {}
    for number, row in rows(file):
        if is_export(row):
            raise InvalidInputError(f"{file}, line {number}: an exported memory; conversations are needed here.")
        one = found.setdefault(_name(file, number, row, "conversation") or file.stem, _Rows())
        if "question" in row:
            one.questions.append(_question(file, number, row))
            continue
        session, said = _name(file, number, row, "session"), chat_message(file, number, row)
        if (session, said.id) in one.ids:
            raise InvalidInputError(f"{file}, line {number}: the id {said.id!r} is another message's already.")
        one.ids.add((session, said.id))
        one.messages.append((session, said))
    if silent := [id for id, one in found.items() if not one.messages]:
        raise InvalidInputError(f"{file} has questions but no message of the conversation {silent[0]!r}.")
    return [Conversation(id, tuple(one.messages), tuple(one.questions)) for id, one in found.items()]


def _name(file: Path, number: int, row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise InvalidInputError(f"{file}, line {number}: {key} must be a name, got {value!r}.")
    return str(value)


def _question(file: Path, number: int, row: Mapping[str, Any]) -> Question:
    def wrong(key: str, what: str) -> InvalidInputError:
        return InvalidInputError(f"{file}, line {number}: {key} must be {what}, got {row.get(key)!r}.")

    text, answer = row["question"], row.get("answer")
    category, evidence = row.get("category"), row.get("evidence") or []
    if not isinstance(text, str) or not text.strip():
        raise wrong("question", "text")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        raise wrong("answer", "text or a number")
    if isinstance(category, bool) or not isinstance(category, int | None):
        raise wrong("category", "a whole number")
    if not isinstance(evidence, list) or not all(isinstance(id, str) for id in evidence):
        raise wrong("evidence", "a list of message ids")
    said = "" if answer is None else clean_text(str(answer)).strip()
    return Question(clean_text(text).strip(), said or None, category, tuple(evidence))
