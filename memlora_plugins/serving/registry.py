"""Which adapters a server has, and getting them there.

Adapters loaded at run time are gone after the server restarts. Before an adapter is used for the first time, and
whenever the server no longer knows it, it is looked up in the server's list and loaded if missing. A request is
never answered by the base model in its place.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..errors import AdapterInvalidError, AdapterNotLoadedError, BackendRequestError
from ..flows.effects import Call
from .adapters import Adapter, base_config, is_hub_name, resolve
from .faults import error_details

if TYPE_CHECKING:
    from ..flows.effects import Flow
    from .http import Transport

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05


class AdapterRegistry:
    """The adapters of the experts, on one server.

    `adapters` maps an expert to a folder or to the name of an adapter that the server serves already. Folders are
    checked at once (`adapters.preflight`), loaded when first used.

    Raises:
        AdapterInvalidError: a folder holds no adapter that can be served, or a name is unusable.
    """

    def __init__(
        self,
        transport: Transport,
        adapters: Mapping[str, str | Path],
        *,
        base_model: str,
        max_rank: int | None = None,
    ) -> None:
        self._transport = transport
        self._base_model = base_model
        self._max_rank = max_rank
        self._guard = threading.Lock()
        self._loading = _WorldLock()
        self._current = {expert: self._resolve(expert, source) for expert, source in adapters.items()}
        self._known = {adapter.name: adapter for adapter in self._current.values()}
        self._ready: set[str] = set()
        self._in_flight: Counter[str] = Counter()

    @property
    def names(self) -> dict[str, str]:
        """Expert to the name its adapter has on the server."""
        with self._guard:
            return {expert: adapter.name for expert, adapter in self._current.items()}

    def __contains__(self, expert: object) -> bool:
        return expert in self._current

    def manages(self, name: str) -> bool:
        """Whether `name` is one of these adapters' names on the server."""
        return name in self._known

    @contextmanager
    def lease(self, expert: str) -> Iterator[str]:
        """The name of the expert's adapter, which stays loaded while the lease is held."""
        with self._guard:
            name = self._current[expert].name
            self._in_flight[name] += 1
        try:
            yield name
        finally:
            with self._guard:
                self._in_flight[name] -= 1

    def forget(self, name: str) -> None:
        """The server said that it does not know `name`: look again before the next use."""
        self._ready.discard(name)

    def ensure(self, name: str) -> Flow[None]:
        """Make sure that the server serves the adapter `name`, loading it if need be.

        Raises:
            AdapterNotLoadedError: it is missing and cannot be loaded, or is a base model.
            AdapterInvalidError: its files changed since they were checked.
        """
        if name in self._ready:
            return
        lock = yield from self._loading.acquire()
        try:
            if name not in self._ready:
                yield from self._look_and_load(self._known[name])
                self._ready.add(name)
        finally:
            lock.release()

    def swap(self, expert: str, source: str | Path, *, drain_seconds: float) -> Flow[str]:
        """Give `expert` another adapter: load it, switch, wait for requests on the old one, unload that.

        Returns the new name. If requests are still running after `drain_seconds`, the old one stays loaded.

        Raises:
            AdapterInvalidError, AdapterNotLoadedError: the new one cannot be served; the old one stays in use.
        """
        check = partial(self._resolve, expert, source)
        new = yield from Call(check, partial(asyncio.to_thread, check))
        with self._guard:
            self._known[new.name] = new
        yield from self.ensure(new.name)
        with self._guard:
            old = self._current.get(expert)
            self._current[expert] = new
        if old is not None and old.folder is not None:
            yield from self._retire(old, drain_seconds)
        return new.name

    def _resolve(self, expert: str, source: str | Path) -> Adapter:
        adapter = resolve(expert, source, max_rank=self._max_rank, base_config=base_config(self._base_model))
        if adapter.name == self._base_model:
            raise AdapterInvalidError(
                f"The {expert} adapter has the base model's name {adapter.name!r}. Leave the expert out of adapters "
                "to use the base model with full prompts."
            )
        if is_hub_name(adapter.base) and is_hub_name(self._base_model) and adapter.base != self._base_model:
            logger.warning("%s was trained on %s, the server runs %s", adapter.name, adapter.base, self._base_model)
        return adapter

    def _look_and_load(self, adapter: Adapter) -> Flow[None]:
        served = yield from self._served()
        if adapter.name in served:
            if served[adapter.name] is None:
                raise AdapterNotLoadedError(
                    f"{adapter.name} is a base model on {self._transport.root_url}, not an adapter; "
                    "name an adapter, or leave the expert out of adapters."
                )
            return
        if adapter.folder is None:
            known = ", ".join(name for name, parent in served.items() if parent) or "none"
            raise AdapterNotLoadedError(
                f"{self._transport.root_url} does not serve adapter {adapter.name!r} (it has: {known}). "
                "Give the adapter's folder so that it can be loaded, or start the server with it."
            )
        yield from Call(adapter.unchanged, partial(asyncio.to_thread, adapter.unchanged))
        yield from self._load(adapter)

    def _served(self) -> Flow[dict[str, str | None]]:
        """Every served name, with the base model it is an adapter of, or None for a base model itself."""
        listing = yield from self._transport.get("/models")
        try:
            return {card["id"]: card.get("parent") for card in listing["data"]}
        except (TypeError, KeyError, AttributeError) as error:
            raise BackendRequestError(
                f"{self._transport.root_url} answered no list of models. {self._transport.hint}", status=200
            ) from error

    def _load(self, adapter: Adapter) -> Flow[None]:
        body = {"lora_name": adapter.name, "lora_path": str(adapter.folder)}
        response = yield from self._transport.post(
            "/load_lora_adapter", body, accept=frozenset({400, 403, 404, 405, 500})
        )
        said = self._transport.quote(error_details(response).get("message", ""))
        if response.is_success or (response.status_code == 400 and "already been loaded" in said):
            logger.info("%s: adapter %s is loaded", self._transport.root_url, adapter.name)
            return
        if response.status_code in (403, 404, 405) and not said:
            advice = "it does not load adapters at run time (VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 allows it)"
        elif response.status_code == 404:
            advice = f"it cannot see the folder {adapter.folder}; put the adapter where the server can read it"
        else:
            advice = said or f"status {response.status_code}"
        raise AdapterNotLoadedError(f"{self._transport.root_url} did not load adapter {adapter.name}: {advice}.")

    def _retire(self, adapter: Adapter, drain_seconds: float) -> Flow[None]:
        """Unload an adapter that no expert has any more, once nobody is using it."""
        deadline = time.monotonic() + drain_seconds
        while self._in_flight[adapter.name] and time.monotonic() < deadline:
            yield from Call(partial(time.sleep, _LOOK_SECONDS), partial(asyncio.sleep, _LOOK_SECONDS))
        with self._guard:
            if any(adapter.name == current.name for current in self._current.values()):
                return
            if self._in_flight[adapter.name]:
                logger.warning("adapter %s is still in use and stays loaded", adapter.name)
                return
            self._ready.discard(adapter.name)
            self._known.pop(adapter.name, None)
        yield from self._transport.post("/unload_lora_adapter", {"lora_name": adapter.name}, accept=frozenset({404}))


class _WorldLock:
    """A lock among the sync callers, and one among the async callers of each loop.

    Sync and async callers do not exclude each other: a sync call on a loop's own thread would wait for a task that
    cannot run. What it guards may therefore happen twice, and must not mind.
    """

    def __init__(self) -> None:
        self._thread_lock = threading.Lock()
        self._guard = threading.Lock()
        self._loop_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def acquire(self) -> Flow[Any]:
        """The lock of the caller's world, held; call its `release`."""
        return (yield from Call(self._acquire, self._aacquire))

    def _acquire(self) -> Any:
        self._thread_lock.acquire()
        return self._thread_lock

    async def _aacquire(self) -> Any:
        with self._guard:
            lock = self._loop_locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        await lock.acquire()
        return lock
