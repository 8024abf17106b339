"""HTTP to one model server: long-lived clients, patient retries, typed errors.

What a request does is written once, as a flow (`flows.effects`); the caller drives it synchronously or
asynchronously. There is one sync client for all threads and one async client per event loop, because an async
client's connections belong to the loop that opened them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import httpx
from pydantic import SecretStr
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random

from ..addresses import checked_address
from ..errors import BackendError, BackendRequestError, BackendTimeoutError, ClosedError, SettingsError
from ..flows.effects import Call
from ..types import clean_text
from .faults import Again, cut_off, quote, retry_delay, status_error, unreachable

if TYPE_CHECKING:
    from ..flows.effects import Flow

T = TypeVar("T")
logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 8.0
_CLOSE_SECONDS = 5.0


class Transport:
    """Requests to one server.

    `base_url` is the server's address; without a path, `/v1` is appended (`http://127.0.0.1:8000`,
    `https://host/api/v3`). Proxies of the environment are used except for loopback addresses.
    `connect_timeout` and `read_timeout` are seconds; `backoff` is the first pause between retries, in seconds.

    Raises:
        SettingsError: `base_url` is not an http(s) address, or carries a user or password; `api_key` holds characters
            that no HTTP header can.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | SecretStr | None = None,
        connect_timeout: float = 5.0,
        read_timeout: float = 120.0,
        backoff: float = 0.25,
        hint: str = "Check base_url and that the server is running.",
    ) -> None:
        url = _checked(base_url)
        self.api_url = str(url).rstrip("/") if url.path.strip("/") else str(url).rstrip("/") + "/v1"
        self.root_url = self.api_url.removesuffix("/v1")
        self.hint = hint
        self._key = _usable_key(api_key)
        self._timeout = httpx.Timeout(read_timeout, connect=connect_timeout, pool=None)
        self._read_timeout = read_timeout
        self._backoff = wait_exponential(multiplier=backoff, max=_LONGEST_PAUSE) + wait_random(0, backoff)
        self._trust_env = not _is_loopback(url.host)
        self._guard = threading.Lock()
        self._client: httpx.Client | None = None
        self._tls: ssl.SSLContext | None = None
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Pool]] = WeakKeyDictionary()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Transport {self.root_url}>"

    # What callers ask for ---------------------------------------------------------------------------------------

    def get(self, path: str) -> Flow[Any]:
        """The JSON at `path` below the API's root."""
        response = yield from self._patiently(partial(self._once, "GET", path))
        return self.read_json(response)

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        stream: Exchange | None = None,
        accept: frozenset[int] = frozenset(),
    ) -> Flow[httpx.Response]:
        """Post JSON. Statuses in `accept` are returned instead of raised.

        With `stream` the response is left open in it, to be read line by line; retries happen only until then.

        Raises:
            BackendUnavailableError, BackendTimeoutError, BackendRequestError, ClosedError
        """
        content = clean_text(json.dumps(body, ensure_ascii=False)).encode()
        return (yield from self._patiently(partial(self._once, "POST", path, content, stream, accept)))

    def healthy(self) -> Flow[bool]:
        """Whether anything answers at `/health` (endpoints without that page answer 404, which counts)."""
        send = partial(self._send, "GET", f"{self.root_url}/health", b"", None)
        asend = partial(self._asend, "GET", f"{self.root_url}/health", b"", None)
        try:
            response = yield from Call(send, asend)
        except (Again, BackendError):
            return False
        return response.status_code < 500

    def read_json(self, response: httpx.Response) -> Any:
        """The body of a good answer.

        Raises:
            BackendRequestError: it is not JSON, so this is not the kind of server that was expected.
        """
        try:
            return response.json()
        except ValueError:
            raise BackendRequestError(
                f"{self.root_url} answered something that is not JSON. {self.hint}", status=response.status_code
            ) from None

    def quote(self, said: object) -> str:
        """What the server said, for an error message: shortened, and without the API key."""
        return quote(said, self._secret)

    def close(self) -> None:
        """Close every client. Async clients are closed in their own loop where that still runs, else dropped."""
        client, async_clients = self._retire()
        if client is not None:
            client.close()
        here = _running_loop()
        for loop, async_client in async_clients:
            if loop is here:
                _keep(loop.create_task(async_client.aclose()))
            elif loop.is_running():
                _close_elsewhere(loop, async_client)

    async def aclose(self) -> None:
        """`close`, awaiting the client of the running loop."""
        client, async_clients = self._retire()
        if client is not None:
            client.close()
        here = asyncio.get_running_loop()
        for loop, async_client in async_clients:
            if loop is here:
                await async_client.aclose()
            elif loop.is_running():
                await asyncio.to_thread(_close_elsewhere, loop, async_client)

    # One request, and the patience around it ----------------------------------------------------------------------

    def _patiently(self, attempt: Callable[[], Flow[T]]) -> Flow[T]:
        """Run `attempt` until it succeeds or its error says that trying again is no use."""
        pauses: list[float] = []
        policy = Retrying(
            sleep=pauses.append,
            retry=retry_if_exception_type(Again),
            wait=self._pause,
            stop=lambda state: state.attempt_number > _again(state).limit,
            reraise=True,
        )
        try:
            for trial in policy:
                if pauses:
                    seconds = pauses.pop()
                    logger.info("%s: trying again in %.1f s", self.root_url, seconds)
                    yield from Call(partial(time.sleep, seconds), partial(asyncio.sleep, seconds))
                with trial:
                    return (yield from attempt())
        except Again as again:
            raise again.error from again.error.__cause__
        raise AssertionError("tenacity ended without a result")

    def _pause(self, state: RetryCallState) -> float:
        after = _again(state).after
        return self._backoff(state) if after is None else after

    def _once(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        stream: Exchange | None = None,
        accept: frozenset[int] = frozenset(),
    ) -> Flow[httpx.Response]:
        url = self.api_url + path
        response = yield from Call(
            partial(self._send, method, url, content, stream), partial(self._asend, method, url, content, stream)
        )
        status = response.status_code
        if response.is_success or status in accept:
            return response
        error = status_error(response, self.root_url, self.hint, self._secret)
        if status in (502, 503):
            raise Again(error, limit=3)
        if status == 429 and (after := retry_delay(response)) is not False:
            raise Again(error, limit=3, after=after)
        if status == 500 and (yield from self.healthy()):
            raise Again(error, limit=1)
        raise error

    def _send(self, method: str, url: str, content: bytes, stream: Exchange | None) -> httpx.Response:
        client = self.client()
        with self.translated():
            request = client.build_request(method, url, content=content or None)
            response = client.send(request, stream=stream is not None)
            if stream is not None:
                stream.take(response)
                if not response.is_success:
                    response.read()
        return response

    async def _asend(self, method: str, url: str, content: bytes, stream: Exchange | None) -> httpx.Response:
        pool = self._pool()
        with self.translated(), pool.busy():
            request = pool.client.build_request(method, url, content=content or None)
            response = await pool.client.send(request, stream=stream is not None)
            if stream is not None:
                stream.take(response)
                if not response.is_success:
                    await response.aread()
        return response

    @contextmanager
    def translated(self, *, started: bool = False) -> Iterator[None]:
        """Turn httpx errors into ours. Before the reply has `started`, a broken connection may be tried again."""
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise Again(unreachable(self.root_url, self.hint, error), limit=3) from error
        except httpx.TimeoutException as error:
            raise BackendTimeoutError(
                f"{self.root_url} did not answer within {self._read_timeout:g} s. "
                "Raise read_timeout, or see what the server is busy with."
            ) from error
        except httpx.HTTPError as error:
            if started:
                raise cut_off(self.root_url, error) from error
            raise Again(unreachable(self.root_url, self.hint, error), limit=3) from error

    # Clients ------------------------------------------------------------------------------------------------------

    def client(self) -> httpx.Client:
        """The sync client, made on first use.

        Raises:
            ClosedError: after `close`.
        """
        with self._guard:
            self._check_open()
            if self._client is None:
                self._client = httpx.Client(
                    headers=self._headers(), timeout=self._timeout, limits=_LIMITS, trust_env=self._trust_env
                )
            return self._client

    def async_client(self) -> httpx.AsyncClient:
        """An async client of the running loop, made on first use.

        Raises:
            ClosedError: after `close`.
        """
        return self._pool().client

    def _pool(self) -> _Pool:
        """The pool of the running loop with the fewest requests in flight; another one where all have enough."""
        with self._guard:
            self._check_open()
            pools = self._pools.setdefault(asyncio.get_running_loop(), [])
            pool = min(pools, key=lambda pool: pool.in_flight, default=None)
            if pool is None or pool.in_flight >= _ENOUGH:
                if self._tls is None:  # slow to make: one for all
                    self._tls = httpx.create_ssl_context(trust_env=self._trust_env)
                pool = _Pool(
                    httpx.AsyncClient(
                        headers=self._headers(),
                        timeout=self._timeout,
                        limits=_LIMITS,
                        trust_env=self._trust_env,
                        verify=self._tls,
                    )
                )
                pools.append(pool)
            return pool

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"The connection to {self.root_url} was closed; open a new backend.")

    def _retire(self) -> tuple[httpx.Client | None, list[tuple[asyncio.AbstractEventLoop, httpx.AsyncClient]]]:
        with self._guard:
            self._closed = True
            client, self._client = self._client, None
            open_loops = [(loop, pools) for loop, pools in self._pools.items() if not loop.is_closed()]
            async_clients = [(loop, pool.client) for loop, pools in open_loops for pool in pools]
            self._pools.clear()
        return client, async_clients

    @property
    def _secret(self) -> str:
        return self._key.get_secret_value() if self._key else ""

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        return headers


