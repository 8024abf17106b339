"""LlamaIndex's chat messages as the core's, and back."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ContentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from memlora_plugins import ImagePart, Message, MessageError, TextPart, Turn
from memlora_plugins.experts import strip_injected
from memlora_plugins.types import Part, Role

VERBATIM = "llama_index"
"""Key of a turn's metadata: the chat message as JSON, where the turn's role and text are not all of it."""
_ROLES: dict[MessageRole, Role] = {
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
}
_CODE_OUTPUT = "Result of executing the code given:"  # how `CodeActAgent` begins it
_CALLS = ("tool_calls", "function_call")  # where older integrations keep them


def as_message(message: ChatMessage) -> Message | None:
    """A message as the core keeps it, with all that brings it back as it was; None if there is nothing in it.

    Memories that were shown in it are cut out. What is no text to read (tool calls, tool results, recordings) becomes
    a `tool` message: kept, never found.

    Raises:
        MessageError: not a `ChatMessage`.
    """
    if not isinstance(message, ChatMessage):
        raise MessageError(f"{type(message).__name__} cannot be remembered; pass a ChatMessage.")
    message = _without_memories(message)
    parts = _parts(message.blocks)
    code_output = message.role == MessageRole.USER and not by_person(message)
    role = "tool" if code_output or not parts else _ROLES.get(message.role, "tool")
    if not parts:
        label = _label(message)
        if not label:
            return None
        parts = [TextPart(label)]
    plain = role != "tool" and _is_plain(message)
    name = message.additional_kwargs.get("name")
    return Message(
        role,
        message.content or "" if plain else parts,
        name=name if isinstance(name, str) else None,
        metadata={} if plain else _verbatim(message),
    )


def by_person(message: ChatMessage) -> bool:
    """Whether the person said it: `CodeActAgent` has the output of its code in the person's place."""
    return message.role == MessageRole.USER and not (message.content or "").startswith(_CODE_OUTPUT)


def is_spoken(message: ChatMessage) -> bool:
    """Whether the person or the agent said it, in words: what a search finds."""
    by_agent = _ROLES.get(message.role) == "assistant"
    return (by_agent or by_person(message)) and bool(text_of(message).strip())


def is_reply(message: ChatMessage) -> bool:
    """Whether it ends an exchange: the agent says something and calls no tool."""
    return _ROLES.get(message.role) == "assistant" and bool(_parts(message.blocks)) and not _calls(message)


def text_of(message: ChatMessage) -> str:
    """The text of a message, without memories that were shown in it."""
    return "\n".join(part.text for part in _parts(_without_memories(message).blocks) if isinstance(part, TextPart))


def same(message: ChatMessage) -> Hashable:
    """What two messages have in common that are the same. Of words it is the words, however an LLM dressed them up."""
    message = _without_memories(message)
    if is_spoken(message) and not _calls(message) and not any(map(_is_content, message.blocks)):
        return _ROLES[message.role], text_of(message)
    verbatim = _verbatim(message)
    return message.role, verbatim[VERBATIM] if verbatim else text_of(message)


def _is_content(block: ContentBlock) -> bool:
    """Whether a block says something that is no text: an image, a recording, a document."""
    return not isinstance(block, TextBlock | ThinkingBlock | CachePoint)


def from_kept(kept: Turn | Message) -> ChatMessage | None:
    """The chat message that something kept was; None for a record of another kind, such as an agent's note."""
    verbatim = kept.metadata.get(VERBATIM)
    if verbatim is not None:
        return ChatMessage.model_validate_json(verbatim)
    if kept.role == "tool":
        return None
    text = [TextBlock(text=kept.text)] if kept.text or not kept.images else []
    return ChatMessage(
        role=MessageRole(kept.role), blocks=[*text, *(ImageBlock(url=image.url) for image in kept.images)]
    )


def copied(message: ChatMessage) -> ChatMessage:
    """A message that can be changed: agents write their state into the one they are given."""
    return message.model_copy(
        update={
            "blocks": [block.model_copy() for block in message.blocks],
            "additional_kwargs": dict(message.additional_kwargs),
        }
    )


def without(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a program stored with a turn, without what this module did."""
    return {key: value for key, value in metadata.items() if key != VERBATIM}


def _without_memories(message: ChatMessage) -> ChatMessage:
    cleaned = [_cleaned(block) for block in message.blocks]
    if all(new is old for new, old in zip(cleaned, message.blocks, strict=True)):
        return message
    kept = [block for block in cleaned if not isinstance(block, TextBlock) or block.text.strip()]
    return message.model_copy(update={"blocks": kept})


def _cleaned(block: ContentBlock) -> ContentBlock:
    if not isinstance(block, TextBlock) or not block.text:
        return block
    text = strip_injected(block.text)
    return block if text == block.text else TextBlock(text=text.strip("\n"))


def _is_plain(message: ChatMessage) -> bool:
    """Whether role and text say all."""
    only_text = len(message.blocks) == 1 and isinstance(message.blocks[0], TextBlock)
    return only_text and not message.additional_kwargs and message.role.value == _ROLES[message.role]


def _parts(blocks: Iterable[ContentBlock]) -> list[Part]:
    """The text and the images, in order."""
    parts: list[Part] = []
    for block in blocks:
        if isinstance(block, TextBlock) and block.text and block.text.strip():
            parts.append(TextPart(block.text))
        elif isinstance(block, ImageBlock) and (image := _image(block)):
            parts.append(image)
    return parts


def _image(block: ImageBlock) -> ImagePart | None:
    """None for what cannot be read here: it stays in what is kept verbatim."""
    try:
        if block.url:
            return ImagePart(str(block.url))
        encoded = block.resolve_image(as_base64=True).read().decode()
        return ImagePart(f"data:{block.image_mimetype or 'image/png'};base64,{encoded}")
    except (MessageError, OSError, ValueError):
        return None


def _calls(message: ChatMessage) -> list[str]:
    """The names of the tools that a message calls."""
    named = [block.tool_name for block in message.blocks if isinstance(block, ToolCallBlock)]
    if not named and any(message.additional_kwargs.get(key) for key in _CALLS):
        return ["a tool"]
    return named


def _label(message: ChatMessage) -> str:
    """A name for what has no words of its own."""
    if calls := _calls(message):
        return f"[call of {', '.join(calls)}]"
    kinds = [block.block_type for block in message.blocks if not isinstance(block, TextBlock)]
    if kinds:
        return f"[{', '.join(kinds)}]"
    return "[tool result]" if message.role in (MessageRole.TOOL, MessageRole.FUNCTION) else ""


def _verbatim(message: ChatMessage) -> dict[str, str]:
    """The metadata that brings the message back; none where JSON cannot hold it, so that its words alone come back."""
    try:
        return {VERBATIM: message.model_dump_json(fallback=str)}
    except ValueError:
        return {}
