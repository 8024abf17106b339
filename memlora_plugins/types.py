"""The words of this library: what is said, what is kept, what is found.

All types are frozen. Times are timezone-aware UTC; a naive datetime passed in is read as UTC.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from .errors import MemloraError, MessageError, ScopeError

Role = Literal["user", "assistant", "system", "tool"]
Operation = Literal["ADD", "UPDATE", "DELETE", "NONE"]
Kind = Literal["fact", "turn"]

_ROLES = get_args(Role)
_SPEAKERS = ("user", "assistant")
_NAMESPACE = uuid.UUID("5d0c1f5e-53f5-4c6c-9a0a-6d656d6c7261")


def clean_text(text: str) -> str:
    """`text` with surrogate pairs joined and lone surrogates replaced by U+FFFD.

    Python strings may hold surrogates (from a broken JSON escape) that no encoder and no store accepts.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def as_utc(moment: datetime) -> datetime:
    """`moment` in UTC; naive times are read as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose memory is meant. Nothing is read or written without one.

    `user_id` is required. `agent_id` narrows facts and turns to one agent of that person, `session_id` narrows
    turns to one conversation; None means *not narrowed*, so `Scope("ana")` sees all of Ana's memory.
    Facts belong to (user_id, agent_id): every session shares them.

    Raises:
        ScopeError: an id is not a string, or is blank, or holds a lone surrogate.
    """

    user_id: str
    agent_id: str | None = None
    session_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("user_id", "agent_id", "session_id"):
            value = getattr(self, name)
            if value is None and name != "user_id":
                continue
            if not isinstance(value, str) or not value.strip():
                raise ScopeError(f"Scope.{name} must be a non-blank string, got {value!r}. Pass the id of the person.")
            if clean_text(value) != value:
                raise ScopeError(f"Scope.{name} holds a lone surrogate; pass a valid Unicode string.")

    def without_session(self) -> Scope:
        """The scope that facts belong to."""
        return Scope(self.user_id, self.agent_id)

    def __str__(self) -> str:
        return "/".join(part or "*" for part in (self.user_id, self.agent_id, self.session_id))


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text inside a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image inside a message: an http(s) or data URL. It is kept with the turn; text search does not see it."""

    url: str

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not self.url.startswith(("http://", "https://", "data:image/")):
            raise MessageError("ImagePart.url must be an http(s) URL or a data:image/… URL.")


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class Message:
    """One thing said in a conversation.

    `content` is text, or a sequence of parts (text, image). Without `id` the message gets a UUID4 when it is made:
    adding the same object twice changes nothing, while equal sentences in two objects stay two turns.
    `name` is the speaker's name where it matters (several people in one conversation). `metadata` is JSON-ready.
    Lone surrogates in text are replaced by U+FFFD; everything else is kept as it was said.

    Raises:
        MessageError: unknown role, content without any text or image, or a field of the wrong type.
    """

    role: Role
    content: str | Sequence[Part]
    id: str = field(default_factory=lambda: str(uuid.uuid4()), kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    created_at: datetime | None = field(default=None, kw_only=True)
    metadata: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.role not in _ROLES:
            raise MessageError(f"Unknown role {self.role!r}; use one of {', '.join(_ROLES)}.")
        if self.id is None:
            put(self, "id", str(uuid.uuid4()))
        if not isinstance(self.id, str) or not self.id.strip():
            raise MessageError("Message.id must be a non-blank string; leave it out to get one.")
        put(self, "id", clean_text(self.id))
        if isinstance(self.content, str):
            put(self, "content", clean_text(self.content))
        elif isinstance(self.content, Sequence):
            put(self, "content", tuple(_clean_part(part) for part in self.content))
        else:
            raise MessageError(f"Message.content must be text or parts, got {type(self.content).__name__}.")
        if not self.text.strip() and not self.images:
            raise MessageError("Message.content is empty; leave empty messages out.")
        if self.name is not None:
            if not isinstance(self.name, str):
                raise MessageError(f"Message.name must be a string, got {type(self.name).__name__}.")
            put(self, "name", clean_text(self.name).strip() or None)
        if self.created_at is not None:
            put(self, "created_at", _message_time(self.created_at))
        if self.metadata is None:
            put(self, "metadata", {})
        if not isinstance(self.metadata, Mapping):
            raise MessageError(f"Message.metadata must be a mapping, got {type(self.metadata).__name__}.")

    @property
    def text(self) -> str:
        """All text of the message, parts joined by a line break."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images of the message, in order."""
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, ImagePart))


def _clean_part(part: object) -> Part:
    if isinstance(part, str):
        return TextPart(clean_text(part))
    if isinstance(part, TextPart):
        if not isinstance(part.text, str):
            raise MessageError(f"TextPart.text must be a string, got {type(part.text).__name__}.")
        return TextPart(clean_text(part.text))
    if isinstance(part, ImagePart):
        return part
    raise MessageError(f"Message.content parts are TextPart or ImagePart, got {type(part).__name__}.")