class Exchange:
    """A streamed reply in progress. Who made it closes it: a flow that is being closed can do no I/O."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] | None = None
        self._achunks: AsyncIterator[bytes] | None = None
        self._buffer = bytearray()

    def take(self, response: httpx.Response) -> None:
        """The response to read from now on."""
        self._response = response

    def line(self) -> Flow[str | None]:
        """The next line, None at the end. Only a line feed ends one: JSON may hold U+2028 and the like as they are."""
        while (end := self._buffer.find(b"\n")) < 0:
            chunk = yield from Call(self._next, self._anext)
            if chunk is None:
                rest, self._buffer = self._buffer, bytearray()
                return rest.decode(errors="replace") if rest else None
            self._buffer += chunk
        line = self._buffer[:end].decode(errors="replace").rstrip("\r")
        del self._buffer[: end + 1]
        return line

    def _next(self) -> bytes | None:
        if self._chunks is None:
            self._chunks = self._open.iter_bytes()
        with self._transport.translated(started=True):
            return next(self._chunks, None)

    async def _anext(self) -> bytes | None:
        if self._achunks is None:
            self._achunks = self._open.aiter_bytes()
        with self._transport.translated(started=True):
            return await anext(self._achunks, None)

    @property
    def _open(self) -> httpx.Response:
        if self._response is None:
            raise AssertionError("read before the request was sent")
        return self._response

    def close(self) -> None:
        """Give the connection back, or drop it if the reply was not read to its end."""
        if self._response is not None:
            self._response.close()

    async def aclose(self) -> None:
        """`close`, asynchronously."""
        if self._response is not None:
            await self._response.aclose()


class _Pool:
    """A client of one event loop, and how many of its requests wait for their reply to begin.

    Several of them, because httpcore looks at all connections of a pool for each of them, at every request: the work of
    one large pool grows with the square of what is in flight, or faster.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.in_flight = 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)
