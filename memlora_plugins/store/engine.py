"""What a vector database has to offer for `PointStore` to keep a memory in it.

Conditions, points and searches in neutral terms; `edge.py` and `qdrant.py` translate them. All text and ids that
arrive here are valid Unicode.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ..errors import EmbedderMismatchError, StoreError
from ..flows.effects import Call, Effect, Flow

T = TypeVar("T")
Reply = Effect[T] | Flow[T]
"""What `yield from` turns into a T."""
Ranked = list[tuple[int, float]]
"""Ids as numbers (`UUID.int`) and scores, best first. Most drop out before anybody needs them written: `as_id`."""

DENSE = ("text", "context")
SPARSE = ("context_words",)
ALL_VECTORS = (*DENSE, *SPARSE)

TENANT = "user_id"
KEYWORDS = (
    "agent_id",
    "session_id",
    "kind",
    "shelf",
    "found_by",
    "pending",
    "embedded",
    "text_key",
    "message_id",
    "unfinished",
)
"""Payload fields with a keyword index. Keywords and integers only: emptiness and booleans cost a payload read each."""
NUMBERS = ("position",)

_FORMAT = 2
"""Of points and their vectors; 2: every user's words have numbers of their own, and what is searched says by whom."""


@dataclass(frozen=True, slots=True)
class Is:
    """The field has this value."""

    key: str
    value: str | int


@dataclass(frozen=True, slots=True)
class In:
    """The field has one of these values."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """The number is above `over` and below `under`, where given."""

    key: str
    over: int | None = None
    under: int | None = None


@dataclass(frozen=True, slots=True)
class Ids:
    """The point is one of these."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """At least one of these holds."""

    conditions: tuple[Is | In | Between, ...]


Condition = Is | In | Between | Ids | Either
Where = tuple[Condition, ...]
"""All of these hold."""


@dataclass(frozen=True, slots=True)
class Sparse:
    """A sparse vector: parallel indices and values."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


Vectors = Mapping[str, Sequence[float] | Sparse]


@dataclass(frozen=True, slots=True)
class Point:
    """One stored row. `vectors` holds what was asked for, by name."""

    id: str
    payload: dict[str, Any]
    vectors: Vectors = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Search:
    """The points nearest to `vector` by the vector `using`; word statistics are taken from `corpus` alone.

    They cost a look at every point of the corpus for every word, and more for each condition of it.
    """

    using: str
    vector: Sequence[float] | Sparse
    where: Where
    limit: int
    corpus: Where = ()


class Engine(Protocol):
    """The primitives: effects, or flows of effects, for a store's flows to `yield from`. `fields` are those of a
    payload that are read: None all, empty none.
    """

    exclusive: bool
    """Nobody else writes while a guarded flow runs, so one `upsert` is a whole transaction."""

    def guard(self, flow: Flow[T]) -> Flow[T]:
        """Run `flow` with the checks (open, not forked) and, where the engine can, as one critical section."""

    def prepare(self, embedder: str, dimension: int) -> Flow[None]: ...

    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> Reply[list[Point]]: ...

    def scroll(
        self,
        where: Where,
        *,
        limit: int | None = None,
        order: str | None = None,
        descending: bool = False,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> Reply[list[Point]]: ...

    def search(self, searches: Sequence[Search]) -> Reply[list[Ranked]]: ...

    def count(self, where: Where) -> Reply[int]: ...

    def upsert(self, points: Sequence[Point], *, insert_only: bool = False) -> Reply[None]: ...

    def set_payload(self, where: Where, payload: Mapping[str, Any]) -> Reply[None]: ...

    def set_vectors(self, vectors: Mapping[str, Vectors]) -> Reply[None]: ...

    def erase(self, ids: Sequence[str]) -> Flow[None]:
        """Remove these points, physically where the engine is in our hands."""

    def flush(self) -> Flow[None]: ...

    def describe(self) -> str: ...

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


_CANONICAL = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
"""Most ids are written like this already, and reading them as UUIDs is the dearest part of looking them up."""


def as_id(number: int) -> str:
    """The id of a point, written, from its number."""
    digits = f"{number:032x}"  # what `UUID` would write, in less time
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def valid_ids(ids: Sequence[str]) -> list[str]:
    """Those of `ids` that can be the id of a point; anything else names nothing."""
    valid = []
    for id in ids:
        if isinstance(id, str) and _CANONICAL(id):
            valid.append(id)
            continue
        with suppress(ValueError, AttributeError, TypeError):
            valid.append(str(uuid.UUID(id)))
    return valid


def direct(action: Callable[[], T]) -> Call[T]:
    """An effect that takes no time worth waiting for, in either world."""

    async def asynchronous() -> T:
        return action()

    return Call(action, asynchronous)


def described(embedder: str, dimension: int) -> dict[str, Any]:
    """What a collection notes about itself when it is made."""
    return {"format": _FORMAT, "embedder": embedder, "dimension": dimension}


def check_made(what: str, made: Mapping[str, Any], embedder: str, dimension: int) -> None:
    """Raise unless a collection that noted `made` can be used with this embedder, by this version.

    Raises:
        EmbedderMismatchError: it was made with another embedder. StoreError: by a version that keeps points otherwise.
    """
    if (made["embedder"], made["dimension"]) != (embedder, dimension):
        raise EmbedderMismatchError(
            f"{what} was made with the embedder {made['embedder']!r} ({made['dimension']} dimensions), not with"
            f" {embedder!r} ({dimension}). Open it with that embedder; to change over, export with it and load the rows"
            " into a new place with the new one."
        )
    if made.get("format") != _FORMAT:
        raise StoreError(
            f"{what} was made by another version of memlora, which keeps points otherwise. Export with that version and"
            " load the rows into a new place with this one."
        )
