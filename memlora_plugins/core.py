"""What both doors share: the parts of an open memory, and the flow behind each method."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import nano
from .errors import ClosedError, ForkedError, InvalidInputError, NotPortableError, ScopeError
from .experts import generation
from .flows import curate, recall, remember, transfer
from .flows.effects import Call, Flow, drive
from .types import AddResult, Answer, Fact, Failure, Hit, Kind, Message, Scope, Turn
from .worker import Worker

if TYPE_CHECKING:
    from datetime import datetime

    from .embedding import Embedder
    from .serving.base import Backend
    from .settings import Settings
    from .store.base import FactStore

T = TypeVar("T")


class Core:
    """An open memory without a door: parts, background worker, and one flow per public method.

    It owns its parts: `close` closes them. It is the `IO` that the flows' effects are carried out with.
    """

    def __init__(
        self,
        backend: Backend,
        store: FactStore,
        embedder: Embedder,
        settings: Settings,
        *,
        portable: bool,
    ) -> None:
        self.backend = backend
        self.store = store
        self.embedder = embedder
        self.settings = settings
        self._portable = portable
        self._pid = os.getpid()
        self._closed = False
        self.revisions = 0
        self._claims = _Claims()
        self._worker = Worker(self._distil_now, settings.workers)
        self._rules = remember.Rules(
            prompt_style=backend.prompt_style,
            neighbours_per_fact=settings.neighbours_per_fact,
            facts_per_update=settings.facts_per_update,
            similarity_threshold=settings.similarity_threshold,
            exchange_chars=settings.exchange_chars,
            quoted_facts=settings.quoted_facts,
            quoted_answers=settings.quoted_answers,
            memories_per_answer=settings.memories_per_answer,
            answer_threshold=settings.answer_threshold,
        )

    def start(self) -> Flow[None]:
        """Open the store and, where settings say so, resume what an earlier process left pending."""
        yield from self.store.open(self.embedder.name, self.embedder.dimension)
        if self.settings.resume and self.can_distil:
            yield from self._queue_pending()

    @property
    def can_distil(self) -> bool:
        from .serving.unconfigured import UnconfiguredBackend

        return not isinstance(self.backend, UnconfiguredBackend)

    def check_scope(self, scope: Scope) -> None:
        """`check`, and that there is a scope."""
        self.check()
        if not isinstance(scope, Scope):
            raise ScopeError(f"scope must be a Scope, got {type(scope).__name__}. Write scope=Scope(user_id).")

    @property
    def closed(self) -> bool:
        return self._closed or os.getpid() != self._pid

    def check(self) -> None:
        """Raise what makes any use impossible: closed or forked."""
        if os.getpid() != self._pid:
            raise ForkedError(
                "This memory was opened before the process forked. Open it in the child (the folder must be closed in "
                "the parent), or use a Qdrant server to share one store between processes."
            )
        if self._closed:
            raise ClosedError("This memory is closed; open it again.")

    def add(self, messages: Sequence[Message], scope: Scope, wait: bool, distil: bool) -> Flow[AddResult]:
        roles = remember.DISTILLED if distil else ()
        kept = yield from remember.keep(self.store, scope, messages, self._rules, distil=roles)
        if not distil:
            return AddResult(turns=kept.turns, errors=kept.errors)
        return (yield from self._distilled(kept, scope, wait, self._worker.failures(scope)))

    def keep(self, messages: Sequence[Message], scope: Scope) -> Flow[AddResult]:
        kept = yield from remember.keep(self.store, scope, messages, self._rules)
        pending = tuple(turn for turn in kept.turns if turn.pending)
        return AddResult(kept.turns, pending=pending, errors=kept.errors + self._worker.failures(scope))

    def note(self, text: str, scope: Scope, wait: bool) -> Flow[AddResult]:
        noted = [Message("tool", text)]
        kept = yield from remember.keep(self.store, scope.without_session(), noted, self._rules, distil=remember.NOTED)
        return (yield from self._distilled(kept, scope, wait))

    def _distilled(
        self, kept: remember.Kept, scope: Scope, wait: bool, failures: tuple[Failure, ...] = ()
    ) -> Flow[AddResult]:
        """What was kept, distilled or handed to the worker. `failures`: what there is to tell from before."""
        errors = kept.errors + failures
        result = AddResult(turns=kept.turns, errors=errors)
        pending = tuple(turn for turn in kept.turns if turn.pending)
        if not pending:
            return result
        ids = [turn.id for turn in pending]
        if not wait:
            result = replace(result, pending=pending)
            if self.can_distil:
                self._worker.submit(scope, ids)
                return result
            from .serving.unconfigured import not_configured

            failure = Failure("extraction", not_configured("extraction"), tuple(ids))
            return replace(result, errors=(*result.errors, failure))
        done = yield from remember.distil(self.store, scope, ids, self._rules, self._claims)
        left = {turn.id for turn in done.pending}
        turns = tuple(replace(turn, pending=turn.id in left) for turn in kept.turns)
        return replace(done, turns=turns, errors=errors + done.errors)

    def search(
        self, text: str, scope: Scope, limit: int, kinds: Sequence[Kind], without: Collection[str]
    ) -> Flow[list[Hit]]:
        most = _whole("limit", limit, least=1)
        return recall.search(self.store, scope, text, limit=most, kinds=kinds, without=without)

    def context(self, text: str, scope: Scope, token_budget: int | None) -> Flow[str]:
        return recall.context(self.store, scope, text, token_budget=self._budget(token_budget))

    def answer(
        self,
        question: str,
        scope: Scope,
        token_budget: int | None,
        now: datetime | None = None,
        prompt: str | None = None,
    ) -> Flow[Answer]:
        rules = self._rules if now is None else replace(self._rules, clock=lambda: now)
        budget = self._budget(self.settings.answer_budget if token_budget is None else token_budget)
        return recall.answer(self.store, scope, question, rules, token_budget=budget, prompt=prompt)

    @property
    def answer_prompt(self) -> str:
        return generation.template(self.backend.prompt_style("generation"))

    def facts(self, scope: Scope, retired: bool, limit: int | None) -> Flow[list[Fact]]:
        return self.store.facts(scope, retired=retired, limit=_limit(limit))

    def turns(self, scope: Scope, pending: bool | None, limit: int | None, newest_first: bool) -> Flow[list[Turn]]:
        return self.store.turns(scope, pending=pending, limit=_limit(limit), newest_first=newest_first)

    def get(self, id: str, scope: Scope) -> Flow[Fact | Turn]:
        return curate.get(self.store, scope, id)

    def history(self, id: str, scope: Scope) -> Flow[list[Fact]]:
        return curate.history(self.store, scope, id)

    def edit(self, id: str, text: str, scope: Scope) -> Flow[Fact]:
        return self._revised(curate.edit(self.store, scope, id, text, self._rules))

    def delete(self, id: str, scope: Scope) -> Flow[Fact]:
        return self._revised(curate.delete(self.store, scope, id, self._rules))

    def forget(self, id: str, scope: Scope) -> Flow[list[Fact | Turn]]:
        return self._revised(curate.forget(self.store, scope, id, self._rules))

    def export(self, scope: Scope) -> Flow[list[dict[str, Any]]]:
        return transfer.export(self.store, scope)

    def load(self, rows: Iterable[Mapping[str, Any]], scope: Scope) -> Flow[int]:
        return transfer.load(self.store, scope, rows, self._rules)

    def erase(self, scope: Scope) -> Flow[int]:
        return self._revised(self.store.erase(scope))

    def _revised(self, flow: Flow[T]) -> Flow[T]:
        result = yield from flow
        self.revisions += 1
        return result

    def count(self, scope: Scope) -> Flow[dict[str, int]]:
        return self.store.count(scope)

    def flush(self) -> Flow[AddResult]:
        """Embed and distil everything that is left to, then make all of it survive a power loss."""
        errors = yield from remember.embed_missing(self.store)
        yield from self._queue_pending()
        done = self._worker.done()
        result = yield from Call(done.result, lambda: asyncio.wrap_future(done))
        yield from self.store.flush()
        return replace(result, errors=errors + result.errors)

    def _queue_pending(self) -> Flow[None]:
        people: dict[Scope, list[str]] = {}
        for turn in (yield from self.store.pending()):
            people.setdefault(turn.scope.without_session(), []).append(turn.id)
        for scope, ids in people.items():
            self._worker.submit(scope, ids)

    def _distil_now(self, scope: Scope, ids: list[str]) -> AddResult:
        return drive(remember.distil(self.store, scope, ids, self._rules, self._claims), self)

    def _budget(self, tokens: int | None) -> int:
        return self.settings.token_budget if tokens is None else _whole("token_budget", tokens, least=1)

    def portable(self) -> dict[str, Any]:
        """The settings that reopen this memory, without secrets.

        Raises:
            NotPortableError: it was built by hand from parts.
        """
        if not self._portable:
            raise NotPortableError(
                "This memory was built from parts, which settings cannot describe. Use Memory.open(…) for one that "
                "can be serialized."
            )
        return self.settings.portable()

    def __str__(self) -> str:
        return f"{self.backend.describe()}; {self.store.describe()}; {self.embedder.name}"

    def close(self) -> None:
        if self._shut():
            with ExitStack() as parts:  # whatever fails, the store's lock is released
                parts.callback(self.store.close)
                parts.callback(self.embedder.close)
                parts.callback(self.backend.close)
                self._worker.close()

    async def aclose(self) -> None:
        if self._shut():
            async with AsyncExitStack() as parts:
                parts.push_async_callback(self.store.aclose)
                parts.push_async_callback(self.embedder.aclose)
                parts.push_async_callback(self.backend.aclose)
                await asyncio.to_thread(self._worker.close)  # it waits for what is under way

    def _shut(self) -> bool:
        if self.closed:
            return False
        self._closed = True
        return True


def _limit(limit: int | None) -> int | None:
    return None if limit is None else _whole("limit", limit, least=0)


def _whole(name: str, value: int, *, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise InvalidInputError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return value


class _Claims:
    """The turns somebody in this process is distilling."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[str] = set()

    def take(self, turn: str) -> bool:
        with self._lock:
            if turn in self._taken:
                return False
            self._taken.add(turn)
            return True

    def give_back(self, turn: str) -> None:
        with self._lock:
            self._taken.discard(turn)


