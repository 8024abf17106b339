"""The Executive: the large, frozen model that asks the Memory model and reasons about what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ..serving.base import ChatMessage


@runtime_checkable
class Executive(Protocol):
    """Anything that completes a chat: an HTTP endpoint, a LangChain chat model, a LlamaIndex LLM.

    `schema` is a JSON schema that the reply is to follow; one that cannot be held to it may still say it in words. The
    protocol reads replies tolerantly.
    """

    def complete(self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], temperature: float) -> str: ...

    async def acomplete(
        self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], temperature: float
    ) -> str: ...
