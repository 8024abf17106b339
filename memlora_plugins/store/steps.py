"""A commit on a server, where others may write between any two calls. Steps can be taken back, or finished by others.

1. New facts go in with the retirements they stand for (`intent`), marked `unfinished`.
2. Old facts are changed by compare-and-set: filtered by `revision`, then read again to see whose write it was. (New
   provenance of known facts is not taken back: the message did say it.)
3. The turns' pending flags go last, the same way. Whoever clears the flag has won; the turn notes which facts it made.
4. Equal facts made at the same time are reduced to the one with the smallest id, and the marks are taken off.

A writer that loses takes its own steps back. A writer that dies leaves an intent, which the next commit of the same
turn, or a later opening, carries out.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ..errors import ConflictError
from ..flows.effects import Flow
from .base import Payload
from .engine import Engine, Ids, Is, Point, Where
from .rows import RETIRED, with_origins

_ATTEMPTS = 50
"""How often provenance is written again while others write the same fact; a failure means that another got on."""
_ABANDONED_AFTER = timedelta(seconds=60)
"""An unfinished commit older than this has no living writer."""
_FINISHED: Payload = {"unfinished": "no", "intent": None}


@dataclass(slots=True)
class Plan:
    """What is to be written.

    `new` are whole points, `known` such whose id was there already; `retire` are payload fields by fact, `sources`
    pairs of message and turn by fact; `done` turns. `before` are the points as they were read.
    """

    new: list[Point] = field(default_factory=list)
    known: list[Point] = field(default_factory=list)
    retire: dict[str, Payload] = field(default_factory=dict)
    sources: dict[str, list[list[str]]] = field(default_factory=dict)
    done: tuple[str, ...] = ()
    before: dict[str, Point] = field(default_factory=dict)


class Steps:
    """A commit on a server, step by step."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self._engine = engine
        self._plan = plan
        self._token = uuid.uuid4().hex
        self._undo: list[tuple[str, Payload]] = []

    def run(self) -> Flow[None]:
        plan = self._plan
        inserted: dict[str, Any] = {}
        for id in [point.id for point in plan.new if point.id in plan.sources]:
            inserted[id] = plan.sources.pop(id)
        intent = {
            "since": datetime.now(UTC).isoformat(),
            "done": list(plan.done),
            "retire": {id: [plan.before[id].payload["revision"], payload] for id, payload in plan.retire.items()},
        }
        mark = {"writer": self._token, "unfinished": "yes", "intent": intent}
        new = [
            Point(p.id, {**p.payload, **with_origins(p.payload, inserted.get(p.id, ())), **mark}, p.vectors)
            for p in plan.new
        ]
        ids = tuple(point.id for point in new)
        made = [*ids, *(point.id for point in plan.known)]
        if new:
            yield from self._engine.upsert(new, insert_only=True)
        try:
            for id, payload in plan.retire.items():
                yield from self._retire(id, payload)
            for id, pairs in plan.sources.items():
                yield from add_origins(self._engine, id, pairs)
            for id in plan.done:
                yield from self._clear_flag(id, made)
        except ConflictError:
            yield from self._take_back(ids)
            raise
        yield from self._complete([*new, *plan.known])

    def _complete(self, new: Sequence[Point]) -> Flow[None]:
        """The commit stands; put back what a losing writer of the same facts may have taken with it, and tidy up."""
        if not new:
            return
        yield from self._engine.upsert(new, insert_only=True)
        yield from self._engine.set_payload((Ids(tuple(point.id for point in new)),), _FINISHED)
        for point in new:
            if point.payload["shelf"] == "fact":
                yield from _one_of_equals(self._engine, point.payload)

    def _retire(self, id: str, payload: Payload) -> Flow[None]:
        before = self._plan.before[id].payload
        if (yield from compare_and_set(self._engine, id, before["revision"], payload, self._token)):
            self._undo.append((id, {key: before.get(key) for key in payload}))
            return
        now = yield from self._engine.retrieve([id])
        finished_by_another = now and all(now[0].payload.get(key) == payload[key] for key in payload)
        if not finished_by_another:
            raise ConflictError(f"Fact {id} changed meanwhile.")

    def _clear_flag(self, id: str, made: Sequence[str]) -> Flow[None]:
        where = (Ids((id,)), Is("pending", "yes"))
        yield from self._engine.set_payload(where, {"pending": "no", "writer": self._token, "made": list(made)})
        now = yield from self._engine.retrieve([id])
        if not now or now[0].payload.get("writer") != self._token:
            raise ConflictError(f"Turn {id} was distilled meanwhile.")
        self._undo.append((id, {"pending": "yes", "made": []}))

    def _take_back(self, ids: Sequence[str]) -> Flow[None]:
        for id, payload in reversed(self._undo):
            where = (Ids((id,)), Is("writer", self._token))
            revision = self._plan.before[id].payload.get("revision", 0) + 2
            yield from self._engine.set_payload(where, {**payload, "writer": "", "revision": revision})
        turns = yield from self._engine.retrieve(self._plan.done)
        kept = {id for turn in turns for id in turn.payload.get("made") or ()}
        mine = yield from self._engine.scroll((Ids(tuple(ids)), Is("writer", self._token)), fields=())
        gone = [point.id for point in mine if point.id not in kept]
        if gone:
            yield from self._engine.erase(gone)
        left = tuple(id for id in ids if id not in kept)
        if left:  # others build on them by now; what was meant to be retired is not
            yield from self._engine.set_payload((Ids(left),), _FINISHED)


