"""`FactStore` over any `Engine`: the one place that knows what a memory is made of.

Both stores are this class with an engine each, so they agree by construction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InvalidInputError
from ..flows.effects import Flow
from ..types import Fact, Hit, Kind, Scope, Turn, clean_text
from . import names, ranking, signals
from .base import Change
from .commit import commit
from .engine import DENSE, Between, Either, Engine, Ids, In, Is, Point, Search, Sparse, Vectors, Where, as_id
from .forget import erase_session
from .rows import (
    FORGOTTEN,
    belongs,
    fact_payload,
    facts_of,
    found_by,
    of_user,
    read_fact,
    read_turn,
    said_by,
    same_texts,
    text_key,
    turn_payload,
    turns_of,
)
from .steps import finish

if TYPE_CHECKING:
    from ..embedding import Vector

T = TypeVar("T")

_RANKED_BY = ("kind", "name", "text", "operation", "origins")
"""The fields of a payload that a ranking looks at."""


class PointStore:
    """A `FactStore`; see `store.base` for what each method does."""

    def __init__(self, engine: Engine, how: ranking.Ranking) -> None:
        self._engine = engine
        self._ranking = how
        self._dimension = 0

    def open(self, embedder: str, dimension: int) -> Flow[None]:
        yield from self._engine.prepare(embedder, dimension)
        self._dimension = dimension
        if not self._engine.exclusive:
            yield from self._engine.guard(finish(self._engine, ()))

    def put_turns(self, turns: Sequence[tuple[Turn, Vector | None]]) -> Flow[list[Turn]]:
        return (yield from self._engine.guard(self._put_turns(turns)))

    def commit(self, scope: Scope, change: Change) -> Flow[None]:
        for _, vector in change.add:
            self._check(vector)
        yield from self._engine.guard(commit(self._engine, scope, change))

    def search(
        self,
        scope: Scope,
        text: str,
        vector: Vector | None,
        *,
        limit: int,
        kinds: Sequence[Kind] = ("fact", "turn"),
        without: Collection[str] = (),
    ) -> Flow[list[Hit]]:
        return (yield from self._engine.guard(self._search(scope, text, vector, limit, kinds, without)))

    def neighbours(
        self, scope: Scope, vectors: Sequence[Vector], *, limit: int
    ) -> Flow[list[list[tuple[Fact, float]]]]:
        return (yield from self._engine.guard(self._neighbours(scope, vectors, limit)))

    def same_text(self, scope: Scope, texts: Sequence[str]) -> Flow[list[Fact | None]]:
        where = (*facts_of(scope), same_texts(texts))
        found = yield from self._scroll(where if texts else None)
        facts = {
            point.payload["text_key"]: read_fact(point.id, point.payload) for point in _by_id(found, descending=True)
        }
        return [facts.get(text_key(text)) for text in texts]

    def facts(self, scope: Scope, *, retired: bool = False, limit: int | None = None) -> Flow[list[Fact]]:
        found = yield from self._scroll(facts_of(scope, retired=retired))
        facts = [read_fact(point.id, point.payload) for point in found]
        facts.sort(key=lambda fact: (fact.valid_from, fact.recorded_at, fact.id))
        return facts[:limit]

    def turns(
        self,
        scope: Scope,
        *,
        ids: Sequence[str] | None = None,
        pending: bool | None = None,
        before: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Flow[list[Turn]]:
        state = None if pending is None else "yes" if pending else "no"
        if ids is not None:  # read, not looked for: it is the quickest way to none, as with most that is added
            known = yield from self._engine.guard(self._retrieve(list(dict.fromkeys(ids))))
            found = [
                point
                for point in known
                if point.payload["kind"] == "turn"
                and belongs(point.payload, scope)
                and state in (None, point.payload["pending"])
                and (before is None or point.payload["position"] < before)
            ]
            return _turns(found, newest_first=newest_first)[:limit]
        where: Where = turns_of(scope)
        if state is not None:
            where = (*where, Is("pending", state))
        if before is not None:
            where = (*where, Between("position", under=before))
        order = None if limit is None else "position"
        found = yield from self._scroll(
            None if limit == 0 else where, limit=limit, order=order, descending=newest_first
        )
        return _turns(found, newest_first=newest_first)[:limit]

    def unembedded(self) -> Flow[list[Turn]]:
        found = yield from self._scroll((Is("embedded", "no"),))
        return _turns(found)

    def embed_turns(self, turns: Sequence[tuple[Turn, Vector]]) -> Flow[None]:
        yield from self._engine.guard(self._embed_turns(turns))

    def pending(self) -> Flow[list[Turn]]:
        found = yield from self._scroll((Is("pending", "yes"),))
        return _turns(found)

    def get(self, scope: Scope, id: str) -> Flow[Fact | Turn | None]:
        found = yield from self._engine.guard(self._retrieve([id]))
        for point in found:
            if belongs(point.payload, scope):
                return _read(point)
        return None

    def superseded(self, scope: Scope, ids: Sequence[str]) -> Flow[list[Fact]]:
        where = (*of_user(scope), Is("shelf", "retired"), In("superseded_by", tuple(ids)))
        found = yield from self._scroll(where if ids else None)
        return [read_fact(point.id, point.payload) for point in _by_id(found)]

    def count(self, scope: Scope) -> Flow[dict[str, int]]:
        return (yield from self._engine.guard(self._count(scope)))

    def restore(
        self,
        facts: Sequence[tuple[Fact, Vector | None]],
        turns: Sequence[tuple[Turn, Vector | None]],
    ) -> Flow[int]:
        return (yield from self._engine.guard(self._restore(facts, turns)))

    def erase(self, scope: Scope) -> Flow[int]:
        return (yield from self._engine.guard(self._erase(scope)))

    def forget(self, scope: Scope, ids: Sequence[str]) -> Flow[list[Turn]]:
        return (yield from self._engine.guard(self._forget(scope, ids)))

    def flush(self) -> Flow[None]:
        yield from self._engine.guard(self._engine.flush())

    def describe(self) -> str:
        return self._engine.describe()

    def close(self) -> None:
        self._engine.close()

    async def aclose(self) -> None:
        await self._engine.aclose()

    def _scroll(self, where: Where | None, **options: Any) -> Flow[list[Point]]:
        """`where` None is *nothing*; it still notices a closed store."""

        def flow() -> Flow[list[Point]]:
            if where is None:
                return []
            return (yield from self._engine.scroll(where, **options))

        return (yield from self._engine.guard(flow()))

    def _retrieve(self, ids: Sequence[str], *, fields: Sequence[str] | None = None) -> Flow[list[Point]]:
        return (yield from self._engine.retrieve(ids, fields=fields))

    def _put_turns(self, turns: Sequence[tuple[Turn, Vector | None]]) -> Flow[list[Turn]]:
        wanted = {turn.id: (turn, self._check(vector)) for turn, vector in turns}
        known = yield from self._retrieve(list(wanted), fields=())
        for point in known:
            wanted.pop(point.id, None)
        points = {id: _turn_point(turn, vector) for id, (turn, vector) in wanted.items()}
        conversations: dict[Scope, list[signals.Place]] = {}
        for id, (turn, _) in wanted.items():
            if turn.spoken:
                conversations.setdefault(turn.scope, []).append(signals.Place.stored(points[id]))
        refreshed: dict[str, Vectors] = {}
        for scope, places in conversations.items():
            line = [*places, *(yield from self._around(scope, places))]
            for id, vectors in signals.contexts(line, of=set(points)).items():
                if id in points:
                    points[id] = Point(id, points[id].payload, {**points[id].vectors, **vectors})
                else:
                    refreshed[id] = vectors
        if points:
            yield from self._engine.upsert(list(points.values()), insert_only=True)
        if refreshed:
            yield from self._engine.set_vectors(refreshed)
        return [turn for turn, _ in wanted.values()]

    def _embed_turns(self, turns: Sequence[tuple[Turn, Vector]]) -> Flow[None]:
        there = {point.id for point in (yield from self._retrieve([turn.id for turn, _ in turns], fields=()))}
        for _, vector in turns:
            self._check(vector)
        own = {turn.id: {"text": vector.tolist()} for turn, vector in turns if turn.id in there}
        conversations: dict[Scope, list[signals.Place]] = {}
        for turn, vector in turns:
            if turn.id in own:
                conversations.setdefault(turn.scope, []).append(signals.Place.of(turn, vector))
        vectors: dict[str, Vectors] = dict(own)
        for scope, places in conversations.items():
            near = [place for place in (yield from self._around(scope, places)) if place.id not in own]
            for id, context in signals.contexts([*places, *near], of=set(own)).items():
                vectors[id] = {**own.get(id, {}), **context}
        if vectors:
            yield from self._engine.set_vectors(vectors)
            yield from self._engine.set_payload((Ids(tuple(own)),), {"embedded": "yes"})

    def _around(self, scope: Scope, places: Sequence[signals.Place]) -> Flow[list[signals.Place]]:
        """The stored turns of a conversation that `places` fall between, and as many on each side as contexts reach."""
        positions = [place.order[0] for place in places]
        first, last, reach = min(positions), max(positions), 2 * signals.REACH
        where = said_by(scope)

        def near(*more: Between, limit: int | None = reach, descending: bool = False) -> Flow[list[Point]]:
            order = None if limit is None else "position"
            return (
                yield from self._engine.scroll(
                    (*where, *more), limit=limit, order=order, descending=descending, vectors=("text",)
                )
            )

        found = yield from near(descending=True)
        if any(point.payload["position"] >= first for point in found):  # not at the end, as usual: look on both sides
            before = yield from near(Between("position", under=first), descending=True)
            after = yield from near(Between("position", over=last))
            between = yield from near(Between("position", over=first - 1, under=last + 1), limit=None)
            found = [*before, *between, *after]
        return [signals.Place.stored(point) for point in found]

    def _search(
        self,
        scope: Scope,
        text: str,
        vector: Vector | None,
        limit: int,
        kinds: Sequence[Kind],
        without: Collection[str],
    ) -> Flow[list[Hit]]:
        own = of_user(scope)
        where = found_by(scope) if set(kinds) >= {"fact", "turn"} else (*own, In("shelf", tuple(kinds)))
        if scope.session_id is not None and "turn" in kinds:
            where = (*where, Either((Is("shelf", "fact"), Is("session_id", scope.session_id))))
        self._check(vector)
        asked = self._question(scope, clean_text(text), vector)
        if not asked or not kinds:
            return []
        most = self._ranking.put_up(limit, besides=len(without))
        searches = [Search(name, value, where, most, corpus=own) for name, value in asked.items()]
        lists = yield from self._engine.search(searches)
        fused = ranking.fuse(dict(zip(asked, lists, strict=True)), self._ranking)
        left_out = set(without)
        wanted = ((as_id(id), score) for id, score in fused)
        ranked = list(islice((item for item in wanted if item[0] not in left_out), self._ranking.look_ahead * limit))
        # a whole payload may be long (its images), and few of these are wanted in the end
        looked = yield from self._retrieve([id for id, _ in ranked], fields=_RANKED_BY)
        there = {point.id for point in looked}  # on a server, another may have erased some meanwhile
        ranked = [item for item in ranked if item[0] in there]
        facts = [point for point in looked if point.payload["kind"] == "fact"]
        named = _named(text, looked, facts) if self._ranking.named else ()
        best = ranking.rerank(ranked, _sources(facts), self._ranking, named=named)[:limit]
        points = yield from self._retrieve([id for id, _ in best])
        found = {point.id: point for point in points if belongs(point.payload, scope)}
        return [_read(found[id]).hit(score) for id, score in best if id in found]

    def _question(self, scope: Scope, text: str, vector: Vector | None) -> dict[str, Sequence[float] | Sparse]:
        """What each signal is asked."""
        words = signals.query_words(text, scope)
        asked: dict[str, Sequence[float] | Sparse] = {}
        for name in self._ranking.weights:
            if name in DENSE and vector is not None:
                asked[name] = vector.tolist()
            elif name not in DENSE and words.indices:
                asked[name] = words
        return asked

    def _neighbours(self, scope: Scope, vectors: Sequence[Vector], limit: int) -> Flow[list[list[tuple[Fact, float]]]]:
        if not len(vectors):
            return []
        where = facts_of(scope)
        for vector in vectors:
            self._check(vector)
        found = yield from self._engine.search([Search("text", vector.tolist(), where, limit) for vector in vectors])
        lists = [[(as_id(id), score) for id, score in ranked] for ranked in found]
        points = yield from self._retrieve(list({id for ranked in lists for id, _ in ranked}))
        facts = {point.id: read_fact(point.id, point.payload) for point in points if belongs(point.payload, scope)}
        return [[(facts[id], score) for id, score in ranked if id in facts] for ranked in lists]

    def _count(self, scope: Scope) -> Flow[dict[str, int]]:
        return {
            "facts": (yield from self._engine.count(facts_of(scope))),
            "retired": (yield from self._engine.count((*of_user(scope), Is("shelf", "retired")))),
            "turns": (yield from self._engine.count(turns_of(scope))),
            "pending": (yield from self._engine.count((*turns_of(scope), Is("pending", "yes")))),
        }

    def _restore(
        self,
        facts: Sequence[tuple[Fact, Vector | None]],
        turns: Sequence[tuple[Turn, Vector | None]],
    ) -> Flow[int]:
        new = yield from self._put_turns(turns)
        known = yield from self._retrieve([fact.id for fact, _ in facts], fields=())
        stored = {point.id for point in known}
        points = {}
        for fact, vector in facts:
            if fact.id not in stored:
                origins = yield from self._origins(fact)
                vectors = signals.fact_vectors(fact, self._check(vector))
                points[fact.id] = Point(fact.id, fact_payload(fact, origins), vectors)
        if points:
            yield from self._engine.upsert(list(points.values()), insert_only=True)
        return len(new) + len(points)

    def _origins(self, fact: Fact) -> Flow[dict[str, list[str]]]:
        """The turns that a restored fact's sources are."""
        origins: dict[str, list[str]] = {}
        if fact.sources:
            where = (*of_user(fact.scope), Is("kind", "turn"), In("message_id", fact.sources))
            for point in (yield from self._engine.scroll(where, fields=("message_id",))):
                origins.setdefault(point.payload["message_id"], []).append(point.id)
        return origins

    def _erase(self, scope: Scope) -> Flow[int]:
        if scope.session_id is not None:
            ids = yield from erase_session(self._engine, scope)
        else:
            found = yield from self._engine.scroll(of_user(scope), fields=())
            ids = [point.id for point in found]
        if ids:
            yield from self._engine.erase(ids)
        return len(ids)

    def _forget(self, scope: Scope, ids: Sequence[str]) -> Flow[list[Turn]]:
        named = [point for point in (yield from self._retrieve(list(ids))) if belongs(point.payload, scope)]
        behind = {turn for point in named for _, turn in point.payload.get("origins", ()) if turn}
        wanted = behind | {point.id for point in named if point.payload["kind"] == "turn"}
        turns = yield from self._retrieve(list(wanted))
        person = scope.without_session()  # facts are shared by all sessions
        found = [point for point in turns if point.payload["kind"] == "turn" and belongs(point.payload, person)]
        if found:
            yield from self._engine.set_payload((Ids(tuple(point.id for point in found)),), FORGOTTEN)
        return [read_turn(point.id, {**point.payload, **FORGOTTEN}) for point in found]

    def _check(self, vector: Vector | None) -> Vector | None:
        if vector is not None and vector.shape != (self._dimension,):
            raise InvalidInputError(f"A vector of shape {vector.shape} where ({self._dimension},) is stored; re-embed.")
        return vector


