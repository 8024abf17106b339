"""Memory for agents, workflows and chat engines: recalled for each question, told what was said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from llama_index.core.async_utils import asyncio_run
from llama_index.core.base.llms.types import ChatMessage, ContentBlock, MessageRole, TextBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent, RetrievalStartEvent
from llama_index.core.memory import Memory as ChatMemory
from llama_index.core.memory.memory import (
    DEFAULT_TOKEN_LIMIT,
    InsertMethod,
    generate_chat_store_key,
)
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.settings import Settings
from llama_index.core.storage.chat_store.base_db import MessageStatus
from pydantic import Field, PrivateAttr, field_serializer, field_validator

from memlora_plugins import AddResult, Hit, Memory, NotPortableError, Scope, as_context
from memlora_plugins.flows.effects import Call, Flow
from memlora_plugins.flows.recall import tokens
from memlora_plugins.plugs.doors import UNAVAILABLE, arun, run
from memlora_plugins.plugs.recalled import introduced, unseen

from .events import dispatcher, is_heard, report, warn
from .history import Entry, History
from .messages import by_person, copied, is_reply, text_of
from .reopening import reopened
from .retriever import as_nodes
from .window import Window

_FRAME = tokens(introduced(""))
"""What memories cost besides their lines."""


class _Asked(NamedTuple):
    """What is to be recalled: the words, and the id of the message that says them; None: it is to come."""

    query: str
    at: str | None


class MemLoRAMemory(ChatMemory):
    """A full `memory=` for `FunctionAgent`, `AgentWorkflow` and chat engines.

    - *What is said* is kept durably, message by message. When a reply ends an exchange, facts are distilled from what
      the person said: one call of the extraction expert per line of theirs.
    - *What is recalled* for the person's last words, from all their conversations, is shown to the model with the chat
      history; once per turn, however often the history is read. It never becomes part of the history.
    - *The chat history* is that of the session, as long as it fits into `chat_history_token_ratio` of `token_limit`.
      It is kept in the memory itself: with the same `session_id` it goes on after a restart.

    `set` and `reset` change what the chat history consists of; what was said stays remembered. To remove it, erase:
    `memory.erase(scope=Scope(user_id, session_id=…))` of the core.

    Where the store, the embedder or the model of the experts is out of reach, the chat goes on and a
    `MemoryWarningEvent` says so. Serialized (`Context.to_dict`), it is its settings; `from_dict` opens it again.

    Args (of `from_defaults`):
        memory: the open memory; it stays the caller's to close.
        user_id: whose memory it is.
        session_id: which conversation; None: a new one.
        agent_id: keeps this agent's memory apart from that of others of the same person.
        limit: how many facts and turns are recalled at most; their size is bounded by `Settings.token_budget` and by
            what `token_limit` leaves beside the chat history.
        wait: True distils before the reply is handed on; False (the default) in the background.
        insert_method: `InsertMethod.USER` (the default) shows memories at the head of the person's last message, where
            any chat template takes them and the cached prefix of a conversation stays valid; `InsertMethod.SYSTEM` in
            a system message.
        callback_manager: is told of recalls, and of the experts as of an LLM; None: that of `Settings`.
        chat_history, token_limit, memory_blocks, memory_blocks_template, chat_history_token_ratio, token_flush_size,
            tokenizer_fn, and the estimates of sizes: as `Memory`. There is no `chat_store`.

    Raises:
        ScopeError: a blank or missing id. ClosedError, ForkedError (by any method): the memory cannot be used any more.
        MessageError (by put): something that is no `ChatMessage`.
    """

    memory: Memory
    user_id: str
    agent_id: str | None = None
    limit: int = Field(default=10, ge=1)
    wait: bool = False
    insert_method: InsertMethod = InsertMethod.USER
    sql_store: Any = Field(default=None, exclude=True, description="Not used: the history is kept in `memory`.")
    callback_manager: CallbackManager | None = Field(default=None, exclude=True)

    _history: History = PrivateAttr()
    _window: Window = PrivateAttr()
    _recalled: tuple[_Asked, int, str] | None = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        """The name in serialized form."""
        return "MemLoRAMemory"

    @field_validator("memory_blocks_template", mode="before")
    @classmethod
    def _template(cls, template: Any) -> Any:
        return RichPromptTemplate(template) if isinstance(template, str) else template

    def __init__(self, **values: Any) -> None:
        unknown = values.keys() - type(self).model_fields.keys() - {"class_name"}
        if unknown:
            raise TypeError(
                f"MemLoRAMemory takes no {', '.join(sorted(unknown))}. The chat history is kept in the memory itself: "
                "there is no chat store or database to name."
            )
        if values.get("session_id") is None:
            values["session_id"] = generate_chat_store_key()
        scope = Scope(values.get("user_id"), values.get("agent_id"), values["session_id"])  # type: ignore[arg-type]
        if isinstance(values.get("memory"), dict):
            values["memory"] = reopened(values["memory"])
        super().__init__(**{"token_limit": DEFAULT_TOKEN_LIMIT, **values})
        self._history = History(self.memory, scope)
        self._window = Window(self._estimate_token_count)

    @classmethod
    def from_defaults(  # type: ignore[override]
        cls,
        *,
        memory: Memory,
        user_id: str,
        session_id: str | None = None,
        chat_history: list[ChatMessage] | None = None,
        token_limit: int = DEFAULT_TOKEN_LIMIT,
        **settings: Any,
    ) -> Self:
        """See the class; `chat_history` is what was said in the session before."""
        made = cls(memory=memory, user_id=user_id, session_id=session_id, token_limit=token_limit, **settings)
        if chat_history is not None:
            made.set(chat_history)
        return made

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """What `from_dict` makes this again of, as JSON has it: settings and ids, no secrets and nothing that was said.

        Raises:
            NotPortableError: the memory was built by hand from parts, or there are `memory_blocks`.
        """
        self.memory.portable()
        if self.memory_blocks:
            raise NotPortableError("memory_blocks cannot be serialized; use MemLoRAMemory without them for that.")
        return super().to_dict(**{"mode": "json", **kwargs})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)

    @field_serializer("memory")
    def _settings(self, memory: Memory) -> dict[str, Any]:
        return memory.portable()

    @field_serializer("memory_blocks_template")
    def _template_text(self, template: RichPromptTemplate) -> str:
        return template.template_str

    def get(self, input: str | ChatMessage | None = None, **block_kwargs: Any) -> list[ChatMessage]:
        """The chat history for a model, with what is recalled for `input` or else for the person's last words."""
        return run(self._get(input, block_kwargs))

    async def aget(self, input: str | ChatMessage | None = None, **block_kwargs: Any) -> list[ChatMessage]:
        """As `get`."""
        return await arun(self._get(input, block_kwargs))

    def get_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """All messages of the chat history; with `status` those that a model is shown (active) or not (archived)."""
        return run(self._get_all(status))

    async def aget_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """As `get_all`."""
        return await arun(self._get_all(status))

    def put(self, message: ChatMessage) -> None:
        """Keep a message; a reply ends the exchange, which is distilled then."""
        run(self._put([message]))

    async def aput(self, message: ChatMessage) -> None:
        """As `put`."""
        await arun(self._put([message]))

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """As `put`, for several."""
        run(self._put(messages))

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """As `put`, for several."""
        await arun(self._put(messages))

    def set(self, messages: list[ChatMessage]) -> None:
        """Let the chat history consist of `messages`. Those that the session knows are not kept twice."""
        run(self._set(messages))

    async def aset(self, messages: list[ChatMessage]) -> None:
        """As `set`."""
        await arun(self._set(messages))

    def reset(self, status: MessageStatus | None = None) -> None:
        """Begin the chat history anew. What was said stays remembered, and is recalled; to remove it, erase."""
        run(self._reset(status))

    async def areset(self, status: MessageStatus | None = None) -> None:
        """As `reset`."""
        await arun(self._reset(status))

    def _get(self, input: str | ChatMessage | None, block_kwargs: dict[str, Any]) -> Flow[list[ChatMessage]]:
        entries = self._history.known()
        if not self._is_recalled(_asked(entries, input)):  # what others add is seen with the person's next words
            entries = yield from self._history.read(self._fills)
        shown = entries[(yield from self._advance(entries)) :]
        recalled = yield from self._recalled_for(shown, input)
        history = _given(shown)
        content: list[ContentBlock] = [TextBlock(text=introduced(recalled))] if recalled else []
        beside: list[ChatMessage] = []
        if self.memory_blocks:
            more, beside = yield from _waited(lambda: self._of_blocks(history, input, block_kwargs, recalled))
            content = [*content, *more]
        if content and self.insert_method is InsertMethod.USER and _latest(shown) is None:
            history = _with_person(history)  # the engine's question comes after it
        return self._insert_memory_content(history, content, beside)

    def _get_all(self, status: MessageStatus | None) -> Flow[list[ChatMessage]]:
        entries = yield from self._history.read()
        start = self._start(entries)
        chosen = {None: entries, MessageStatus.ACTIVE: entries[start:], MessageStatus.ARCHIVED: entries[:start]}
        return [copied(entry.message) for entry in chosen[status]]

    def _put(self, messages: Sequence[ChatMessage]) -> Flow[None]:
        yield from Call(lambda: self._remember(messages), lambda: self._aremember(messages))

    def _set(self, messages: Sequence[ChatMessage]) -> Flow[None]:
        self._recalled = None
        self._window.reset()
        self._report((yield from self._history.set(messages, wait=self.wait)))

    def _reset(self, status: MessageStatus | None) -> Flow[None]:
        left: list[Entry] = []
        if status is not None:
            yield from self._history.refresh(everything=True)
            entries = yield from self._history.read()
            start = self._start(entries)
            left = entries[:start] if status is MessageStatus.ACTIVE else entries[start:]
        yield from self._set([entry.message for entry in left])

    @dispatcher.span
    def _remember(self, messages: Sequence[ChatMessage]) -> None:
        self._report(run(self._history.add(messages, wait=self.wait)))

    @dispatcher.span
    async def _aremember(self, messages: Sequence[ChatMessage]) -> None:
        self._report(await arun(self._history.add(messages, wait=self.wait)))

    @dispatcher.span
    def _recall(self, query: str, here: list[str]) -> str:
        return run(self._recalling(query, here))

    @dispatcher.span
    async def _arecall(self, query: str, here: list[str]) -> str:
        return await arun(self._recalling(query, here))

    def _recalled_for(self, shown: Sequence[Entry], input: str | ChatMessage | None) -> Flow[str]:
        """The memories for what is asked, as lines; they are looked up once per turn."""
        asked = _asked(shown, input)
        if asked is None:
            return ""
        if self._recalled is not None and self._is_recalled(asked):
            return self._recalled[-1]
        here = [entry.id for entry in shown if entry.spoken]
        text: str = yield from Call(lambda: self._recall(asked.query, here), lambda: self._arecall(asked.query, here))
        self._recalled = (asked, self.memory.revisions, text) if asked.at is not None else None
        return text

    def _is_recalled(self, asked: _Asked | None) -> bool:
        """Whether that was recalled, and nothing was erased, forgotten or changed since."""
        return self._recalled is not None and self._recalled[:2] == (asked, self.memory.revisions)

    def _recalling(self, query: str, here: Sequence[str]) -> Flow[str]:
        look_up = self._look_up(query, here)
        hits = yield from (self._told_as_retrieval(query, look_up) if is_heard(self._callbacks) else look_up)
        left = self.token_limit - self._room - _FRAME
        return as_context(hits, token_budget=min(self.memory.settings.token_budget, left))

    def _look_up(self, query: str, here: Sequence[str]) -> Flow[list[Hit]]:
        try:
            return (yield from unseen(self.memory, query, scope=self._history.scope, limit=self.limit, here=here))
        except UNAVAILABLE as error:
            warn("recall", error)
            return []

    def _told_as_retrieval(self, query: str, look_up: Flow[list[Hit]]) -> Flow[list[Hit]]:
        dispatcher.event(RetrievalStartEvent(str_or_query_bundle=query))
        with self._callbacks.event(CBEventType.RETRIEVE, payload={EventPayload.QUERY_STR: query}) as event:
            hits = yield from look_up
            nodes = as_nodes(hits)
            event.on_end(payload={EventPayload.NODES: nodes})
        dispatcher.event(RetrievalEndEvent(str_or_query_bundle=query, nodes=nodes))
        return hits

    async def _of_blocks(
        self, history: list[ChatMessage], input: str | ChatMessage | None, block_kwargs: dict[str, Any], recalled: str
    ) -> tuple[list[ContentBlock], list[ChatMessage]]:
        """What the `memory_blocks` show, within what the chat history and the recalled memories leave."""
        found = await self._get_memory_blocks_content(history, input=input, **block_kwargs)
        tokens = sum(self._estimate_token_count(content) for content in found.values() if content)
        taken = self._estimate_token_count(history) + self._estimate_token_count(recalled)
        found = await self._truncate_memory_blocks(found, tokens, taken)
        templated, beside = await self._format_memory_blocks(found)
        made = self.memory_blocks_template.format_messages(memory_blocks=templated) if templated else []
        return made[0].blocks if made else [], beside

    @property
    def _room(self) -> int:
        """Tokens that the chat history may take."""
        return int(self.token_limit * self.chat_history_token_ratio)

    @property
    def _callbacks(self) -> CallbackManager:
        return self.callback_manager or Settings.callback_manager

    def _fills(self, entries: Sequence[Entry]) -> bool:
        return self._window.is_full(entries, self._room)

    def _start(self, entries: Sequence[Entry]) -> int:
        return self._window.start(entries, room=self._room, at_once=self.token_flush_size)

    def _advance(self, entries: Sequence[Entry]) -> Flow[int]:
        """As `_start`; what is no longer shown from now on goes to the `memory_blocks`."""
        start, ejected = self._window.move(entries, room=self._room, at_once=self.token_flush_size)
        if ejected and self.memory_blocks:
            messages = [copied(entry.message) for entry in ejected]
            yield from _waited(lambda: self._waterfall(messages))
        return start

    async def _waterfall(self, messages: list[ChatMessage]) -> None:
        for block in self.memory_blocks:
            await block.aput(messages, from_short_term_memory=True, session_id=self.session_id)

    def _report(self, result: AddResult | None) -> None:
        if result is not None:
            report(result, self.memory, self._callbacks)


