"""The chat model of these examples: a model of yours, or a script that stands in for one.

`MEMLORA_EXAMPLE_MODEL=openai:gpt-…` (anything `init_chat_model` takes) lets a real model speak. Without it a script
does, so that the examples run offline: what it says, it reads in the memories that it is shown.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field

Script = Callable[[list[BaseMessage]], AIMessage | str]


class ScriptedChatModel(BaseChatModel):
    """A fake chat model: `script` says what it replies to the messages it is given. `seen` are those, call by call."""

    script: Script
    seen: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self

    def _reply(self, messages: list[BaseMessage]) -> AIMessage:
        self.seen.append(list(messages))
        reply = self.script(messages)
        return AIMessage(content=reply) if isinstance(reply, str) else reply

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages))])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages)
        for word in re.findall(r"\S+\s*", str(reply.text)) or [""]:
            yield ChatGenerationChunk(message=AIMessageChunk(content=word, id=reply.id))
        calls = [tool_call_chunk(id=c["id"], name=c["name"], args=json.dumps(c["args"])) for c in reply.tool_calls]
        if calls:
            yield ChatGenerationChunk(message=AIMessageChunk(content="", id=reply.id, tool_call_chunks=calls))


def from_memory(messages: list[BaseMessage]) -> str:
    """A script that repeats the memory with most words of what was said last; a statement it only acknowledges."""
    asked = str(messages[-1].text)
    if "?" not in asked:
        return "I see."
    shown = "\n".join(str(message.text) for message in messages[:-1] if isinstance(message, SystemMessage))
    found = re.findall(r"^\[\w+ [\d-]+\] (.*)$", shown, flags=re.M)
    lines = [line for line in found if "?" not in line and not line.startswith("assistant ")]
    wanted = _words(asked)
    best = max(reversed(lines), key=lambda line: len(_words(line) & wanted), default="")
    return f"You told me: {best}" if _words(best) & wanted else "You have not told me."


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


def brain(script: Script = from_memory) -> BaseChatModel:
    """The model that `MEMLORA_EXAMPLE_MODEL` names, or the script."""
    named = os.environ.get("MEMLORA_EXAMPLE_MODEL")
    return init_chat_model(named) if named else ScriptedChatModel(script=script)
