"""The Executive: the large, frozen model that asks the Memory model and reasons about what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

from ..errors import SettingsError
from ..serving.base import Backend, ChatMessage, Completion, Request
from ..types import Usage

EXPERT = "executive"
"""What a backend is asked for; an endpoint receives it as the name of the schema."""


@runtime_checkable
class Executive(Protocol):
    """Anything that completes a chat: an HTTP endpoint, a LangChain chat model, a LlamaIndex LLM.

    `schema` is a JSON schema that the reply is to follow; one that cannot be held to it may still say it in words. The
    protocol reads replies tolerantly. A reply may be an `ExecutiveReply`, which tells the tokens that it took.
    """

    def complete(self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], temperature: float) -> str: ...

    async def acomplete(
        self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], temperature: float
    ) -> str: ...


class ExecutiveReply(str):
    """What an Executive said, with the tokens that it took."""

    __slots__ = ("usage",)

    usage: Usage

    def __new__(cls, text: str, usage: Usage) -> Self:
        made = super().__new__(cls, text)
        made.usage = usage
        return made

    def __getnewargs__(self) -> tuple[str, Usage]:  # type: ignore[override]  # of str, whose copy has no usage
        return str(self), self.usage


class EndpointExecutive:
    """A model behind a backend as the Executive: `EndpointExecutive(OpenAIBackend(base_url, model))`.

    `max_tokens` bounds a reply, thinking included. A reply that is cut off is returned as it is: the protocol reads
    what there is of it. The backend stays open for whoever opened it.

    Raises:
        SettingsError: `max_tokens` is less than 1.
    Raises (both methods), which ends the protocol, as there is no answer without an Executive:
        BackendUnavailableError, BackendTimeoutError, BackendRequestError: it cannot be reached, or refuses.
        PromptTooLongError: what was said so far does not fit into its context window.
    """

    def __init__(self, backend: Backend, *, max_tokens: int = 2048) -> None:
        if max_tokens < 1:
            raise SettingsError(f"max_tokens must be at least 1, got {max_tokens}.")
        self.backend = backend
        self._max_tokens = max_tokens

    def __repr__(self) -> str:
        return f"<EndpointExecutive: {self.backend.describe()}>"

    def complete(
        self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], temperature: float
    ) -> ExecutiveReply:
        """The reply to a chat."""
        return _reply(self.backend.complete(self._request(messages, schema, temperature)))

    async def acomplete(
        self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], temperature: float
    ) -> ExecutiveReply:
        """As `complete`."""
        return _reply(await self.backend.acomplete(self._request(messages, schema, temperature)))

    def _request(self, messages: Sequence[ChatMessage], schema: Mapping[str, Any], temperature: float) -> Request:
        return Request(EXPERT, messages, schema, self._max_tokens, temperature)


def _reply(completion: Completion) -> ExecutiveReply:
    return ExecutiveReply(completion.text, completion.usage)