def _message_time(moment: object) -> datetime:
    if not isinstance(moment, datetime):
        raise MessageError(f"Message.created_at must be a datetime, got {type(moment).__name__}.")
    try:
        return as_utc(moment)
    except OverflowError:
        raise MessageError("Message.created_at lies outside of the years 1 to 9999 in UTC.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message as it was kept, verbatim. `pending` means its facts are still to be distilled; `forgotten`, that
    search and contexts leave it out.

    `position` orders the turns of a session: microseconds since 1970 of `created_at`, plus the place in its batch.
    """

    id: str
    scope: Scope
    message_id: str
    role: Role
    text: str
    created_at: datetime
    recorded_at: datetime
    position: int
    pending: bool
    name: str | None = None
    images: tuple[ImagePart, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    forgotten: bool = False

    @property
    def spoken(self) -> bool:
        """True for what a person or an agent said and nobody wants forgotten: what is searched, shown and answered."""
        return self.role in _SPEAKERS and not self.forgotten

    def hit(self, score: float) -> Hit:
        """This turn as something found."""
        return Hit(
            kind="turn",
            text=self.text,
            score=score,
            id=self.id,
            created_at=self.created_at,
            sources=(self.message_id,),
            role=self.role,
            name=self.name,
            session_id=self.scope.session_id,
            metadata=self.metadata,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One distilled statement, one version of it.

    Two time axes: `valid_from`/`valid_to` say when it was true (the time of the message), `recorded_at`/`retired_at`
    when this memory knew it. A replaced or deleted fact keeps its text, gets `retired_at` and `retired_by`, and
    `superseded_by` where another fact took its place. `sources` are ids of the messages it came from.
    `operation` is the one that made this version.
    """

    id: str
    scope: Scope
    text: str
    sources: tuple[str, ...]
    valid_from: datetime
    recorded_at: datetime
    valid_to: datetime | None = None
    retired_at: datetime | None = None
    retired_by: Operation | None = None
    superseded_by: str | None = None
    operation: Operation = "ADD"
    version: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def retired(self) -> bool:
        """True for a version that is no longer current."""
        return self.retired_at is not None

    def hit(self, score: float) -> Hit:
        """This fact as something found."""
        return Hit(
            kind="fact",
            text=self.text,
            score=score,
            id=self.id,
            created_at=self.valid_from,
            sources=self.sources,
            metadata=self.metadata,
        )


@dataclass(frozen=True, slots=True)
class FactEvent:
    """What happened to one fact: `fact` is the version after (DELETE: the retired one), `previous` the one before."""

    operation: Operation
    fact: Fact
    previous: Fact | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that did not work while the rest went on. `turn_ids` are the turns it leaves pending or degraded."""

    stage: str
    error: MemloraError
    turn_ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.stage}: {self.error}"


@dataclass(frozen=True, slots=True)
class Usage:
    """Model work behind a result. Tokens as reported by the server; 0 where it reports none."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class AddResult:
    """What `add` did: `events` on facts, turns still `pending`, `errors` that explain why, model `usage`."""

    turns: tuple[Turn, ...] = ()
    events: tuple[FactEvent, ...] = ()
    pending: tuple[Turn, ...] = ()
    errors: tuple[Failure, ...] = ()
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One thing found. `score` is comparable within one search only; `sources` are message ids."""

    kind: Kind
    text: str
    score: float
    id: str
    created_at: datetime
    sources: tuple[str, ...] = ()
    role: Role | None = None
    name: str | None = None
    session_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The generation expert's reply and the memories it was given. `truncated`: it reached the limit of its length."""

    text: str
    hits: tuple[Hit, ...]
    usage: Usage = Usage()
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """Streaming: a step of the pipeline begins (`"recall"`, `"extraction"`, `"update"`, `"generation"`…)."""

    name: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Token:
    """Streaming: a piece of the reply's text."""

    text: str


def turn_id(scope: Scope, message_id: str) -> str:
    """The id of a message's turn: UUIDv5 of scope and message id, so a replay lands on the same turn."""
    return _uuid(scope.user_id, scope.agent_id, scope.session_id, message_id)


def fact_id(turn: str, text: str) -> str:
    """The id of a fact: UUIDv5 of its turn and normalised text, so a replay lands on the same fact."""
    return _uuid(turn, normalise(text))


def _uuid(*parts: str | None) -> str:
    """A UUIDv5 that no choice of separators inside the parts can make collide."""
    return str(uuid.uuid5(_NAMESPACE, json.dumps(parts)))


def normalise(text: str) -> str:
    """Text as compared for *exactly the same statement*: case, spacing and final punctuation aside."""
    return " ".join(clean_text(text).split()).rstrip(" .!;").casefold()
