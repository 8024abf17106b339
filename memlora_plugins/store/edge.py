"""Facts and turns in an embedded Qdrant Edge shard: a folder, no server. The default."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import qdrant_edge as q

from ..errors import ClosedError, ForkedError, StoreError
from ..flows.effects import CALLS_ONLY, Call, Effect, Flow, drive
from .engine import (
    DENSE,
    KEYWORDS,
    NUMBERS,
    SPARSE,
    TENANT,
    Between,
    Condition,
    Either,
    Ids,
    In,
    Is,
    Point,
    Ranked,
    Search,
    Sparse,
    Vectors,
    Where,
    check_made,
    described,
    direct,
    valid_ids,
)
from .folder import Folder, unavailable
from .points import PointStore
from .ranking import DEFAULT, Ranking
from .turnstile import Turnstile

logger = logging.getLogger(__name__)
T = TypeVar("T")

_FLUSH_EVERY = 500
"""Writes between flushes: a kill loses nothing either way (the log is replayed), a short log opens faster."""
_PAGE = 1000
_FILLER = 17 << 20
"""Bytes: two fill a file of the log."""
_FILLERS = 12


class EdgeFactStore(PointStore):
    """A `FactStore` in the folder `path`, made if need be.

    One process holds the folder at a time; stores of the same folder in one process share it, and the last one to
    close releases it. Safe to call from many threads. `ranking` is how this one searches; others of the folder may
    search otherwise.

    Raises (open):
        StoreLockedError: another process holds the folder. StoreUnavailableError: it cannot be made or written.
        EmbedderMismatchError: it was made with another embedder. StoreError: it was made by another version.
    """

    def __init__(self, path: str | os.PathLike[str], *, ranking: Ranking = DEFAULT) -> None:
        self.path = Path(path)
        super().__init__(_EdgeEngine(self.path), ranking)

    def compact(self) -> Flow[None]:
        """Rebuild the files without what was replaced or deleted. Nothing else runs meanwhile."""
        yield from self._engine.erase([])


class _Shard:
    """One open folder. All use of the shard happens under `lock`: Edge calls hold the GIL anyway."""

    def __init__(self, path: Path, embedder: str, dimension: int) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.users = 0
        self.path = path
        self.unfinished: list[str] = []
        self._writes = 0
        self._folder = Folder(path)
        try:
            self.check(embedder, dimension)
            self.edge = self._load(dimension)
            if self._folder.read("memlora.json") is None:
                self._folder.write("memlora.json", described(embedder, dimension))
            unfinished = self._folder.read("erasing.json")
            if unfinished is not None:
                logger.info("finishing an erase of %d points that was interrupted", len(unfinished["ids"]))
                self.erase(unfinished["ids"])
        except BaseException:
            self._folder.release()
            raise

    def check(self, embedder: str, dimension: int) -> None:
        """Raise unless the folder was made with this embedder."""
        made = self._folder.read("memlora.json")
        if made is not None:
            check_made(f"The memory folder {self.path}", made, embedder, dimension)

    def update(self, operation: q.UpdateOperation) -> None:
        self._try(lambda: self.edge.update(operation))
        self._writes += 1
        if self._writes >= _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        self._writes = 0
        self._try(self.edge.flush)

    def erase(self, ids: Sequence[str]) -> None:
        """Remove points so that no file of the folder holds a trace of them.

        A deleted text stays in the segment's files until the segment is rebuilt, and in the log until its files are
        dropped. The ids are noted first: an erase that dies on the way is finished when the folder is opened next.
        """
        self.unfinished = list(ids)
        self._folder.write("erasing.json", {"ids": self.unfinished})
        self.update(q.UpdateOperation.delete_points(list(ids)))
        self.flush()
        self._try(self.edge.optimize)
        self.flush()
        self._renew_log()
        self._folder.remove("erasing.json")
        self.unfinished = []

    def _renew_log(self) -> None:
        """Write to the log, to no effect, until the files it has now are gone.

        Removing the files would be simpler and wrong: the log would count its entries from the start again, and a point
        ignores every change whose number is below that of its last one.
        """
        log = self.path / "points" / "wal"
        opened = sorted(log.glob("open-*"), key=lambda path: int(path.name.partition("-")[2]))
        old = [os.open(path, os.O_RDONLY) for path in [*log.glob("closed-*"), *opened[:1]]]
        nobody = q.Filter(must=[q.HasIdCondition({uuid.uuid4()})])
        filler = q.UpdateOperation.set_payload_by_filter(nobody, {"filler": " " * _FILLER})
        try:
            for _ in range(_FILLERS):
                if not any(os.fstat(file).st_nlink for file in old):
                    return
                self.update(filler)
                self.flush()
        finally:
            for file in old:
                os.close(file)
        raise StoreError(f"The log in {log} still holds erased text; the next call tries again.")

    def close(self) -> None:
        """Flush and let go of the folder."""
        try:
            self.flush()
            self._try(self.edge.close)
        finally:
            self._folder.release()

    def _load(self, dimension: int) -> q.EdgeShard:
        path = self.path / "points"
        if (path / "edge_config.json").exists():
            return self._try(lambda: q.EdgeShard.load(str(path)))
        if path.exists():  # died while it was being made: nothing was ever acknowledged from it
            shutil.rmtree(path)
        draft = self.path / "points.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        edge = self._try(lambda: q.EdgeShard.create(str(draft), _config(dimension)))
        for name, schema in _indexes().items():
            self._try(partial(edge.update, q.UpdateOperation.create_field_index(name, schema)))
        self._try(edge.flush)
        self._try(edge.close)
        draft.rename(path)
        return self._try(lambda: q.EdgeShard.load(str(path)))

    def _try(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (ValueError, TypeError):
            raise
        except Exception as error:
            raise unavailable(self.path, error) from error


_shards: dict[str, _Shard] = {}
_inherited: list[_Shard] = []
_shards_lock = threading.Lock()


def _after_fork_in_child() -> None:
    """The parent's shards are not ours. They are kept alive all the same: letting one go would touch its files."""
    global _shards_lock
    _shards_lock = threading.Lock()
    _inherited.extend(_shards.values())
    _shards.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _acquire(path: Path, embedder: str, dimension: int) -> _Shard:
    key = os.path.realpath(path)
    with _shards_lock:
        shard = _shards.get(key)
        if shard is None:
            shard = _shards[key] = _Shard(Path(key), embedder, dimension)
        else:
            with shard.lock:
                shard.check(embedder, dimension)
        shard.users += 1
        return shard


