"""Turns and facts as points, and back.

Payload fields besides those of the types:
- `shelf`: `turn`, `fact` (current), `retired`, or `aside` (system, tool and forgotten turns: kept, never found).
- `pending`: `yes` or `no`. `embedded`: `no` for a turn that waits for its vector. Ids that are None are stored as
  `""`, which no scope has: indexes find values, not absence.
- `text_key`: hash of the normalised text. `origins`: pairs of source message id and the turn it was (`""` if unknown).
- `revision` and `writer`: for compare-and-set; see `commit.py`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..errors import InvalidInputError
from ..types import Fact, ImagePart, Scope, Turn, as_utc, clean_text, normalise
from .base import Payload, Retirement
from .engine import In, Is, Where

_DEEPEST = 32  # levels of metadata; an engine that cannot read back what it took fails for everybody


def of_user(scope: Scope) -> Where:
    """Points of the scope's user and agent; None is not narrowed."""
    where: Where = (Is("user_id", scope.user_id),)
    return where if scope.agent_id is None else (*where, Is("agent_id", scope.agent_id))


def found_by(scope: Scope) -> Where:
    """What a search of the scope's user and agent may find: current facts and spoken turns. Quicker than by shelf."""
    where: Where = (Is("found_by", scope.user_id),)
    return where if scope.agent_id is None else (*where, Is("agent_id", scope.agent_id))


def of_owner(scope: Scope) -> Where:
    """Points of exactly this user and agent."""
    return (Is("user_id", scope.user_id), Is("agent_id", scope.agent_id or ""))


def turns_of(scope: Scope) -> Where:
    """All turns in the scope."""
    where = (*of_user(scope), Is("kind", "turn"))
    return where if scope.session_id is None else (*where, Is("session_id", scope.session_id))


def facts_of(scope: Scope, *, retired: bool = False) -> Where:
    """The current facts in the scope; with `retired`, all versions."""
    return (*of_user(scope), Is("kind", "fact") if retired else Is("shelf", "fact"))


def said_by(scope: Scope) -> Where:
    """The searchable turns of exactly this conversation."""
    return (*of_owner(scope), Is("session_id", scope.session_id or ""), Is("shelf", "turn"))


def same_texts(texts: Sequence[str]) -> In:
    """Condition: says exactly one of these."""
    return In("text_key", tuple(dict.fromkeys(text_key(text) for text in texts)))


def belongs(payload: Payload, scope: Scope) -> bool:
    """Whether a point is visible in the scope."""
    return (
        payload["user_id"] == scope.user_id
        and scope.agent_id in (None, payload["agent_id"])
        and (payload["kind"] == "fact" or scope.session_id in (None, payload["session_id"]))
    )


