"""Turns, facts and vectors for store tests, and a driver for a store's flows."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from memlora_plugins.flows.effects import Flow, adrive, drive
from memlora_plugins.store.base import Change, FactStore, Retirement
from memlora_plugins.types import Fact, Role, Scope, Turn, fact_id, turn_id

if TYPE_CHECKING:
    from memlora_plugins.embedding import Vector

T = TypeVar("T")

DIMENSION = 16
EMBEDDER = "words-of-16"
START = datetime(2024, 3, 1, 12, tzinfo=UTC)
ANA = Scope("ana", None, "monday")


class _NoIO:
    """Stores ask neither a model nor an embedder."""

    backend: Any = None
    embedder: Any = None


def run(flow: Flow[T]) -> T:
    """The result of a store's flow, synchronously."""
    return drive(flow, _NoIO())


async def arun(flow: Flow[T]) -> T:
    """The result of a store's flow, asynchronously."""
    return await adrive(flow, _NoIO())


def vector(text: str) -> Vector:
    """A unit vector: texts with words in common are close."""
    total = np.full(DIMENSION, 0.01, np.float32)
    for word in text.lower().split():
        seed = int.from_bytes(hashlib.sha256(word.strip(".,!?").encode("utf-8", "replace")).digest()[:4], "big")
        total += np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    return np.asarray(total / np.linalg.norm(total), np.float32)


def turn(
    text: str,
    *,
    scope: Scope = ANA,
    id: str | None = None,
    at: int = 0,
    role: Role = "user",
    pending: bool = True,
    **more: Any,
) -> Turn:
    """A turn said `at` seconds after the start; its message id is `id`, by default its text."""
    message = id or text
    moment = START + timedelta(seconds=at)
    return Turn(
        id=turn_id(scope, message),
        scope=scope,
        message_id=message,
        role=role,
        text=text,
        created_at=moment,
        recorded_at=moment,
        position=int(moment.timestamp() * 1_000_000),
        pending=pending,
        **more,
    )


def fact(text: str, *turns: Turn, scope: Scope | None = None, **more: Any) -> Fact:
    """A fact from `turns`, in their scope."""
    first = turns[0] if turns else None
    owner = scope or (first.scope if first else ANA)
    moment = first.created_at if first else START
    values: dict[str, Any] = {
        "id": fact_id(first.id if first else f"{owner}", text),
        "scope": owner.without_session(),
        "text": text,
        "sources": tuple(turn.message_id for turn in turns),
        "valid_from": moment,
        "recorded_at": moment,
    }
    return Fact(**(values | more))


def put(store: FactStore, *turns: Turn) -> list[Turn]:
    """Write turns with their vectors."""
    return run(store.put_turns([(turn, vector(turn.text)) for turn in turns]))


def distil(store: FactStore, turn: Turn, *texts: str) -> list[Fact]:
    """Write `turn` and commit facts of it; the turn is pending no more."""
    put(store, turn)
    facts = [fact(text, turn) for text in texts]
    run(store.commit(turn.scope, Change(add=tuple((f, vector(f.text)) for f in facts), done=(turn.id,))))
    return facts


def retirement(old: Fact, by: Fact | None = None, *, at: int = 100) -> Retirement:
    """Retires `old` in favour of `by`."""
    moment = START + timedelta(seconds=at)
    return Retirement(
        id=old.id,
        version=old.version,
        retired_by="UPDATE" if by else "DELETE",
        retired_at=moment,
        valid_to=moment,
        superseded_by=by.id if by else None,
    )


def replace_fact(store: FactStore, old: Fact, text: str, turn: Turn) -> Fact:
    """Write `turn` and commit that it replaces `old` by `text`."""
    put(store, turn)
    new = fact(text, turn, version=old.version + 1, operation="UPDATE")
    change = Change(add=((new, vector(text)),), retire=(retirement(old, new),), done=(turn.id,))
    run(store.commit(turn.scope, change))
    return new
