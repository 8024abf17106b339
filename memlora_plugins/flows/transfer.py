"""Taking a memory out as rows, and bringing rows in."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

from ..errors import InvalidInputError
from ..store.base import FactStore
from ..store.rows import json_ready
from ..types import Fact, ImagePart, Message, Operation, Scope, TextPart, Turn, as_utc, clean_text, fact_id, turn_id
from .effects import Flow
from .remember import Rules, embed_some, searched_text

if TYPE_CHECKING:
    from ..embedding import Vector

_BATCH = 256  # rows embedded and written at once by load


def export(store: FactStore, scope: Scope) -> Flow[list[dict[str, Any]]]:
    """Turns and facts of every version as JSON-ready rows, oldest first."""
    turns = yield from store.turns(scope)
    facts = yield from store.facts(scope, retired=True)
    return [*(_turn_row(turn) for turn in turns), *(_fact_row(fact) for fact in facts)]


def load(store: FactStore, scope: Scope, rows: Iterable[Mapping[str, Any]], rules: Rules) -> Flow[int]:
    """Bring exported rows into `scope` (its user; sessions as exported unless the scope names one).

    Rows that are there already change nothing, so a broken load can be repeated. Returns how many were new.

    Raises:
        InvalidInputError: a row is not of the exported form; the message gives its number.
    """
    if not isinstance(rows, Iterable):
        raise InvalidInputError(f"load() takes exported rows, got {type(rows).__name__}.")
    new, batch = 0, []
    for number, row in enumerate(rows, start=1):
        batch.append(_from_row(scope, row, number))
        if len(batch) == _BATCH:
            new += yield from _restore(store, batch, rules)
            batch = []
    if batch:
        new += yield from _restore(store, batch, rules)
    return new


def _restore(store: FactStore, items: list[Fact | Turn], rules: Rules) -> Flow[int]:
    vectors = yield from embed_some([_searched(item, rules) for item in items])
    pairs: list[tuple[Fact | Turn, Vector | None]] = list(zip(items, vectors, strict=True))
    return (
        yield from store.restore(
            [(item, vector) for item, vector in pairs if isinstance(item, Fact)],
            [(item, vector) for item, vector in pairs if isinstance(item, Turn)],
        )
    )


def _searched(item: Fact | Turn, rules: Rules) -> str | None:
    if isinstance(item, Turn):
        return searched_text(item)
    return None if item.retired else rules.compared(item.text)


def _turn_row(turn: Turn) -> dict[str, Any]:
    return {
        "kind": "turn",
        "id": turn.id,
        **_scope_row(turn.scope),
        "message_id": turn.message_id,
        "role": turn.role,
        "name": turn.name,
        "text": turn.text,
        "images": [image.url for image in turn.images],
        "created_at": turn.created_at.isoformat(),
        "recorded_at": turn.recorded_at.isoformat(),
        "position": turn.position,
        "pending": turn.pending,
        "forgotten": turn.forgotten,
        "metadata": dict(turn.metadata),
    }


def _fact_row(fact: Fact) -> dict[str, Any]:
    return {
        "kind": "fact",
        "id": fact.id,
        **_scope_row(fact.scope),
        "text": fact.text,
        "sources": list(fact.sources),
        "valid_from": fact.valid_from.isoformat(),
        "valid_to": fact.valid_to.isoformat() if fact.valid_to else None,
        "recorded_at": fact.recorded_at.isoformat(),
        "retired_at": fact.retired_at.isoformat() if fact.retired_at else None,
        "retired_by": fact.retired_by,
        "superseded_by": fact.superseded_by,
        "operation": fact.operation,
        "version": fact.version,
        "metadata": dict(fact.metadata),
    }


def _scope_row(scope: Scope) -> dict[str, str | None]:
    return {"user_id": scope.user_id, "agent_id": scope.agent_id, "session_id": scope.session_id}


def _from_row(scope: Scope, row: Mapping[str, Any], number: int) -> Fact | Turn:
    try:
        own = row["user_id"] == scope.user_id and scope.agent_id in (None, row.get("agent_id"))
        agent = scope.agent_id or row.get("agent_id")
        if row["kind"] == "turn":
            return _turn_from(Scope(scope.user_id, agent, scope.session_id or row.get("session_id")), row)
        if row["kind"] == "fact":
            return _fact_from(Scope(scope.user_id, agent), row, own)
        raise ValueError(f"kind is {row['kind']!r}, not 'turn' or 'fact'")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidInputError(f"Row {number} is not an exported row: {type(error).__name__}: {error}.") from error


def _turn_from(scope: Scope, row: Mapping[str, Any]) -> Turn:
    said = Message(  # the same rules as for a message that is added
        row["role"],
        [TextPart(row["text"]), *(ImagePart(url) for url in row.get("images") or ())],
        id=_text(row["message_id"], "message_id"),
        name=row.get("name"),
        created_at=_time(row["created_at"]),
        metadata=json_ready(row.get("metadata") or {}),
    )
    return Turn(
        id=turn_id(scope, said.id),
        scope=scope,
        message_id=said.id,
        role=said.role,
        name=said.name,
        text=said.text,
        images=said.images,
        created_at=_time(row["created_at"]),
        recorded_at=_time(row["recorded_at"]),
        position=_whole(row["position"], "position"),
        pending=bool(row["pending"]),
        forgotten=bool(row.get("forgotten", False)),
        metadata=said.metadata,
    )


def _fact_from(scope: Scope, row: Mapping[str, Any], own: bool) -> Fact:
    """A fact keeps its id within its own scope, and gets one derived from it in another."""

    def local(id: str) -> str:
        plain = str(uuid.UUID(id))  # any other spelling of a known id would pass for a new one
        return plain if own else fact_id(f"{scope}", plain)

    for name, choices in (("operation", get_args(Operation)), ("retired_by", (None, *get_args(Operation)))):
        if row.get(name) not in choices:
            raise ValueError(f"{name} is {row.get(name)!r}")
    if isinstance(row["sources"], str):
        raise TypeError("sources is one text, not a list")
    successor = row.get("superseded_by")
    return Fact(
        id=local(row["id"]),
        scope=scope,
        text=_text(row["text"], "text"),
        sources=tuple(_text(source, "a source") for source in row["sources"]),
        valid_from=_time(row["valid_from"]),
        valid_to=_time_or_none(row.get("valid_to")),
        recorded_at=_time(row["recorded_at"]),
        retired_at=_time_or_none(row.get("retired_at")),
        retired_by=row.get("retired_by"),
        superseded_by=None if successor is None else local(successor),
        operation=row["operation"],
        version=_whole(row["version"], "version"),
        metadata=json_ready(row.get("metadata") or {}),
    )


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is not a text, or blank")
    return clean_text(value)


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is not a whole number of at most 64 bits")
    return value


def _time(text: str) -> datetime:
    return as_utc(datetime.fromisoformat(text))


def _time_or_none(text: str | None) -> datetime | None:
    return None if text is None else _time(text)
