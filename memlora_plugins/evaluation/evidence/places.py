"""Empty stores to measure in, which are gone afterwards; one memory can be opened with many rankings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

from ...errors import StoreUnavailableError
from ...store.ranking import Ranking

if TYPE_CHECKING:
    from ...store.base import FactStore

Opener = Callable[[Ranking], "FactStore"]
"""Opens one and the same memory, as often as is wanted, to search it with some ranking."""
Place = Callable[[], AbstractContextManager[Opener]]
"""Makes an empty memory, which is gone when the context is left."""


@contextmanager
def edge() -> Iterator[Opener]:
    """An embedded store in a temporary folder."""
    from ...store.edge import EdgeFactStore

    with TemporaryDirectory(prefix="memlora-eval-") as folder:
        yield lambda ranking: EdgeFactStore(Path(folder) / "store", ranking=ranking)


@contextmanager
def qdrant_in_process() -> Iterator[Opener]:
    """The `QdrantFactStore` over qdrant-client's own implementation in Python: slow, and without a server."""
    from qdrant_client import QdrantClient

    from ...store.qdrant import QdrantFactStore

    client = QdrantClient(":memory:")
    try:
        yield lambda ranking: QdrantFactStore(client=client, ranking=ranking)
    finally:
        client.close()


@contextmanager
def qdrant_server(url: str, api_key: str | None = None) -> Iterator[Opener]:
    """A collection of its own on a server.

    Raises:
        StoreUnavailableError: it could not be removed.
    """
    from ...store.qdrant import QdrantFactStore

    collection = f"memlora-eval-{uuid4().hex}"
    try:
        yield lambda ranking: QdrantFactStore(url=url, api_key=api_key, collection=collection, ranking=ranking)
    except BaseException:
        with suppress(StoreUnavailableError):  # what went wrong before is what to tell
            _remove(url, api_key, collection)
        raise
    _remove(url, api_key, collection)


def _remove(url: str, api_key: str | None, collection: str) -> None:
    import httpx
    from qdrant_client import QdrantClient
    from qdrant_client.http.exceptions import ApiException

    client = QdrantClient(url, api_key=api_key, check_compatibility=False)
    try:
        client.delete_collection(collection)
    except (ApiException, httpx.HTTPError, OSError) as error:
        raise StoreUnavailableError(
            f"The collection {collection!r} at {url} could not be removed ({error}); remove it when the server is back."
        ) from error
    finally:
        client.close()