def text_key(text: str) -> str:
    """What two texts that say exactly the same have in common."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:32]


def turn_payload(turn: Turn, *, embedded: bool) -> Payload:
    """The payload of a turn; `embedded` unless it should have a vector and has none."""
    return {
        "kind": "turn",
        "shelf": "turn" if turn.spoken else "aside",
        "found_by": turn.scope.user_id if turn.spoken else "",
        "forgotten": turn.forgotten,
        **_scope_payload(turn.scope),
        "message_id": turn.message_id,
        "role": turn.role,
        "name": clean_text(turn.name) if turn.name else None,
        "text": clean_text(turn.text),
        "images": [clean_text(image.url) for image in turn.images],
        "created_at": _time(turn.created_at),
        "recorded_at": _time(turn.recorded_at),
        "position": turn.position,
        "pending": "yes" if turn.pending else "no",
        "embedded": "yes" if embedded else "no",
        "metadata": json_ready(turn.metadata),
    }


def fact_payload(fact: Fact, origins: Mapping[str, Sequence[str]]) -> Payload:
    """The payload of a fact. `origins`: for each source, the turns it may be."""
    sources = [clean_text(source) for source in dict.fromkeys(fact.sources)]
    return {
        "kind": "fact",
        "shelf": "retired" if fact.retired else "fact",
        "found_by": "" if fact.retired else fact.scope.user_id,
        **_scope_payload(fact.scope.without_session()),
        "text": clean_text(fact.text),
        "text_key": text_key(fact.text),
        "sources": sources,
        "origins": [[source, turn] for source in sources for turn in origins.get(source, ("",))],
        "valid_from": _time(fact.valid_from),
        "valid_to": _time_or_none(fact.valid_to),
        "recorded_at": _time(fact.recorded_at),
        "retired_at": _time_or_none(fact.retired_at),
        "retired_by": fact.retired_by,
        "superseded_by": fact.superseded_by,
        "operation": fact.operation,
        "version": fact.version,
        "revision": 1,
        "metadata": json_ready(fact.metadata),
    }


RETIRED: Payload = {"shelf": "retired", "found_by": ""}
"""The fields that say where a retired fact is kept."""
FORGOTTEN: Payload = {"shelf": "aside", "found_by": "", "forgotten": True, "pending": "no", "embedded": "yes"}
"""… and those of a turn that is to be found no more, distilled or embedded."""


def retirement_payload(item: Retirement, same_as: Mapping[str, str]) -> Payload:
    """The fields that retire a fact. `same_as`: facts that were not added because another says the same."""
    return {
        **RETIRED,
        "retired_at": _time(item.retired_at),
        "retired_by": item.retired_by,
        "valid_to": _time_or_none(item.valid_to),
        "superseded_by": same_as.get(item.superseded_by, item.superseded_by) if item.superseded_by else None,
    }


def with_origins(payload: Payload, pairs: Sequence[Sequence[str]]) -> Payload:
    """The provenance fields of `payload` with `pairs` added."""
    origins = [list(pair) for pair in payload["origins"]]
    origins += [pair for pair in map(list, pairs) if pair not in origins]
    return {"sources": list(dict.fromkeys(source for source, _ in origins)), "origins": origins}


def read_turn(id: str, payload: Payload) -> Turn:
    """The turn of a point."""
    return Turn(
        id=id,
        scope=_scope(payload),
        message_id=payload["message_id"],
        role=payload["role"],
        name=payload.get("name"),
        text=payload["text"],
        images=tuple(ImagePart(url) for url in payload["images"]),
        created_at=datetime.fromisoformat(payload["created_at"]),
        recorded_at=datetime.fromisoformat(payload["recorded_at"]),
        position=payload["position"],
        pending=payload["pending"] == "yes",
        metadata=payload["metadata"],
        forgotten=payload.get("forgotten", False),
    )


def read_fact(id: str, payload: Payload) -> Fact:
    """The fact of a point."""
    return Fact(
        id=id,
        scope=_scope(payload),
        text=payload["text"],
        sources=tuple(payload["sources"]),
        valid_from=datetime.fromisoformat(payload["valid_from"]),
        valid_to=_read_time(payload.get("valid_to")),
        recorded_at=datetime.fromisoformat(payload["recorded_at"]),
        retired_at=_read_time(payload.get("retired_at")),
        retired_by=payload.get("retired_by"),
        superseded_by=payload.get("superseded_by"),
        operation=payload["operation"],
        version=payload["version"],
        metadata=payload["metadata"],
    )


def json_ready(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that every store keeps as it is: tuples as lists, lone surrogates replaced.

    Raises:
        InvalidInputError: a value is not JSON, a number does not fit, or it is nested too deeply.
    """
    return {_key(key): _value(value, str(key), _DEEPEST) for key, value in metadata.items()}


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise InvalidInputError(f"Metadata keys must be strings, got {key!r}.")
    return clean_text(key)


def _value(value: Any, path: str, levels: int) -> Any:
    if not levels:
        raise InvalidInputError(
            f"Metadata {path.partition('.')[0]!r} is nested too deeply; {_DEEPEST} levels are kept."
        )
    match value:
        case None | bool():
            return value
        case int() if -(2**63) <= value < 2**63:
            return int(value)
        case float() if math.isfinite(value):
            return float(value)
        case str():
            return clean_text(value)
        case Mapping():
            return {_key(key): _value(item, f"{path}.{key}", levels - 1) for key, item in value.items()}
        case list() | tuple():
            return [_value(item, path, levels - 1) for item in value]
    raise InvalidInputError(
        f"Metadata {path!r} is not JSON-ready ({type(value).__name__}); use strings, booleans, finite numbers of"
        " at most 64 bits, lists and mappings."
    )


def _scope_payload(scope: Scope) -> Payload:
    return {"user_id": scope.user_id, "agent_id": scope.agent_id or "", "session_id": scope.session_id or ""}


def _scope(payload: Payload) -> Scope:
    return Scope(payload["user_id"], payload["agent_id"] or None, payload["session_id"] or None)


def _time(moment: datetime) -> str:
    return as_utc(moment).isoformat()


def _time_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else _time(moment)


def _read_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