def _asked(shown: Sequence[Entry], input: str | ChatMessage | None) -> _Asked | None:
    """What the memories are to be about: `input`, or what the person said last. None: there are no words.

    An agent gives the person's words, which stand in the history already, as `input` again after each tool; a chat
    engine gives them before it puts them there.
    """
    place = _latest(shown)
    last = shown[place] if place is not None else None
    said = text_of(last.message) if last else ""
    given = text_of(input) if isinstance(input, ChatMessage) else input
    answered = last is None or any(is_reply(entry.message) for entry in shown[place:])
    if given is None or (given == said and not answered):
        return _Asked(said, last.id if last else None) if said.strip() else None
    return _Asked(given, None) if given.strip() else None


def _latest(shown: Sequence[Entry]) -> int | None:
    """Where the person's last message is."""
    return next((place for place in reversed(range(len(shown))) if by_person(shown[place].message)), None)


def _with_person(history: list[ChatMessage]) -> list[ChatMessage]:
    """A history with an exchange at its head for memories to stand in. Roles go on taking turns: many chat templates
    want that.
    """
    heads = [message for message in history if message.role == MessageRole.SYSTEM]
    rest = [message for message in history if message.role != MessageRole.SYSTEM]
    return [*heads, ChatMessage(role="user", blocks=[]), ChatMessage(role="assistant", content="Understood."), *rest]


def _given(shown: Sequence[Entry]) -> list[ChatMessage]:
    """The messages as they are handed out: copies, where agents write their state and memories stand, which is in the
    last exchange and in system messages.
    """
    latest = _latest(shown) or 0
    return [
        copied(entry.message) if place >= latest or entry.message.role == MessageRole.SYSTEM else entry.message
        for place, entry in enumerate(shown)
    ]


def _waited(work: Callable[[], Any]) -> Call[Any]:
    """What LlamaIndex has as a coroutine only."""
    return Call(lambda: asyncio_run(work()), work)
