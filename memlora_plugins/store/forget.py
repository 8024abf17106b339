"""What goes and what stays when one conversation is erased."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..flows.effects import Flow
from ..types import Scope
from .base import Payload
from .engine import ALL_VECTORS, Engine, Ids, Point
from .rows import facts_of, turns_of


def erase_session(engine: Engine, scope: Scope) -> Flow[list[str]]:
    """Ids to erase: the session's turns, and facts of any version without a source outside of it.

    The facts that stay have lost those sources, and the erased links of their chains, when this returns.
    """
    turns = yield from engine.scroll(turns_of(scope), fields=("message_id",))
    messages = {point.payload["message_id"] for point in turns}
    gone = {point.id for point in turns}
    facts = yield from engine.scroll(facts_of(scope, retired=True))
    stays: dict[str, list[list[str]]] = {}
    for fact in facts:
        origins = fact.payload["origins"]
        # an unknown turn ("") of an erased message is taken for the erased turn
        stays[fact.id] = [[m, turn] for m, turn in origins if turn not in gone and (turn or m not in messages)]
    erased = {fact.id: fact for fact in facts if fact.payload["origins"] and not stays[fact.id]}
    for fact in facts:
        if fact.id not in erased:
            changed = _without(fact, stays[fact.id], erased)
            if changed:
                yield from _change(engine, fact, changed)
    return [*gone, *erased]


def _without(fact: Point, origins: list[list[str]], erased: Mapping[str, Point]) -> Payload:
    changed: Payload = {}
    if len(origins) < len(fact.payload["origins"]):
        changed["origins"] = origins
        changed["sources"] = list(dict.fromkeys(message for message, _ in origins))
    successor: str | None = fact.payload.get("superseded_by")
    seen: set[str] = set()
    while successor is not None and successor in erased and successor not in seen:
        seen.add(successor)
        successor = erased[successor].payload.get("superseded_by")
    if seen:
        changed["superseded_by"] = None if successor in erased else successor
    return changed


def _change(engine: Engine, fact: Point, changed: Payload) -> Flow[None]:
    if not engine.exclusive:
        revision = fact.payload["revision"] + 1
        yield from engine.set_payload((Ids((fact.id,)),), {**changed, "revision": revision})
        return
    for point in (yield from engine.retrieve([fact.id], vectors=ALL_VECTORS)):
        yield from engine.upsert([replace(point, payload={**point.payload, **changed})])