def _release(shard: _Shard) -> None:
    with _shards_lock:
        shard.users -= 1
        if shard.users == 0:
            _shards.pop(str(shard.path), None)
            with shard.lock:
                shard.close()


class _EdgeEngine:
    """`Engine` over a shared `_Shard`."""

    exclusive = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self._shard: _Shard | None = None
        self._closed = False
        self._turnstile = Turnstile()

    def guard(self, flow: Flow[T]) -> Flow[T]:
        return (yield from Call(lambda: self._run(flow), lambda: self._turnstile.act(lambda: self._run(flow))))

    def _run(self, flow: Flow[T]) -> T:
        self._check_process()
        shard = self._shard
        if self._closed:
            raise ClosedError(f"The store at {self._path} is closed; open a new one.")
        if shard is None:
            raise StoreError(f"The store at {self._path} is not open yet; call open(embedder, dimension) first.")
        with shard.lock:
            if self._closed:
                raise ClosedError(f"The store at {self._path} is closed; open a new one.")
            if shard.unfinished:  # an erase failed half-way; what is written now must not fall to its repetition
                shard.erase(shard.unfinished)
            return drive(flow, CALLS_ONLY)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                f"The store at {self._path} was opened before fork(); open a store of your own in the child."
            )

    def prepare(self, embedder: str, dimension: int) -> Flow[None]:
        def acquire() -> None:
            self._check_process()
            if self._closed:
                raise ClosedError(f"The store at {self._path} is closed; open a new one.")
            if self._shard is None:
                self._shard = _acquire(self._path, embedder, dimension)
            else:
                with self._shard.lock:
                    self._shard.check(embedder, dimension)

        yield from direct(acquire)

    @property
    def _edge(self) -> q.EdgeShard:
        return self._open.edge

    @property
    def _open(self) -> _Shard:
        assert self._shard is not None, "guard() has checked"
        return self._shard

    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> Effect[list[Point]]:
        def action() -> list[Point]:
            if not ids:
                return []
            records = self._edge.retrieve(
                [*valid_ids(ids)], with_payload=_payload(fields), with_vector=list(vectors) or False
            )
            return [_point(record) for record in records]

        return direct(action)

    def scroll(
        self,
        where: Where,
        *,
        limit: int | None = None,
        order: str | None = None,
        descending: bool = False,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> Effect[list[Point]]:
        direction = q.Direction.Desc if descending else q.Direction.Asc

        def action() -> list[Point]:
            found: list[Point] = []
            offset: Any = None
            while True:
                records, offset = self._edge.scroll(
                    q.ScrollRequest(
                        offset=offset,
                        limit=_PAGE if limit is None else limit,
                        filter=_filter(where),
                        with_payload=_payload(fields),
                        with_vector=list(vectors) or False,
                        order_by=q.OrderBy(order, direction) if order else None,
                    )
                )
                found += [_point(record) for record in records]
                if offset is None or limit is not None:
                    return found

        return direct(action)

    def search(self, searches: Sequence[Search]) -> Effect[list[Ranked]]:
        def action() -> list[Ranked]:
            filters: dict[Where, q.Filter] = {}
            lists = [self._edge.query(_query(search, filters)) for search in searches]
            return [[(cast(uuid.UUID, point.id).int, point.score) for point in found] for found in lists]

        return direct(action)

    def count(self, where: Where) -> Effect[int]:
        return direct(lambda: self._edge.count(q.CountRequest(exact=True, filter=_filter(where))))

    def upsert(self, points: Sequence[Point], *, insert_only: bool = False) -> Effect[None]:
        # a guarded flow has looked up what exists, so insert_only needs no second check
        rows = [q.Point(point.id, _vectors(point.vectors), point.payload) for point in points]
        return direct(lambda: self._open.update(q.UpdateOperation.upsert_points(rows)))

    def set_payload(self, where: Where, payload: Mapping[str, Any]) -> Effect[None]:
        return direct(lambda: self._open.update(q.UpdateOperation.set_payload_by_filter(_filter(where), dict(payload))))

    def set_vectors(self, vectors: Mapping[str, Vectors]) -> Effect[None]:
        rows = [q.PointVectors(id, _vectors(named)) for id, named in vectors.items()]
        return direct(lambda: self._open.update(q.UpdateOperation.update_vectors(rows)))

    def erase(self, ids: Sequence[str]) -> Flow[None]:
        yield from direct(lambda: self._open.erase(ids))

    def flush(self) -> Flow[None]:
        yield from direct(lambda: self._open.flush())

    def describe(self) -> str:
        return f"Qdrant Edge in {self._path}"

    def close(self) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        shard, self._shard = self._shard, None
        if shard is not None:
            _release(shard)

    async def aclose(self) -> None:
        self.close()


def _config(dimension: int) -> q.EdgeConfig:
    # a person's memory is searched exactly; a graph over everybody's would cost minutes and find no more
    exact = q.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=10_000)
    return q.EdgeConfig(
        vectors={name: q.EdgeVectorParams(dimension, q.Distance.Cosine, hnsw_config=exact) for name in DENSE},
        sparse_vectors={name: q.EdgeSparseVectorParams(modifier=q.Modifier.Idf) for name in SPARSE},
        hnsw_config=exact,
        optimizers=q.EdgeOptimizersConfig(deleted_threshold=1e-9, vacuum_min_vector_number=1, default_segment_number=1),
        wal_enabled=True,
    )


