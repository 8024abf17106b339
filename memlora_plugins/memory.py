"""The two doors: `Memory` for ordinary code, `AsyncMemory` for code on an event loop. Both drive the same flows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from .core import by_hand, from_settings
from .flows.effects import Finished, Flow, adrive, aevents, drive, events
from .types import AddResult, Answer, Fact, Hit, Kind, Message, Scope, Stage, Token, Turn

if TYPE_CHECKING:
    from datetime import datetime

    from .core import Core
    from .embedding import Embedder
    from .serving.base import Backend
    from .settings import Settings
    from .store.base import FactStore

T = TypeVar("T")
Event = Stage | Token | Answer
"""What `stream` yields: stages as they begin, tokens as they come, and the whole `Answer` last."""

_BOTH: tuple[Kind, ...] = ("fact", "turn")


class Memory:
    """Long-term memory of people, distilled by small models.

    `Memory.open(...)` builds the parts from settings; `Memory(backend=, store=, embedder=)` takes them ready-made and
    owns them from then on. Safe to use from many threads. A context manager; `close` releases the store's lock.

    Every method that touches data takes a `Scope`: nothing is read or written without one.

    Raises (any method):
        ScopeError: `scope` is not a `Scope`. ClosedError: after `close`. ForkedError: in a forked child.
        StoreUnavailableError: the store cannot be reached.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        store: FactStore,
        embedder: Embedder,
        settings: Settings | None = None,
    ) -> None:
        self._core = by_hand(backend, store, embedder, settings)

    @classmethod
    def open(cls, **settings: Any) -> Memory:
        """Open a memory from settings: explicit arguments first, then `MEMLORA_*` environment variables.

        Without arguments: an embedded store in `./.memlora`, MiniLM in process, and nano, the small model of this
        package, where its weights are there; without a model turns are kept and searched but not distilled. See
        `Settings` for every argument and its default. A folder that is already open in this process is shared; each
        memory searches it with its own `ranking`, and takes that along when it is pickled:

            Memory.open(ranking=Ranking(named=0.4))  # favour those whom the question names more

        Raises:
            SettingsError: an unusable argument. StoreLockedError: another process holds the folder.
            EmbedderMismatchError: the collection was made with another embedder. MissingDependencyError.
        """
        memory = cls.__new__(cls)
        memory._core = from_settings(**settings)
        return memory

    @property
    def aio(self) -> AsyncMemory:
        """The asynchronous door of this same memory: one store, one worker."""
        door = AsyncMemory.__new__(AsyncMemory)
        door._core = self._core
        return door

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._core.settings

    @property
    def closed(self) -> bool:
        """True once `close` was called, and in a forked child: it cannot be used any more."""
        return self._core.closed

    @property
    def revisions(self) -> int:
        """How often something was erased, forgotten, edited or deleted through this memory: what was found before may
        not be right since. Additions do not count.
        """
        return self._core.revisions

    def portable(self) -> dict[str, Any]:
        """What reopens this memory, here or elsewhere, as plain values: `Memory.open(**memory.portable())`. Without
        secrets, which come from the environment then. Pickling stores the same.

        Raises:
            NotPortableError: the memory was built by hand from parts.
        """
        return self._core.portable()

    def add(
        self,
        messages: Sequence[Message],
        *,
        scope: Scope,
        wait: bool = True,
        distil: bool = True,
    ) -> AddResult:
        """Remember what was said.

        The turns are written durably first; then facts are distilled from what the person said: in this call, or in
        the background with `wait=False`, or never with `distil=False`. A message that was added before changes
        nothing. A model that fails or replies nonsense leaves turns `pending` (searchable all the same) and says why
        in `errors`; `flush` or the next `open` tries again. What failed in the background is in the `errors` of the
        person's next `add` or `keep`.

        Raises:
            MessageError: something that is not a `Message`.
        """
        return self._run(self._core.add(messages, scope, wait, distil), scope)

    def keep(self, messages: Sequence[Message], *, scope: Scope) -> AddResult:
        """The first half of `add`: the turns are written durably and stay `pending` until an `add` with the same
        messages, a `flush` or the next `open` distils them. For what must not be lost while its reply is being made.

        Raises:
            MessageError: something that is not a `Message`.
        """
        return self._run(self._core.keep(messages, scope), scope)

    def note(self, text: str, *, scope: Scope, wait: bool = True) -> AddResult:
        """Remember a statement as it stands, without the extraction expert: what an agent wants to keep.

        It is compared with what is known like any new fact (so it may become an UPDATE, or change nothing), and
        belongs to all sessions of the person. Its record is a turn of the role `tool`, which search does not find.

        Raises:
            MessageError: blank text.
        """
        return self._run(self._core.note(text, scope, wait), scope)

    def search(
        self,
        text: str,
        *,
        scope: Scope,
        limit: int = 10,
        kinds: Sequence[Kind] = _BOTH,
        without: Collection[str] = (),
    ) -> list[Hit]:
        """Facts and turns that answer `text`, best first; none whose id is in `without`, such as turns that stand in
        the conversation anyway.

        Raises:
            InvalidInputError: blank text, a limit below 1, an unknown kind. EmbeddingError: the embedder failed.
        """
        return self._run(self._core.search(text, scope, limit, kinds, without), scope)

    def context(self, text: str, *, scope: Scope, token_budget: int | None = None) -> str:
        """Dated lines for a prompt about `text`, in order of time, within `token_budget` estimated tokens (default
        `Settings.token_budget`). A memory that fits whole is given whole.
        """
        return self._run(self._core.context(text, scope, token_budget), scope)

    @property
    def answer_prompt(self) -> str:
        """The template of what `answer` sends to the generation expert: its instructions, with `{memories}` (dated
        lines between markers) and `{question}` (called that, with the day it is asked on) where these will stand. What
        a `prompt` of your own is made after.
        """
        return self._core.answer_prompt

    def answer(
        self,
        question: str,
        *,
        scope: Scope,
        token_budget: int | None = None,
        now: datetime | None = None,
        prompt: str | None = None,
    ) -> Answer:
        """Recall, then let the generation expert answer from what was found. `now` is the moment that is told to be
        the question's, for conversations of the past. `prompt` replaces `answer_prompt`: for base models; a trained
        adapter knows its own prompt only.

        Raises:
            BackendError: the model failed or none is configured. ReplyError: it said nothing.
            InvalidInputError: a blank question, or a `prompt` without `{memories}` or `{question}`.
        """
        return self._run(self._core.answer(question, scope, token_budget, now, prompt), scope)

    def stream(
        self, question: str, *, scope: Scope, token_budget: int | None = None, prompt: str | None = None
    ) -> Generator[Event, None, None]:
        """`answer`, as it happens: `Stage` and `Token` events, then the `Answer`.

        Tokens are as the model says them; a thinking trace, if it writes one, is cut from the `Answer` only.
        """
        self._core.check_scope(scope)

        def happening() -> Generator[Event, None, None]:
            flow = self._core.answer(question, scope, token_budget, prompt=prompt)
            answer = yield from events(flow, self._core)
            yield answer

        return happening()

    def facts(self, *, scope: Scope, retired: bool = False, limit: int | None = None) -> list[Fact]:
        """Facts by the time they became true; with `retired` also the versions that are no longer current."""
        return self._run(self._core.facts(scope, retired, limit), scope)

    def turns(
        self,
        *,
        scope: Scope,
        pending: bool | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Turn]:
        """What was said, verbatim, in order; `pending=True` for what is still to be distilled."""
        return self._run(self._core.turns(scope, pending, limit, newest_first), scope)

    def count(self, *, scope: Scope) -> dict[str, int]:
        """`{"facts": current, "retired": …, "turns": …, "pending": …}`."""
        return self._run(self._core.count(scope), scope)

    def get(self, id: str, *, scope: Scope) -> Fact | Turn:
        """The fact, of whatever version, or the turn with this id.

        Raises:
            NotFoundError: there is none in this scope.
        """
        return self._run(self._core.get(id, scope), scope)

    def edit(self, id: str, text: str, *, scope: Scope) -> Fact:
        """Replace a fact's text by hand; returns the new version, the old one stays in its history.

        Raises:
            NotFoundError; RetiredError: `id` is an old version (the error names the current one); ConflictError.
        """
        return self._run(self._core.edit(id, text, scope), scope)

    def delete(self, id: str, *, scope: Scope) -> Fact:
        """Retire a fact: search no longer sees it, `history` does. What was said stays as it is, and is found; see
        `forget`. Physical removal is `erase`.

        Raises:
            NotFoundError, RetiredError, ConflictError: as `edit`.
        """
        return self._run(self._core.delete(id, scope), scope)

    def forget(self, id: str, *, scope: Scope) -> list[Fact | Turn]:
        """Leave a fact out of search together with the turns that it, and the versions before it, came from; or a
        single turn. Returns what was changed; what had been forgotten before stays so.

        The records stay (`turns`, `history`, `export`), other facts of the same turns too. Physical removal is `erase`.

        Raises:
            NotFoundError: no such fact or turn in this scope. ConflictError: the fact changed meanwhile.
        """
        return self._run(self._core.forget(id, scope), scope)

    def history(self, id: str, *, scope: Scope) -> list[Fact]:
        """Every version of a fact, oldest first: when, by which operation, from which messages.

        Raises:
            NotFoundError: no such fact in this scope.
        """
        return self._run(self._core.history(id, scope), scope)

    def export(self, *, scope: Scope) -> Iterator[dict[str, Any]]:
        """Everything in scope as JSON-ready rows: turns, then facts of every version."""
        return iter(self._run(self._core.export(scope), scope))

    def load(self, rows: Iterable[Mapping[str, Any]], *, scope: Scope) -> int:
        """Bring exported rows into `scope`; returns how many were new. Safe to repeat.

        Raises:
            InvalidInputError: a row is not of the exported form.
        """
        return self._run(self._core.load(rows, scope), scope)

    def erase(self, *, scope: Scope) -> int:
        """Physically remove turns, facts, history and pending work; returns how many items went.

        With a session: its turns, and the facts that have no other source. The embedded store rebuilds its files:
        about a second, several at 100,000 points, in which nothing else in this process runs.
        """
        return self._run(self._core.erase(scope), scope)

    def flush(self) -> AddResult:
        """Distil everything pending, then make all of it survive a power loss. Says what was done and what failed."""
        self._core.check()
        return drive(self._core.flush(), self._core)

    def close(self) -> None:
        """Release the store's lock and the connections. Background work stops; what is left stays pending."""
        self._core.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._core})"

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen, (type(self), self.portable())

    def _run(self, flow: Flow[T], scope: Scope) -> T:
        self._core.check_scope(scope)
        return drive(flow, self._core)


