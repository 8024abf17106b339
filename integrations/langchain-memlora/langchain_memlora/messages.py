"""LangChain's messages as the core's, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import NAMESPACE_OID, uuid4, uuid5

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
)

from memlora_plugins import ImagePart, Message, MessageError, TextPart, Turn
from memlora_plugins.types import Part, Role, clean_text

VERBATIM = "langchain"
"""Key of a turn's metadata: the LangChain message as JSON, without its content where the turn's text is all of it."""
_MADE_UP = "lc_source"
"""LangChain's mark on messages that a middleware wrote, such as a summary in the place of what was said."""
_KNOWN = (HumanMessage, AIMessage, SystemMessage, ToolMessage, ChatMessage, FunctionMessage)
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
_MADE: dict[Role, type[BaseMessage]] = {"user": HumanMessage, "assistant": AIMessage, "system": SystemMessage}


def said(messages: Iterable[BaseMessage]) -> list[Message]:
    """What the person and the agent said to each other: no system messages, tool traffic, summaries, nor anything
    blank. A person's message that holds neither text nor a readable image (a recording, say) is kept as what it is,
    but neither searched nor distilled.
    """
    found = [
        as_message(message, verbatim=not isinstance(message.content, str))
        for message in messages
        if by_person(message) or (isinstance(message, AIMessage) and parts_of(message))
        if _MADE_UP not in message.additional_kwargs
    ]
    return [message for message in found if message is not None]


def by_person(message: BaseMessage) -> bool:
    """Whether the person said it, or a middleware in the person's place."""
    return isinstance(message, HumanMessage) or (isinstance(message, ChatMessage) and _role(message) == "user")


def exchange(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """The end of a conversation from the person's first word that no reply has followed before the last one, on.

    A reply is a message of the agent that calls no tool, or a tool's result with which a run ended. What a failed run
    left unanswered belongs to the exchange that comes after it.
    """
    asked = [index for index, message in enumerate(messages) if by_person(message)]
    if not asked:
        return []
    start = asked[-1]
    while start and not _is_reply(messages[start - 1], messages[start]):
        start -= 1
    return messages[start:]


def _is_reply(message: BaseMessage, following: BaseMessage) -> bool:
    if isinstance(message, ToolMessage):
        return by_person(following)
    return isinstance(message, AIMessage) and not message.tool_calls and not message.invalid_tool_calls


def as_message(message: BaseMessage, *, verbatim: bool = True) -> Message | None:
    """A message as the core keeps it; with `verbatim`, with all that LangChain needs to have it back as it was. None if
    there is nothing in it.

    What is no text to read (tool calls, tool results, recordings) becomes a `tool` message: kept, never found.

    Raises:
        MessageError: not a message that can be kept, such as `RemoveMessage` or a type of your own.
    """
    if not isinstance(message, _KNOWN):
        raise MessageError(f"{type(message).__name__} cannot be remembered; pass human, AI, system or tool messages.")
    parts = parts_of(message)
    role = _role(message) if parts else "tool"
    if not parts:
        label = _label(message)
        if not label:
            return None
        parts = [TextPart(label)]
    plain = message.content if isinstance(message.content, str) and role != "tool" else None
    return Message(
        role,
        parts if plain is None else plain,
        id=_id(message),
        name=message.name,
        metadata=_verbatim(message, without_content=plain is not None) if verbatim else {},
    )


def _id(message: BaseMessage) -> str:
    """Its id; a blank one is replaced by one that is the same for the same text, a missing one by a new one."""
    if message.id is None:
        return str(uuid4())
    return message.id if message.id.strip() else str(uuid5(NAMESPACE_OID, clean_text(str(message.text))))


def parts_of(message: BaseMessage) -> list[Part]:
    """The text and the images of a message, in order."""
    if not message.content:
        return []
    if isinstance(message.content, str):
        return [TextPart(message.content)] if message.content.strip() else []
    parts: list[Part] = []
    for block in _blocks(message):
        text = block.get("text")
        if block.get("type") == "text" and isinstance(text, str) and text.strip():
            parts.append(TextPart(text))
        elif block.get("type") == "image" and (image := _image(block)):
            parts.append(image)
    return parts


def _blocks(message: BaseMessage) -> list[dict[str, Any]]:
    """The blocks in LangChain's standard form; as they are, where it cannot make sense of them."""
    try:
        return [dict(block) for block in message.content_blocks]
    except (AttributeError, KeyError, TypeError, ValueError):
        blocks = ({"type": "text", "text": block} if isinstance(block, str) else block for block in message.content)
        return [block for block in blocks if isinstance(block, dict)]


def _image(block: dict[str, Any]) -> ImagePart | None:
    url = block.get("url")
    if not url and block.get("base64"):
        url = f"data:{block.get('mime_type') or 'image/png'};base64,{block['base64']}"
    try:
        return ImagePart(url) if isinstance(url, str) else None
    except MessageError:  # a file of the sender's, say: it stays in what is kept verbatim
        return None


def _role(message: BaseMessage) -> Role:
    if isinstance(message, HumanMessage | AIMessage):  # whose chunks have types of their own
        return "user" if isinstance(message, HumanMessage) else "assistant"
    return _ROLES.get(message.role.lower() if isinstance(message, ChatMessage) else message.type, "tool")


def _label(message: BaseMessage) -> str:
    """A name for what has no words of its own."""
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    blocks = message.content if isinstance(message.content, list) else []
    kinds = [str(block.get("type")) for block in blocks if isinstance(block, dict) and block.get("type") != "text"]
    named = [f"call of {call['name']}" for call in calls] or kinds
    return f"[{', '.join(named)}]" if named else "[tool result]" if message.type in ("tool", "function") else ""


def _verbatim(message: BaseMessage, *, without_content: bool) -> dict[str, str]:
    """The metadata that brings the message back; none where JSON cannot hold it, so that its words alone come back."""
    try:
        data = message.model_dump_json(exclude={"content"} if without_content else None, fallback=str)
    except ValueError:
        return {}
    return {VERBATIM: f'{{"type": {json.dumps(message.type)}, "data": {data}}}'}


def from_turns(turns: Iterable[Turn]) -> list[BaseMessage]:
    """The messages that the turns of a conversation were; notes that an agent made are none."""
    return [message for message in map(_from_turn, turns) if message is not None]


def _from_turn(turn: Turn) -> BaseMessage | None:
    if VERBATIM in turn.metadata:
        kept = json.loads(turn.metadata[VERBATIM])
        kept["data"].setdefault("content", turn.text)
        kept["data"]["id"] = turn.message_id
        return messages_from_dict([kept])[0]
    if turn.role not in _MADE:
        return None
    content: str | list[str | dict[str, Any]] = turn.text
    if turn.images:
        text = [{"type": "text", "text": turn.text}] if turn.text else []
        content = [*text, *({"type": "image", "url": image.url} for image in turn.images)]
    return _MADE[turn.role](content=content, id=turn.message_id, name=turn.name)