def _indexes() -> dict[str, Any]:
    return {
        TENANT: q.KeywordIndexParams(is_tenant=True),
        **{name: q.KeywordIndexParams() for name in KEYWORDS},
        **{name: q.IntegerIndexParams(lookup=False, range=True) for name in NUMBERS},
    }


def _filter(where: Where) -> q.Filter:
    return q.Filter(must=[_condition(condition) for condition in where])


def _condition(condition: Condition) -> Any:
    match condition:
        case Is(key, value):
            return q.FieldCondition(key, match=q.MatchValue(value))
        case In(key, values):
            return q.FieldCondition(key, match=q.MatchAny(list(values)))
        case Between(key, over, under):
            return q.FieldCondition(key, range=q.RangeFloat(gt=over, lt=under))
        case Ids(ids):
            return q.HasIdCondition(set(valid_ids(ids)))
        case Either(conditions):
            return q.Filter(should=[_condition(one) for one in conditions])


def _query(search: Search, filters: dict[Where, q.Filter]) -> q.QueryRequest:
    """`filters` keeps those that were made, for the next search."""
    words = isinstance(search.vector, Sparse)
    for where in (search.where, search.corpus):
        if where not in filters:
            filters[where] = _filter(where)
    return q.QueryRequest(
        limit=search.limit,
        query=q.Query.Nearest(_vector(search.vector), using=search.using),
        filter=filters[search.where],
        with_payload=False,
        params=q.SearchParams(idf=q.IdfParams(corpus=filters[search.corpus])) if words else None,
    )


def _payload(fields: Sequence[str] | None) -> Any:
    """What selects these fields of a payload; None: all of it."""
    return q.PayloadSelector.Include(list(fields)) if fields else fields is None


def _point(record: q.Record) -> Point:
    named = record.vector
    found = named if isinstance(named, dict) else {}
    vectors: dict[str, Any] = {
        name: Sparse(tuple(v.indices), tuple(v.values)) if isinstance(v, q.SparseVector) else v
        for name, v in found.items()
    }
    return Point(str(record.id), record.payload or {}, vectors)


def _vectors(vectors: Vectors) -> dict[str, Any]:
    return {name: _vector(vector) for name, vector in vectors.items()}


def _vector(vector: Sequence[float] | Sparse) -> Any:
    return q.SparseVector(list(vector.indices), list(vector.values)) if isinstance(vector, Sparse) else list(vector)
