"""Facts and turns on a Qdrant server or cluster: the path past one machine, with many processes on one memory."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import httpx
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from ..addresses import checked_address
from ..errors import ClosedError, ForkedError, StoreError, StoreUnavailableError
from ..flows.effects import Call, Flow
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
    valid_ids,
)
from .points import PointStore
from .ranking import DEFAULT, Ranking

T = TypeVar("T")

_PAGE = 500
_STRONG = models.WriteOrdering.STRONG
_METADATA = "memlora"


class QdrantFactStore(PointStore):
    """A `FactStore` in one collection of a Qdrant server, made if need be. Safe to call from many threads and tasks.

    `client` and `aclient` replace the ones made from `url` and `api_key`; the caller closes what the caller made.
    `client` alone means one that lives in this process (`QdrantClient(":memory:")`, for tests): async calls use it too,
    and calls take turns. `timeout` is in seconds, per call. `ranking` is how this one searches; others of the
    collection may search otherwise.

    Raises:
        SettingsError: `url` is no http(s) address, or carries a password.
    Raises (open):
        StoreUnavailableError: the server cannot be reached or refuses the API key.
        EmbedderMismatchError: the collection was made with another embedder.
        StoreError: a collection of this name is somebody else's.
    """

    def __init__(
        self,
        *,
        url: str = "http://127.0.0.1:6333",
        api_key: str | None = None,
        collection: str = "memlora",
        timeout: int = 30,
        client: QdrantClient | None = None,
        aclient: AsyncQdrantClient | None = None,
        ranking: Ranking = DEFAULT,
    ) -> None:
        self.collection = collection
        if client is None:
            checked_address("url", url, key="api_key")
        super().__init__(_ServerEngine(_Clients(url, api_key, timeout, client, aclient), collection), ranking)


class _Clients:
    """The sync client, and one async client per event loop (its connections belong to the loop)."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        timeout: int,
        client: QdrantClient | None,
        aclient: AsyncQdrantClient | None,
    ) -> None:
        self.in_process = client is not None and aclient is None
        self.where = "in this process" if self.in_process else url
        self._options: dict[str, Any] = {
            "url": url,
            "api_key": api_key,
            "timeout": timeout,
            "check_compatibility": False,
        }
        self._given = client
        self._agiven = aclient
        self._made: QdrantClient | None = None
        self._amade: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncQdrantClient] = WeakKeyDictionary()
        self._making = threading.Lock()
        self.turn: AbstractContextManager[Any] = threading.RLock() if self.in_process else nullcontext()

    def sync(self) -> QdrantClient:
        if self._given is not None:
            return self._given
        with self._making:
            if self._made is None:
                self._made = QdrantClient(**self._options)
            return self._made

    def asynchronous(self) -> AsyncQdrantClient:
        if self._agiven is not None:
            return self._agiven
        loop = asyncio.get_running_loop()
        with self._making:
            if loop not in self._amade:
                self._amade[loop] = AsyncQdrantClient(**self._options)
            return self._amade[loop]

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    async def aclose(self) -> None:
        self.close()
        mine = self._amade.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.close()