def _turn_point(turn: Turn, vector: Vector | None) -> Point:
    searched = turn.spoken and bool(turn.text.strip())
    vectors = {"text": vector.tolist()} if searched and vector is not None else {}
    return Point(turn.id, turn_payload(turn, embedded=bool(vectors) or not searched), vectors)


def _named(question: str, found: Iterable[Point], facts: Iterable[Point]) -> set[str]:
    """The points of those whom the question names, and those about them."""
    speakers = {point.id: name for point in found if (name := point.payload.get("name"))}
    meant = names.named(question, speakers)
    if not meant.turns:
        return set()
    return {*meant.turns} | {point.id for point in facts if meant.mentioned(point.payload["text"])}


def _sources(facts: Iterable[Point]) -> dict[str, set[str]]:
    """For each fact that says what its turns said, and no more, those turns."""
    return {
        fact.id: {turn for _, turn in fact.payload["origins"] if turn}
        for fact in facts
        if fact.payload["operation"] == "ADD"
    }


def _read(point: Point) -> Fact | Turn:
    read = read_turn if point.payload["kind"] == "turn" else read_fact
    return read(point.id, point.payload)


def _turns(points: Sequence[Point], *, newest_first: bool = False) -> list[Turn]:
    turns = [read_turn(point.id, point.payload) for point in points]
    turns.sort(key=lambda turn: (turn.position, turn.recorded_at, turn.id), reverse=newest_first)
    return turns


def _by_id(points: Sequence[Point], *, descending: bool = False) -> list[Point]:
    return sorted(points, key=lambda point: point.id, reverse=descending)
