"""A LangChain chat model as the Executive of MeMo's protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence

from memlora_plugins import Usage
from memlora_plugins.memo.executive import ExecutiveReply
from memlora_plugins.serving.base import ChatMessage

from .steps import UNSTREAMED

_UNSEEN: RunnableConfig = {"tags": [UNSTREAMED]}  # what an Executive says on the way is not for the reader of a stream


class ChatModelExecutive:
    """Lets a chat model lead `memlora_plugins.memo.protocol.Protocol`. Its runs are children of the current run.

    Args:
        model: any chat model, such as `init_chat_model` makes.
        structured: hold replies to the form that is asked for, by the model's own `with_structured_output`. A model
            that has none is asked in words alone, as all are with False: for a server that refuses such requests.
        temperatures: ask at the temperature of each stage, if the model has a field `temperature` and its profile does
            not say that it takes none. False: at the model's own, for one that refuses any other.

    Raises (by a call):
        Whatever the model raises.
    """

    def __init__(self, model: BaseChatModel, *, structured: bool = True, temperatures: bool = True) -> None:
        self.model = model
        self.structured = structured
        self.temperatures = temperatures

    def complete(
        self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], temperature: float
    ) -> ExecutiveReply:
        """The reply to `messages`, with `usage`."""
        return _reply(self._asked(schema, temperature).invoke(_converted(messages), _UNSEEN))

    async def acomplete(
        self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], temperature: float
    ) -> ExecutiveReply:
        """As `complete`."""
        return _reply(await self._asked(schema, temperature).ainvoke(_converted(messages), _UNSEEN))

    def _asked(self, schema: Mapping[str, Any], temperature: float) -> Runnable[Any, Any]:
        model = self.model
        if self.temperatures and _takes_temperature(model):
            model = model.model_copy(update={"temperature": temperature})
        if not self.structured:
            return model
        try:
            held = model.with_structured_output({"title": "reply", "description": "The whole reply.", **schema})
        except NotImplementedError:
            return model
        # The model that is held to the form, without the parser behind it: the protocol reads replies by itself, also
        # those that are not quite in form.
        return held.first if isinstance(held, RunnableSequence) else model


def _takes_temperature(model: BaseChatModel) -> bool:
    return "temperature" in type(model).model_fields and (model.profile or {}).get("temperature", True)


def _converted(messages: Sequence[ChatMessage]) -> list[BaseMessage]:
    return convert_to_messages([dict(message) for message in messages])


def _reply(message: BaseMessage) -> ExecutiveReply:
    counted = getattr(message, "usage_metadata", None) or {}
    usage = Usage(1, counted.get("input_tokens", 0), counted.get("output_tokens", 0))
    return ExecutiveReply(_text(message), usage)


def _text(message: BaseMessage) -> str:
    """What a model said, in words or as the arguments of the call that its provider makes of a form."""
    if isinstance(message, AIMessage):
        if message.tool_calls:
            return json.dumps(message.tool_calls[0]["args"], ensure_ascii=False)
        if message.invalid_tool_calls:
            return message.invalid_tool_calls[0]["args"] or ""
    return str(message.text)