def compare_and_set(engine: Engine, id: str, revision: int, payload: Payload, token: str) -> Flow[bool]:
    """Write `payload` if the point is still at `revision`; tells whether it was."""
    where = (Ids((id,)), Is("revision", revision))
    yield from engine.set_payload(where, {**payload, "revision": revision + 1, "writer": token})
    now = yield from engine.retrieve([id])
    return bool(now) and now[0].payload.get("writer") == token


def add_origins(engine: Engine, id: str, pairs: Sequence[Sequence[str]]) -> Flow[None]:
    """Add provenance to a fact, whoever else is writing to it.

    Raises:
        ConflictError: the fact is gone, or others kept writing.
    """
    for _ in range(_ATTEMPTS):
        now = yield from engine.retrieve([id])
        if not now:
            raise ConflictError(f"Fact {id} is gone.")
        payload = now[0].payload
        wanted = with_origins(payload, pairs)
        if wanted["origins"] == payload["origins"]:
            return
        if (yield from compare_and_set(engine, id, payload["revision"], wanted, uuid.uuid4().hex)):
            return
    raise ConflictError(f"Fact {id} is being written by many at once.")


def finish(engine: Engine, where: Where, *, turns: Sequence[str] | None = None) -> Flow[None]:
    """Carry out what dead writers left: of these turns, or, with None, whatever is old enough to be abandoned."""
    now = datetime.now(UTC)
    for point in (yield from engine.scroll((*where, Is("unfinished", "yes")))):
        intent: Mapping[str, Any] = point.payload["intent"]
        old = now - datetime.fromisoformat(intent["since"]) > _ABANDONED_AFTER
        if old if turns is None else set(turns) & set(intent["done"]):
            for id, (revision, payload) in intent["retire"].items():
                yield from compare_and_set(engine, id, revision, payload, point.payload["writer"])
            yield from engine.set_payload((Ids((point.id,)),), _FINISHED)
            if point.payload["shelf"] == "fact":
                yield from _one_of_equals(engine, point.payload)


def _one_of_equals(engine: Engine, payload: Payload) -> Flow[None]:
    """Of current facts that say exactly the same, all but the one with the smallest id are retired in its favour."""
    keys = ("user_id", "agent_id", "text_key")
    where = (*(Is(key, payload[key]) for key in keys), Is("shelf", "fact"))
    equals = yield from engine.scroll(where)
    if len(equals) < 2:
        return
    winner, *losers = sorted(equals, key=lambda point: point.id)
    for loser in losers:
        retired = {
            **RETIRED,
            "retired_at": datetime.now(UTC).isoformat(),
            "retired_by": "NONE",
            "superseded_by": winner.id,
        }
        try:  # first, and with a new `writer`: from then on nobody takes the winner back
            yield from add_origins(engine, winner.id, loser.payload["origins"])
        except ConflictError:  # it was taken back just now; whoever is next to write this text looks again
            return
        yield from compare_and_set(engine, loser.id, loser.payload["revision"], retired, uuid.uuid4().hex)
