"""A LlamaIndex LLM as the Executive that asks a Memory model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.llms.llm import LLM

from memlora_plugins import Usage
from memlora_plugins.memo.executive import ExecutiveReply
from memlora_plugins.serving.base import ChatMessage as PlainMessage

_INPUT = ("prompt_tokens", "input_tokens", "prompt_token_count")
_OUTPUT = ("completion_tokens", "output_tokens", "candidates_token_count")


class LLMExecutive:
    """Lets an LLM of LlamaIndex reason about what a Memory model says: `Protocol(executive=LLMExecutive(llm), …)`.

    Its calls are chats of the LLM: with the LLM's own spans, events and callbacks, and with its own retries. Replies
    carry the tokens that the LLM reports.

    Args:
        llm: any LLM, function-calling or not.
        structured: True holds replies to their JSON schema with `response_format`, as OpenAI-compatible servers take
            it; False leaves it to the prompts, which ask for JSON in words. None (the default): True for an LLM that
            says so of itself, as `OpenAI` and `OpenAILike(should_use_structured_outputs=True)` do.
        temperatures: True passes the temperature of each stage along. False leaves it to the LLM: for models that
            refuse one, as some that reason do. None (the default): True for an LLM that has a `temperature`.

    Raises (by a run):
        Whatever the LLM raises.
    """

    def __init__(self, llm: LLM, *, structured: bool | None = None, temperatures: bool | None = None) -> None:
        self.llm = llm
        self.structured = _takes_schemas(llm) if structured is None else structured
        self.temperatures = "temperature" in type(llm).model_fields if temperatures is None else temperatures

    def complete(
        self, messages: Sequence[PlainMessage], *, schema: Mapping[str, Any], temperature: float
    ) -> ExecutiveReply:
        """The LLM's reply. `.usage` has its tokens, 0 where it reports none."""
        return _reply(self.llm.chat(_chat(messages), **self._asked(schema, temperature)))

    async def acomplete(
        self, messages: Sequence[PlainMessage], *, schema: Mapping[str, Any], temperature: float
    ) -> ExecutiveReply:
        """As `complete`."""
        return _reply(await self.llm.achat(_chat(messages), **self._asked(schema, temperature)))

    def _asked(self, schema: Mapping[str, Any], temperature: float) -> dict[str, Any]:
        asked: dict[str, Any] = {"temperature": temperature} if self.temperatures else {}
        if self.structured:
            named = {"name": "reply", "schema": dict(schema), "strict": True}
            asked["response_format"] = {"type": "json_schema", "json_schema": named}
        return asked


def _takes_schemas(llm: LLM) -> bool:
    """LLMs of the kind of OpenAI's say whether their model keeps to schemas. Nothing public tells it."""
    says = getattr(llm, "_should_use_structure_outputs", None)
    return callable(says) and bool(says())


def _chat(messages: Sequence[PlainMessage]) -> list[ChatMessage]:
    return [ChatMessage(role=message["role"], content=message["content"]) for message in messages]


def _reply(response: ChatResponse) -> ExecutiveReply:
    return ExecutiveReply(response.message.content or "", _usage(response))


def _usage(response: ChatResponse) -> Usage:
    """The tokens of a reply, where the LLM's package left them: there is no one place for it."""
    extra = response.additional_kwargs
    raw = response.raw
    for told in (_part(raw, "usage"), _part(raw, "usage_metadata"), extra.get("usage"), extra):
        taken, given = _count(told, _INPUT), _count(told, _OUTPUT)
        if taken or given:
            return Usage(1, taken, given)
    return Usage(1)


def _part(whole: Any, name: str) -> Any:
    return whole.get(name) if isinstance(whole, Mapping) else getattr(whole, name, None)


def _count(told: Any, names: Sequence[str]) -> int:
    counts = (_part(told, name) for name in names)
    return next((count for count in counts if isinstance(count, int) and count > 0), 0)