def by_hand(backend: Backend, store: FactStore, embedder: Embedder, settings: Settings | None) -> Core:
    """An open core over ready-made parts."""
    from .settings import load_settings

    return _started(Core(backend, store, embedder, settings or load_settings(), portable=False))


def from_settings(**explicit: Any) -> Core:
    """An open core with the parts that settings describe."""
    from .settings import load_settings

    settings = fitted(load_settings(**explicit))
    parts: list[Any] = []
    try:
        parts.extend((build_store(settings), build_embedder(settings), build_backend(settings)))
    except BaseException:
        for part in parts:
            part.close()
        raise
    store, embedder, backend = parts
    return _started(Core(backend, store, embedder, settings, portable=True))


def fitted(settings: Settings) -> Settings:
    """The settings as they are; where nano's experts answer, what is not said otherwise is set as they can take it."""
    if settings.model is None:
        ours = set(nano.ADAPTERS) if settings.has_model else set()
    else:
        ours = {expert for expert, folder in settings.adapters.items() if _same(folder, nano.ADAPTERS.get(expert))}
    chosen = {name for name in nano.SETTINGS if ("generation" if name in nano.OF_GENERATION else "extraction") in ours}
    unsaid = {name: nano.SETTINGS[name] for name in chosen - settings.model_fields_set}
    return settings.model_copy(update=unsaid) if unsaid else settings