class _ServerEngine:
    """`Engine` over a collection."""

    exclusive = False

    def __init__(self, clients: _Clients, collection: str) -> None:
        self._clients = clients
        self._collection = collection
        self._pid = os.getpid()
        self._open = False
        self._closed = False

    def guard(self, flow: Flow[T]) -> Flow[T]:
        self._check()
        if not self._open:
            raise StoreError(f"{self.describe()} is not open yet; call open(embedder, dimension) first.")
        return (yield from flow)

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(f"{self.describe()} was opened before fork(); open a store of your own in the child.")
        if self._closed:
            raise ClosedError(f"{self.describe()} is closed; open a new one.")

    def prepare(self, embedder: str, dimension: int) -> Flow[None]:
        self._check()
        made = yield from self._metadata()
        if made is None:
            yield from self._create(embedder, dimension)
            made = yield from self._metadata()
        made = (made or {}).get(_METADATA)
        if made is None:
            raise StoreError(
                f"The collection {self._collection!r} at {self._clients.where} was not made by memlora, or the server"
                " is too old to keep collection metadata. Pass another collection name, or update the server."
            )
        check_made(f"The collection {self._collection!r}", made, embedder, dimension)
        self._open = True

    def _metadata(self) -> Flow[dict[str, Any] | None]:
        """The collection's metadata; None if there is no such collection."""
        if not (yield from self._call("collection_exists", bool)):
            return None
        return (yield from self._call("get_collection", lambda info: info.config.metadata or {}))

    def _create(self, embedder: str, dimension: int) -> Flow[None]:
        try:
            yield from self._call(
                "create_collection",
                bool,
                vectors_config={
                    name: models.VectorParams(size=dimension, distance=models.Distance.COSINE) for name in DENSE
                },
                sparse_vectors_config={
                    name: models.SparseVectorParams(modifier=models.Modifier.IDF) for name in SPARSE
                },
                hnsw_config=models.HnswConfigDiff(m=0, payload_m=16),  # a graph per person, none over everybody's
                metadata={_METADATA: described(embedder, dimension)},
            )
        except StoreError as error:
            made_by_another = isinstance(error.__cause__, UnexpectedResponse) and error.__cause__.status_code == 409
            if not made_by_another:
                raise
        if self._clients.in_process:  # has no indexes, and warns
            return
        keyword, integer = models.KeywordIndexParams, models.IntegerIndexParams
        schemas: dict[str, Any] = {TENANT: keyword(type=models.KeywordIndexType.KEYWORD, is_tenant=True)}
        schemas |= {name: keyword(type=models.KeywordIndexType.KEYWORD) for name in KEYWORDS}
        schemas |= {name: integer(type=models.IntegerIndexType.INTEGER, lookup=False, range=True) for name in NUMBERS}
        for name, schema in schemas.items():
            yield from self._call("create_payload_index", bool, field_name=name, field_schema=schema)

    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None = None, vectors: Sequence[str] = ()
    ) -> Flow[list[Point]]:
        wanted = valid_ids(ids)
        if not wanted:
            return []
        return (
            yield from self._call(
                "retrieve",
                _points,
                ids=wanted,
                with_payload=list(fields) if fields else fields is None,
                with_vectors=list(vectors),
                consistency=models.ReadConsistencyType.MAJORITY,
            )
        )

    def scroll(
        self,
        where: Where,
        *,
        limit: int | None = None,
        order: str | None = None,
        descending: bool = False,
        fields: Sequence[str] | None = None,
        vectors: Sequence[str] = (),
    ) -> Flow[list[Point]]:
        direction = models.Direction.DESC if descending else models.Direction.ASC
        found: list[Point] = []
        offset: Any = None
        while True:
            points, offset = yield from self._call(
                "scroll",
                lambda page: (_points(page[0]), page[1]),
                scroll_filter=_filter(where),
                limit=_PAGE if limit is None else limit,
                offset=offset,
                order_by=models.OrderBy(key=order, direction=direction) if order else None,
                with_payload=list(fields) if fields else fields is None,
                with_vectors=list(vectors),
            )
            found += points
            if offset is None or limit is not None:
                return found

    def search(self, searches: Sequence[Search]) -> Flow[list[Ranked]]:
        return (
            yield from self._call(
                "query_batch_points",
                lambda batch: [[(uuid.UUID(str(p.id)).int, p.score) for p in response.points] for response in batch],
                requests=[_query(search) for search in searches],
            )
        )

    def count(self, where: Where) -> Flow[int]:
        return (yield from self._call("count", lambda found: int(found.count), count_filter=_filter(where), exact=True))

    def upsert(self, points: Sequence[Point], *, insert_only: bool = False) -> Flow[None]:
        mode = models.UpdateMode.INSERT_ONLY if insert_only else models.UpdateMode.UPSERT
        rows = [models.PointStruct(id=p.id, vector=_vectors(p.vectors), payload=p.payload) for p in points]
        for start in range(0, len(rows), _PAGE):
            yield from self._write("upsert", points=rows[start : start + _PAGE], update_mode=mode)

    def set_payload(self, where: Where, payload: Mapping[str, Any]) -> Flow[None]:
        yield from self._write("set_payload", payload=dict(payload), points=_filter(where))

    def set_vectors(self, vectors: Mapping[str, Vectors]) -> Flow[None]:
        rows = [models.PointVectors(id=id, vector=_vectors(named)) for id, named in vectors.items()]
        yield from self._write("update_vectors", points=rows)

    def erase(self, ids: Sequence[str]) -> Flow[None]:
        """The server's optimizer drops the bytes when it rebuilds the segment; snapshots keep what they hold."""
        for start in range(0, len(ids), _PAGE):
            yield from self._write("delete", points_selector=models.PointIdsList(points=[*ids[start : start + _PAGE]]))

    def flush(self) -> Flow[None]:
        """Nothing to do: every write has waited for the server."""
        yield from ()

    def describe(self) -> str:
        return f"Qdrant collection {self._collection!r} at {self._clients.where}"

    def close(self) -> None:
        if not self._closed and os.getpid() == self._pid:
            self._closed = True
            self._clients.close()

    async def aclose(self) -> None:
        if not self._closed and os.getpid() == self._pid:
            self._closed = True
            await self._clients.aclose()

    def _write(self, method: str, **arguments: Any) -> Flow[None]:
        yield from self._call(method, lambda _: None, wait=True, ordering=_STRONG, **arguments)

    def _call(self, method: str, read: Callable[[Any], T], **arguments: Any) -> Call[T]:
        """The effect of calling `method` of the client."""
        clients, collection = self._clients, self._collection

        def sync() -> T:
            try:
                with clients.turn:
                    return read(getattr(clients.sync(), method)(collection, **arguments))
            except (ApiException, httpx.HTTPError, OSError) as error:
                raise self._typed(error) from error

        async def asynchronous() -> T:
            if clients.in_process:
                return sync()
            try:
                answer: Awaitable[Any] = getattr(clients.asynchronous(), method)(collection, **arguments)
                return read(await answer)
            except (ApiException, httpx.HTTPError, OSError) as error:
                raise self._typed(error) from error

        return Call(sync, asynchronous)

    def _typed(self, error: Exception) -> StoreError:
        status = error.status_code if isinstance(error, UnexpectedResponse) else None
        at = f"The Qdrant server at {self._clients.where}"
        if status in (401, 403):
            return StoreUnavailableError(f"{at} refuses the API key ({status}); pass a valid `api_key`.")
        if status is None or status >= 500:
            return StoreUnavailableError(
                f"{at} cannot be used ({error}). Check that it runs and that the URL is right."
            )
        return StoreError(f"{at} refused a request ({error}).")