class AsyncMemory:
    """`Memory` with coroutines: same names, same arguments, same results.

    Network I/O is natively asynchronous, a model in process runs on its own thread, and calls to the embedded store are
    direct (under a millisecond each). Usable from several event loops.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        store: FactStore,
        embedder: Embedder,
        settings: Settings | None = None,
    ) -> None:
        self._core = by_hand(backend, store, embedder, settings)

    @classmethod
    async def open(cls, **settings: Any) -> AsyncMemory:
        """As `Memory.open`; models are loaded off the event loop."""
        door = cls.__new__(cls)
        opening = asyncio.ensure_future(asyncio.to_thread(from_settings, **settings))
        try:
            door._core = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise
        return door

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._core.settings

    @property
    def closed(self) -> bool:
        """As `Memory.closed`."""
        return self._core.closed

    @property
    def revisions(self) -> int:
        """As `Memory.revisions`."""
        return self._core.revisions

    def portable(self) -> dict[str, Any]:
        """As `Memory.portable`."""
        return self._core.portable()

    async def add(
        self,
        messages: Sequence[Message],
        *,
        scope: Scope,
        wait: bool = True,
        distil: bool = True,
    ) -> AddResult:
        """As `Memory.add`."""
        return await self._run(self._core.add(messages, scope, wait, distil), scope)

    async def keep(self, messages: Sequence[Message], *, scope: Scope) -> AddResult:
        """As `Memory.keep`."""
        return await self._run(self._core.keep(messages, scope), scope)

    async def note(self, text: str, *, scope: Scope, wait: bool = True) -> AddResult:
        """As `Memory.note`."""
        return await self._run(self._core.note(text, scope, wait), scope)

    async def search(
        self,
        text: str,
        *,
        scope: Scope,
        limit: int = 10,
        kinds: Sequence[Kind] = _BOTH,
        without: Collection[str] = (),
    ) -> list[Hit]:
        """As `Memory.search`."""
        return await self._run(self._core.search(text, scope, limit, kinds, without), scope)

    async def context(self, text: str, *, scope: Scope, token_budget: int | None = None) -> str:
        """As `Memory.context`."""
        return await self._run(self._core.context(text, scope, token_budget), scope)

    @property
    def answer_prompt(self) -> str:
        """As `Memory.answer_prompt`."""
        return self._core.answer_prompt

    async def answer(
        self,
        question: str,
        *,
        scope: Scope,
        token_budget: int | None = None,
        now: datetime | None = None,
        prompt: str | None = None,
    ) -> Answer:
        """As `Memory.answer`."""
        return await self._run(self._core.answer(question, scope, token_budget, now, prompt), scope)

    def stream(
        self, question: str, *, scope: Scope, token_budget: int | None = None, prompt: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """As `Memory.stream`: an asynchronous iterator."""
        self._core.check_scope(scope)

        async def happening() -> AsyncGenerator[Event, None]:
            flow = self._core.answer(question, scope, token_budget, prompt=prompt)
            async with aclosing(aevents(flow, self._core)) as items:
                async for item in items:
                    yield item.result if isinstance(item, Finished) else item

        return happening()

    async def facts(self, *, scope: Scope, retired: bool = False, limit: int | None = None) -> list[Fact]:
        """As `Memory.facts`."""
        return await self._run(self._core.facts(scope, retired, limit), scope)

    async def turns(
        self,
        *,
        scope: Scope,
        pending: bool | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Turn]:
        """As `Memory.turns`."""
        return await self._run(self._core.turns(scope, pending, limit, newest_first), scope)

    async def count(self, *, scope: Scope) -> dict[str, int]:
        """As `Memory.count`."""
        return await self._run(self._core.count(scope), scope)

    async def get(self, id: str, *, scope: Scope) -> Fact | Turn:
        """As `Memory.get`."""
        return await self._run(self._core.get(id, scope), scope)

    async def edit(self, id: str, text: str, *, scope: Scope) -> Fact:
        """As `Memory.edit`."""
        return await self._run(self._core.edit(id, text, scope), scope)

    async def delete(self, id: str, *, scope: Scope) -> Fact:
        """As `Memory.delete`."""
        return await self._run(self._core.delete(id, scope), scope)

    async def forget(self, id: str, *, scope: Scope) -> list[Fact | Turn]:
        """As `Memory.forget`."""
        return await self._run(self._core.forget(id, scope), scope)

    async def history(self, id: str, *, scope: Scope) -> list[Fact]:
        """As `Memory.history`."""
        return await self._run(self._core.history(id, scope), scope)

    async def export(self, *, scope: Scope) -> AsyncIterator[dict[str, Any]]:
        """As `Memory.export`, an asynchronous iterator."""
        for row in await self._run(self._core.export(scope), scope):
            yield row

    async def load(self, rows: Iterable[Mapping[str, Any]], *, scope: Scope) -> int:
        """As `Memory.load`."""
        return await self._run(self._core.load(rows, scope), scope)

    async def erase(self, *, scope: Scope) -> int:
        """As `Memory.erase`."""
        return await self._run(self._core.erase(scope), scope)

    async def flush(self) -> AddResult:
        """As `Memory.flush`."""
        self._core.check()
        return await adrive(self._core.flush(), self._core)

    async def close(self) -> None:
        """As `Memory.close`."""
        await self._core.aclose()

    async def __aenter__(self) -> AsyncMemory:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._core})"

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen, (type(self), self.portable())

    async def _run(self, flow: Flow[T], scope: Scope) -> T:
        self._core.check_scope(scope)
        return await adrive(flow, self._core)


def _close_unwanted(opening: asyncio.Future[Core]) -> None:
    """Nobody waits for this memory any more: it must not keep the folder locked."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def reopen(door: type[Memory] | type[AsyncMemory], settings: dict[str, Any]) -> Memory | AsyncMemory:
    """What unpickling calls: open from stored settings; secrets come from the environment."""
    memory = door.__new__(door)
    memory._core = from_settings(**settings)
    return memory
