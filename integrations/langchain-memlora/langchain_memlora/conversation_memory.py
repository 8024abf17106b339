"""A drop-in for `ConversationBufferMemory` and `ConversationSummaryMemory` of `langchain_classic`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from langchain_classic.base_memory import BaseMemory
from langchain_classic.memory.utils import get_prompt_input_key
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, get_buffer_string
from pydantic import Field, model_validator

from memlora_plugins import Hit, InvalidInputError, Memory, Scope, Turn, as_context
from memlora_plugins.experts.wording import mark_injected
from memlora_plugins.flows.effects import Flow
from memlora_plugins.flows.recall import tokens
from memlora_plugins.plugs.doors import arun, run, through

from .chat_history import MemLoRAChatMessageHistory, remember
from .messages import as_message, from_turns

_MEMORIES_SHARE = 0.5
"""The most of the budget that memories may take; the latest turns have the rest, and what memories leave."""
_MARKERS = tokens(mark_injected(""))
_MOST_FOUND = 20  # facts and earlier turns considered


class MemLoRAConversationMemory(BaseMemory):
    """What a chain reads before it answers: memories that bear on the input, and the latest turns, within a budget.

    The memories (facts, and turns of other days) are dated lines between markers, first in the text, or one system
    message with `return_messages`; then come the latest turns as `ConversationBufferMemory` has them. An input is
    stored, with its output, when the chain has answered; `load_memory_variables` writes nothing.

    Args:
        memory: the open memory; it stays the caller's to close.
        user_id: whose memory it is.
        session_id: whose latest turns are shown, and where new ones belong; None: all conversations of the person.
        agent_id: keeps this agent's memory apart from that of others of the same person.
        memory_key, input_key, output_key, return_messages, human_prefix, ai_prefix: as `ConversationBufferMemory`.
        token_budget: estimated tokens of what is read; None: `Settings.token_budget`.
        wait: True distils while the chain waits; False (the default) in the background.

    Raises:
        ScopeError: a blank id. InvalidInputError (by a chain): which input or output is meant is not clear.
    """

    memory: Memory
    user_id: str
    session_id: str | None = None
    agent_id: str | None = None
    memory_key: str = "history"
    input_key: str | None = None
    output_key: str | None = None
    return_messages: bool = False
    human_prefix: str = "Human"
    ai_prefix: str = "AI"
    token_budget: int | None = Field(default=None, ge=16)
    wait: bool = False

    @model_validator(mode="after")
    def _named(self) -> Self:
        _ = self.scope
        return self

    @property
    def scope(self) -> Scope:
        """Whose memory it is, and which conversation."""
        return Scope(self.user_id, self.agent_id, self.session_id)

    @property
    def memory_variables(self) -> list[str]:
        """The one variable that a prompt gets."""
        return [self.memory_key]

    @property
    def chat_memory(self) -> BaseChatMessageHistory:
        """The messages of the session, as other memories of LangChain have them.

        Raises:
            ScopeError: there is no `session_id`.
        """
        return MemLoRAChatMessageHistory(
            memory=self.memory,
            user_id=self.user_id,
            session_id=self.session_id,  # type: ignore[arg-type]  # it says itself that there is none
            agent_id=self.agent_id,
            wait=self.wait,
        )

    @property
    def buffer(self) -> Any:
        """What a chain without an input would read."""
        return self.load_memory_variables({})[self.memory_key]

    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What is remembered about the input, and the latest turns. Without a readable input: the turns alone."""
        return run(self._load(inputs))

    async def aload_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As `load_memory_variables`."""
        return await arun(self._load(inputs))

    def save_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """Keep what was asked and answered, and distil it."""
        run(self._save(inputs, outputs))

    async def asave_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """As `save_context`."""
        await arun(self._save(inputs, outputs))

    def clear(self) -> None:
        """Erase the session (turns, and facts that nothing else tells), or without `session_id` all that is remembered
        of the person. Physically; see `Memory.erase`. To begin another conversation, use another `session_id`.
        """
        self.memory.erase(scope=self.scope)

    async def aclear(self) -> None:
        """As `clear`."""
        await self.memory.aio.erase(scope=self.scope)

    def _load(self, inputs: Mapping[str, Any]) -> Flow[dict[str, Any]]:
        budget = self.memory.settings.token_budget if self.token_budget is None else self.token_budget
        latest: list[Turn] = yield from through(
            self.memory, lambda door: door.turns(scope=self.scope, limit=budget // 4, newest_first=True)
        )
        spoken = [turn for turn in latest if turn.spoken and turn.text.strip()]
        costs = [tokens(f"{self.human_prefix}: {turn.text}") for turn in spoken]
        query = _text(self._input(inputs, required=False))
        hits: list[Hit] = []
        if query.strip():
            hits = yield from through(
                self.memory,
                lambda door: door.search(query, scope=self.scope.without_session(), limit=_MOST_FOUND),
            )
        share = max(0, int(budget * _MEMORIES_SHARE) - _MARKERS)
        memories = _without(spoken[: _fitting(costs, budget - share)], hits, share)
        room = budget - (tokens(memories) + _MARKERS if memories else 0)
        turns = spoken[: _fitting(costs, room)]  # as many more as the memories leave room for
        if spoken and not turns:
            turns = [_cut(spoken[0], room)]
        return {self.memory_key: self._rendered(_without(turns, hits, share), turns[::-1])}

    def _rendered(self, memories: str, turns: list[Turn]) -> str | list[BaseMessage]:
        messages = from_turns(turns)
        if self.return_messages:
            return [SystemMessage(content=mark_injected(memories)), *messages] if memories else messages
        lines = get_buffer_string(messages, human_prefix=self.human_prefix, ai_prefix=self.ai_prefix)
        return "\n".join(part for part in (mark_injected(memories) if memories else "", lines) if part)

    def _save(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Flow[None]:
        said = [*_messages(self._input(inputs), HumanMessage), *_messages(self._output(outputs), AIMessage)]
        kept = [message for message in map(as_message, said) if message is not None]
        yield from remember(self.memory, kept, self.scope, wait=self.wait)

    def _input(self, inputs: Mapping[str, Any], *, required: bool = True) -> Any:
        try:
            return inputs[self.input_key or get_prompt_input_key(dict(inputs), self.memory_variables)]
        except (KeyError, ValueError):
            if not required:
                return None
            raise InvalidInputError(f"Which of {sorted(inputs)} the person said is not clear; set input_key.") from None

    def _output(self, outputs: Mapping[str, Any]) -> Any:
        key = self.output_key or (next(iter(outputs)) if len(outputs) == 1 else "output")
        if key not in outputs:
            raise InvalidInputError(f"Which of {sorted(outputs)} is the reply is not clear; set output_key.")
        return outputs[key]


def _without(shown: list[Turn], hits: list[Hit], token_budget: int) -> str:
    """What was found and is not shown anyway."""
    here = {turn.id for turn in shown}
    return as_context([hit for hit in hits if hit.id not in here], token_budget=token_budget)


def _cut(turn: Turn, room: int) -> Turn:
    """The end of a turn that is too long to be shown whole."""
    return replace(turn, text=f"… {turn.text[-3 * max(1, room - _MARKERS) :]}", images=(), metadata={})


def _fitting(costs: list[int], room: int) -> int:
    """How many of the first items fit."""
    for count, cost in enumerate(costs):
        room -= cost
        if room < 0:
            return count
    return len(costs)


def _messages(value: Any, kind: type[HumanMessage] | type[AIMessage]) -> list[BaseMessage]:
    """What a chain has as an input or output, as messages."""
    if isinstance(value, BaseMessage):
        return [value]
    if isinstance(value, list) and value and all(isinstance(item, BaseMessage) for item in value):
        return value
    return [kind(content="" if value is None else value if isinstance(value, str | list) else str(value))]


def _text(value: Any) -> str:
    return "\n".join(str(message.text) for message in _messages(value, HumanMessage))
