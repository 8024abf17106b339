"""Long-term memory as one block of a `Memory` that somebody composes."""

from __future__ import annotations

import threading
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import BaseMemoryBlock
from llama_index.core.utils import get_tokenizer
from pydantic import Field, PrivateAttr

from memlora_plugins import AddResult, Hit, Memory, Message, Scope, as_context
from memlora_plugins.plugs.doors import UNAVAILABLE, arun
from memlora_plugins.plugs.recalled import introduced, unseen

from .events import report, warn
from .messages import as_message, by_person, text_of

_SESSION = "session_id"  # where `BaseMemoryBlock.aput` notes it on messages


class MemLoRAMemoryBlock(BaseMemoryBlock[str]):
    """Recalls what is remembered of a person, and remembers what a `Memory` no longer has room for.

    A `Memory` gives its blocks only what its queue ejects, which is after 70 % of `token_limit`: until then nothing is
    remembered. Where every exchange should be, take `MemLoRAMemory`.

    Args:
        memory: the open memory; it stays the caller's to close.
        user_id: whose memory it is.
        agent_id: keeps this agent's memory apart from that of others of the same person.
        limit: how many facts and turns are recalled at most.
        token_budget: estimated tokens of them; None: `Settings.token_budget`.
        wait: True distils while messages are ejected; False (the default) in the background.
        priority: with the default 1 the block is truncated where its `Memory` is too long; 0: never.

    Raises:
        ScopeError: a blank or missing id.
    """

    name: str = Field(default="LongTermMemory")
    priority: int = Field(default=1)
    memory: Memory = Field(exclude=True)
    user_id: str
    agent_id: str | None = None
    limit: int = Field(default=10, ge=1)
    token_budget: int | None = Field(default=None, ge=1)
    wait: bool = False

    _queue: dict[str | None, list[Message]] = PrivateAttr(default_factory=dict)  # what is to be kept, by session
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)  # over it; never held while the store is asked

    def __init__(self, **values: Any) -> None:
        Scope(values.get("user_id"), values.get("agent_id"))  # type: ignore[arg-type]
        super().__init__(**values)

    async def _aget(
        self, messages: list[ChatMessage] | None = None, session_id: str | None = None, **block_kwargs: Any
    ) -> str:
        """What is remembered about the person's last words; nothing where memory is out of reach."""
        said = [text for text in (text_of(message) for message in messages or () if by_person(message)) if text.strip()]
        if not said:
            return ""
        scope = Scope(self.user_id, self.agent_id, session_id)
        try:
            hits: list[Hit] = await arun(unseen(self.memory, said[-1], scope=scope, limit=self.limit, here=()))
        except UNAVAILABLE as error:
            warn("recall", error)
            return ""
        budget = self.memory.settings.token_budget if self.token_budget is None else self.token_budget
        lines = as_context(hits, token_budget=budget)
        return introduced(lines) if lines else ""

    async def _aput(self, messages: list[ChatMessage]) -> None:
        """Remember what the queue ejects. What the store cannot take waits for the next time."""
        with self._lock:
            for message in messages:
                kwargs = {key: value for key, value in message.additional_kwargs.items() if key != _SESSION}
                made = as_message(message.model_copy(update={"additional_kwargs": kwargs}))
                if made is not None:
                    self._queue.setdefault(message.additional_kwargs.get(_SESSION), []).append(made)
            waiting = {session: list(said) for session, said in self._queue.items() if said}
        for session, said in waiting.items():
            scope = Scope(self.user_id, self.agent_id, session)
            try:
                result: AddResult = await self.memory.aio.add(said, scope=scope, wait=self.wait)
            except UNAVAILABLE as error:
                warn("keep", error, unkept=len(said))
            else:
                with self._lock:
                    self._queue[session] = [one for one in self._queue[session] if one not in said]
                report(result, self.memory, None)

    async def atruncate(self, content: str, tokens_to_truncate: int) -> str | None:
        """Leaves out lines, the oldest first, until so many tokens are saved; None where none would be left."""
        tokenize = get_tokenizer()
        begin, introduction, *lines, end = content.splitlines()
        saved = 0
        while lines and saved < tokens_to_truncate:
            saved += len(tokenize(f"{lines.pop(0)}\n"))
        return "\n".join((begin, introduction, *lines, end)) if lines else None
