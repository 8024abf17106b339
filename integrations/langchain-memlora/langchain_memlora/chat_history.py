"""The messages of one conversation, kept in the memory; facts are distilled behind it."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from memlora_plugins import AddResult, Memory, Message, Scope, ScopeError, Turn
from memlora_plugins.flows.effects import Flow
from memlora_plugins.plugs.doors import arun, run, through

from .messages import as_message, from_turns
from .steps import log


class MemLoRAChatMessageHistory(BaseChatMessageHistory):
    """A session's messages, for `RunnableWithMessageHistory` and other programs that keep a history.

    Messages come back as they were added, tool calls and content blocks with them; blank ones are left out, and one
    with an id that is there already changes nothing. What the person says is distilled into facts, which all sessions
    of the person share.

    Args:
        memory: the open memory; it stays the caller's to close.
        user_id: whose conversation it is.
        session_id: which one.
        agent_id: keeps this agent's memory apart from that of others of the same person.
        wait: True distils while messages are added; False (the default) in the background.

    Raises:
        ScopeError: a blank id. MessageError (when adding): something that is no message.
    """

    def __init__(
        self, *, memory: Memory, user_id: str, session_id: str, agent_id: str | None = None, wait: bool = False
    ) -> None:
        super().__init__()
        self.memory = memory
        if session_id is None:
            raise ScopeError("Which conversation is it? Pass session_id; without one it would be all of the person's.")
        self.scope = Scope(user_id, agent_id, session_id)
        self.wait = wait

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # the base class wants a property or attribute
        """What was said in this session, in order."""
        return run(self._messages())

    async def aget_messages(self) -> list[BaseMessage]:
        """As `messages`."""
        return await arun(self._messages())

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Keep messages, and distil what the person said."""
        run(self._add(messages))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """As `add_messages`."""
        await arun(self._add(messages))

    def clear(self) -> None:
        """Erase the session: its messages, and the facts that nothing else tells. Physically; see `Memory.erase`. To
        begin another conversation and keep this one, use another `session_id`.
        """
        self.memory.erase(scope=self.scope)

    async def aclear(self) -> None:
        """As `clear`."""
        await self.memory.aio.erase(scope=self.scope)

    def _messages(self) -> Flow[list[BaseMessage]]:
        turns: list[Turn] = yield from through(self.memory, lambda door: door.turns(scope=self.scope))
        return from_turns(turns)

    def _add(self, messages: Sequence[BaseMessage]) -> Flow[None]:
        kept = [message for message in map(as_message, messages) if message is not None]
        yield from remember(self.memory, kept, self.scope, wait=self.wait)


def remember(memory: Memory, messages: Sequence[Message], scope: Scope, *, wait: bool) -> Flow[None]:
    """Add messages where nobody takes a result: what fell short is logged."""
    if messages:
        result: AddResult = yield from through(memory, lambda door: door.add(messages, scope=scope, wait=wait))
        for failure in result.errors:
            log.warning("memory fell short: %s (%s)", failure.stage, type(failure.error).__name__)