_ENOUGH = 4  # requests in flight, before another pool is opened
_closing: set[asyncio.Task[None]] = set()


def _keep(task: asyncio.Task[None]) -> None:
    """Hold a task until it is done; the loop itself only holds it weakly."""
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _close_elsewhere(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> None:
    """Close a client in its own loop, which runs in another thread."""
    closing = client.aclose()
    try:
        closed = asyncio.run_coroutine_threadsafe(closing, loop)
    except RuntimeError:  # the loop ended meanwhile, and its sockets with it
        closing.close()
        return
    try:
        closed.result(_CLOSE_SECONDS)
    except (TimeoutError, CancelledError):
        closed.cancel()
        logger.warning("an event loop did not close its connections in %g s", _CLOSE_SECONDS)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _again(state: RetryCallState) -> Again:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, Again):
        raise AssertionError(f"retrying on {error!r}")
    return error


def _checked(base_url: str) -> httpx.URL:
    try:
        return httpx.URL(checked_address("base_url", base_url, key="api_key")).copy_with(query=None, fragment=None)
    except httpx.InvalidURL as error:
        raise SettingsError(f"base_url is no usable address: {error}.") from None


def _usable_key(api_key: str | SecretStr | None) -> SecretStr | None:
    """The key, checked here because httpx repeats one that it cannot send in its error."""
    if api_key is None:
        return None
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    if not key.isascii() or not key.isprintable():
        raise SettingsError("api_key holds a line break or another character that cannot be sent; set it again.")
    return SecretStr(key)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