def _filter(where: Where) -> models.Filter:
    return models.Filter(must=[_condition(condition) for condition in where])


def _condition(condition: Condition) -> models.Condition:
    match condition:
        case Is(key, value):
            return models.FieldCondition(key=key, match=models.MatchValue(value=value))
        case In(key, values):
            return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))
        case Between(key, over, under):
            return models.FieldCondition(key=key, range=models.Range(gt=over, lt=under))
        case Ids(ids):
            return models.HasIdCondition(has_id=[*valid_ids(ids)])
        case Either(conditions):
            return models.Filter(should=[_condition(one) for one in conditions])


def _query(search: Search) -> models.QueryRequest:
    words = isinstance(search.vector, Sparse)
    return models.QueryRequest(
        query=_vector(search.vector),
        using=search.using,
        filter=_filter(search.where),
        limit=search.limit,
        with_payload=False,
        params=models.SearchParams(idf=models.IdfCorpusParams(corpus=_filter(search.corpus))) if words else None,
    )


def _points(records: Sequence[models.Record]) -> list[Point]:
    return [_point(record) for record in records]


def _point(record: models.Record) -> Point:
    vectors: dict[str, Any] = {}
    if isinstance(record.vector, dict):
        for name, vector in record.vector.items():
            if isinstance(vector, models.SparseVector):
                vectors[name] = Sparse(tuple(vector.indices), tuple(vector.values))
            else:
                vectors[name] = vector
    return Point(str(record.id), record.payload or {}, vectors)


def _vectors(vectors: Vectors) -> dict[str, Any]:
    return {name: _vector(vector) for name, vector in vectors.items()}


def _vector(vector: Sequence[float] | Sparse) -> Any:
    if isinstance(vector, Sparse):
        return models.SparseVector(indices=list(vector.indices), values=list(vector.values))
    return list(vector)
