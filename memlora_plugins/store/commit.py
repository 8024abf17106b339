"""One commit: check what it was computed from, then change all of it or nothing.

Where nobody else writes meanwhile (Edge) that is one read and one upsert; on a server, see `steps.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import ConflictError
from ..flows.effects import Flow
from ..types import Fact, Scope, turn_id
from . import signals
from .base import Change, NewSources, Retirement
from .engine import ALL_VECTORS, Engine, Is, Point
from .rows import belongs, fact_payload, of_owner, retirement_payload, same_texts, text_key, with_origins
from .steps import Plan, Steps, finish

if TYPE_CHECKING:
    from ..embedding import Vector


def commit(engine: Engine, scope: Scope, change: Change) -> Flow[None]:
    """Apply `change`; see `FactStore.commit`."""
    if not engine.exclusive:
        yield from finish(engine, (Is("user_id", scope.user_id),), turns=change.done)
    plan = yield from _plan(engine, scope, change)
    if not engine.exclusive:
        yield from Steps(engine, plan).run()
        return
    changed = _after(plan)
    if plan.new or changed:
        yield from engine.upsert([*plan.new, *changed])


def _plan(engine: Engine, scope: Scope, change: Change) -> Flow[Plan]:
    touched = [*(item.id for item in change.retire), *(item.id for item in change.sources), *change.done]
    ids = list(dict.fromkeys([*touched, *(fact.id for fact, _ in change.add)]))
    vectors = ALL_VECTORS if engine.exclusive else ()
    points = yield from engine.retrieve(ids, vectors=vectors)
    plan = Plan(done=tuple(dict.fromkeys(change.done)), before={point.id: point for point in points})
    for id in plan.done:
        _check_pending(plan.before.get(id), id, scope)
    for retirement in change.retire:
        _check_current(plan.before.get(retirement.id), retirement, scope)
    for sources in change.sources:
        _check_current(plan.before.get(sources.id), sources, scope)
    twins = yield from _twins(engine, change, vectors)
    origins = _Origins(scope, change, plan.before)
    same_as: dict[str, str] = {}
    for fact, vector in change.add:
        if fact.id in plan.before:
            plan.known.append(_new_point(fact, vector, origins))
            continue
        key = (fact.scope.without_session(), text_key(fact.text))
        twin = twins.get(key)
        if twin is not None and not fact.retired and twin.id != fact.id:
            same_as[fact.id] = twin.id
            plan.before.setdefault(twin.id, twin)
            plan.sources.setdefault(twin.id, []).extend(origins.pairs(fact.sources))
            continue
        point = _new_point(fact, vector, origins)
        plan.new.append(point)
        plan.before.setdefault(fact.id, point)
        if not fact.retired:
            twins[key] = point
    for item in change.sources:
        plan.sources.setdefault(item.id, []).extend(origins.pairs(item.sources))
    for retirement in change.retire:
        plan.retire[retirement.id] = retirement_payload(retirement, same_as)
    return plan


def _new_point(fact: Fact, vector: Vector | None, origins: _Origins) -> Point:
    return Point(fact.id, fact_payload(fact, origins.of(fact.sources)), signals.fact_vectors(fact, vector))


def _twins(engine: Engine, change: Change, vectors: Sequence[str]) -> Flow[dict[tuple[Scope, str], Point]]:
    """Current facts that say exactly what a new one says, by owner and text; those about to retire do not count."""
    found: dict[tuple[Scope, str], Point] = {}
    retiring = {item.id for item in change.retire}
    current = [fact for fact, _ in change.add if not fact.retired]
    for owner in dict.fromkeys(fact.scope.without_session() for fact in current):
        texts = [fact.text for fact in current if fact.scope.without_session() == owner]
        where = (*of_owner(owner), Is("shelf", "fact"), same_texts(texts))
        points = yield from engine.scroll(where, vectors=vectors)
        for point in sorted(points, key=lambda point: point.id, reverse=True):
            if point.id not in retiring:
                found[owner, point.payload["text_key"]] = point
    return found


class _Origins:
    """Which turn each source is: one of this commit's turns, or as the facts it replaces have it."""

    def __init__(self, scope: Scope, change: Change, before: Mapping[str, Point]) -> None:
        self._scope = scope
        self._done = set(change.done)
        self._old: dict[str, list[str]] = {}
        for item in change.retire:
            for source, turn in before[item.id].payload["origins"]:
                self._old.setdefault(source, []).append(turn)

    def of(self, sources: Iterable[str]) -> dict[str, list[str]]:
        origins: dict[str, list[str]] = {}
        for source in sources:
            turns = list(self._old.get(source, ()))
            own = turn_id(self._scope, source)
            if own in self._done or not turns:
                turns.append(own)
            origins[source] = list(dict.fromkeys(turns))
        return origins

    def pairs(self, sources: Iterable[str]) -> list[list[str]]:
        return [[source, turn] for source, turns in self.of(sources).items() for turn in turns]


def _check_pending(point: Point | None, id: str, scope: Scope) -> None:
    if point is None or point.payload["kind"] != "turn" or not belongs(point.payload, scope):
        raise ConflictError(f"Turn {id} is gone.")
    if point.payload["pending"] != "yes":
        raise ConflictError(f"Turn {id} was distilled meanwhile.")


def _check_current(point: Point | None, item: Retirement | NewSources, scope: Scope) -> None:
    if point is None or point.payload["kind"] != "fact" or not belongs(point.payload, scope):
        raise ConflictError(f"Fact {item.id} is gone.")
    if point.payload["shelf"] != "fact" or point.payload["version"] != item.version:
        raise ConflictError(f"Fact {item.id} changed meanwhile.")


def _after(plan: Plan) -> list[Point]:
    """The changed points, whole. A fact made by this very commit is changed in place."""
    changed: dict[str, Point] = {}
    for id in dict.fromkeys([*plan.sources, *plan.retire, *plan.done]):
        point = plan.before[id]
        payload, vectors = dict(point.payload), point.vectors
        if id in plan.sources:
            payload |= with_origins(payload, plan.sources[id])
        if id in plan.retire:
            payload |= plan.retire[id]
            vectors = {}  # never searched again
        if id in plan.done:
            payload["pending"] = "no"
        changed[id] = Point(id, payload, vectors)
    plan.new[:] = [changed.pop(point.id, point) for point in plan.new]
    return list(changed.values())