def _same(folder: str, other: str | None) -> bool:
    return other is not None and Path(folder).resolve() == Path(other).resolve()


def _started(core: Core) -> Core:
    try:
        drive(core.start(), core)
    except BaseException:
        core.close()
        raise
    return core


def build_backend(settings: Settings) -> Backend:
    if not settings.has_model:
        from .serving.unconfigured import UnconfiguredBackend

        return UnconfiguredBackend()
    if settings.base_url is None or settings.model is None:
        from .serving.local import LocalBackend

        if settings.model is None:
            return LocalBackend(nano.BASE, nano.ADAPTERS)
        return LocalBackend(settings.model, settings.adapters)
    if settings.api == "openai":
        from .serving.openai_compatible import OpenAIBackend

        return OpenAIBackend(
            settings.base_url,
            settings.model,
            api_key=settings.api_key,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
        )
    from .serving.vllm import VLLMBackend

    return VLLMBackend(
        settings.base_url,
        settings.model,
        adapters=settings.adapters,
        api_key=settings.api_key,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
    )


def build_store(settings: Settings) -> FactStore:
    if settings.qdrant_url is not None:
        from .store.qdrant import QdrantFactStore

        key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
        return QdrantFactStore(
            url=settings.qdrant_url, api_key=key, collection=settings.collection, ranking=settings.ranking
        )
    from .store.edge import EdgeFactStore

    return EdgeFactStore(settings.path, ranking=settings.ranking)


def build_embedder(settings: Settings) -> Embedder:
    from .embedding import OpenAIEmbedder, SentenceTransformerEmbedder

    if settings.embedder_url is not None:
        return OpenAIEmbedder(settings.embedder_url, settings.embedder, api_key=settings.embedder_api_key)
    return SentenceTransformerEmbedder(settings.embedder)
