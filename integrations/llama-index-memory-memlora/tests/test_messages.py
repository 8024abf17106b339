"""Chat messages as turns, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from llama_index.memory.memlora.messages import as_message, from_kept, is_reply, text_of
from memlora_plugins import ImagePart

CALL = ToolCallBlock(tool_name="clock", tool_kwargs={})
TEXT = st.text(max_size=40)
URLS = st.sampled_from(["https://example.org/a.png", "http://example.org/b.jpg"])
BLOCKS = st.one_of(
    st.builds(TextBlock, text=TEXT),
    st.builds(ImageBlock, url=URLS),
    st.builds(ToolCallBlock, tool_call_id=TEXT, tool_name=TEXT, tool_kwargs=st.dictionaries(TEXT, TEXT, max_size=2)),
    st.builds(ThinkingBlock, content=TEXT),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=2), max_leaves=4
)
MESSAGES = st.builds(
    ChatMessage,
    role=st.sampled_from(MessageRole),
    blocks=st.lists(BLOCKS, max_size=3),
    additional_kwargs=st.dictionaries(TEXT.filter(lambda key: key != "images"), JSON, max_size=2),
)


@given(MESSAGES)
def test_a_message_comes_back_as_it_was(message: ChatMessage) -> None:
    kept = as_message(message)
    if kept is None:
        assert not text_of(message).strip()
    else:
        back = from_kept(kept)
        assert back is not None
        assert back.model_dump(mode="json") == message.model_dump(mode="json")


@given(st.text(st.characters(exclude_categories=()), max_size=20), st.sampled_from(MessageRole))
def test_any_text_is_kept(text: str, role: MessageRole) -> None:
    kept = as_message(ChatMessage(role=role, content=f"x{text}"))
    assert kept is not None
    assert kept.text.startswith("x")
    assert from_kept(kept) is not None


@pytest.mark.parametrize(
    ("message", "role", "text"),
    [
        (ChatMessage(role="user", content="Hello"), "user", "Hello"),
        (ChatMessage(role="model", content="Hello"), "assistant", "Hello"),
        (ChatMessage(role="developer", content="Be kind"), "system", "Be kind"),
        (ChatMessage(role="tool", content="noon"), "tool", "noon"),
        (ChatMessage(role="tool", content=None), "tool", "[tool result]"),
        (
            ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="clock", tool_kwargs={})]),
            "tool",
            "[call of clock]",
        ),
        (ChatMessage(role="assistant", additional_kwargs={"tool_calls": [{}]}), "tool", "[call of a tool]"),
        (ChatMessage(role="user", blocks=[AudioBlock(audio=b"abc", format="mp3")]), "tool", "[audio]"),
        (ChatMessage(role="user", blocks=[TextBlock(text="a"), TextBlock(text="b")]), "user", "a\nb"),
        (
            ChatMessage(role="user", blocks=[TextBlock(text="a"), CachePoint(cache_control=CacheControl(type="x"))]),
            "user",
            "a",
        ),
    ],
)
def test_what_a_message_is_kept_as(message: ChatMessage, role: str, text: str) -> None:
    kept = as_message(message)
    assert kept is not None
    assert (kept.role, kept.text) == (role, text)


def test_images_are_kept(tmp_path: Any) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG" + bytes(20))
    blocks = [
        ImageBlock(url="https://example.org/a.png"),
        ImageBlock(image=b"\x89PNG" + bytes(20), image_mimetype="image/png"),
        ImageBlock(path=tmp_path / "a.png"),
    ]
    kept = as_message(ChatMessage(role="user", blocks=blocks))
    assert kept is not None
    assert [image.url[:20] for image in kept.images] == [
        "https://example.org/",
        "data:image/png;base6",
        "data:image/png;base6",
    ]
    (tmp_path / "a.png").unlink()
    gone = as_message(ChatMessage(role="user", blocks=[TextBlock(text="Look"), blocks[2]]))
    assert gone is not None
    assert gone.images == ()
    assert isinstance(kept.images[0], ImagePart)


def test_a_name_is_kept() -> None:
    kept = as_message(ChatMessage(role="user", content="Hello", additional_kwargs={"name": "Ana"}))
    assert kept is not None
    assert kept.name == "Ana"


def test_what_json_cannot_hold_leaves_the_words() -> None:
    kept = as_message(ChatMessage(role="user", content="Hello", additional_kwargs={"x": object()}))
    assert kept is not None
    back = from_kept(kept)
    assert back is not None
    assert back.content == "Hello"


@pytest.mark.parametrize(
    ("message", "ends"),
    [
        (ChatMessage(role="assistant", content="Yes."), True),
        (ChatMessage(role="assistant", content="Yes.", additional_kwargs={"tool_calls": [{}]}), False),
        (
            ChatMessage(
                role="assistant", blocks=[TextBlock(text="Yes."), ToolCallBlock(tool_name="x", tool_kwargs={})]
            ),
            False,
        ),
        (ChatMessage(role="assistant", content=None), False),
        (ChatMessage(role="user", content="Yes."), False),
        (ChatMessage(role="tool", content="Yes."), False),
    ],
)
def test_what_ends_an_exchange(message: ChatMessage, ends: bool) -> None:
    assert is_reply(message) == ends
