"""Messages come back from a memory as they went in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_memlora.messages import as_message, by_person, exchange, from_turns, said
from memlora_plugins import ImagePart, Message, MessageError, Scope, Turn

NOW = datetime(2026, 5, 3, tzinfo=UTC)


def as_turn(message: Message, role: Any = None) -> Turn:
    return Turn(
        id="turn",
        scope=Scope("ana"),
        message_id=message.id,
        role=role or message.role,
        text=message.text,
        created_at=NOW,
        recorded_at=NOW,
        position=0,
        pending=False,
        name=message.name,
        images=message.images,
        metadata=message.metadata,
    )


def back(message: BaseMessage) -> BaseMessage | None:
    kept = as_message(message)
    return None if kept is None else from_turns([as_turn(kept)])[0]


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
BLOCK = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXT),
    st.just({"type": "image_url", "image_url": {"url": "https://example.org/cat.png", "detail": "low"}}),
    st.just({"type": "image", "base64": "AAAA", "mime_type": "image/jpeg"}),
    st.just({"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}),
    st.just({"type": "reasoning", "reasoning": "Hm."}),
)
CONTENT = st.one_of(TEXT, st.lists(BLOCK, max_size=3))
CALL = st.builds(lambda name, text: {"name": name, "args": {"text": text}, "id": "1", "type": "tool_call"}, TEXT, TEXT)
MESSAGE = st.one_of(
    st.builds(HumanMessage, content=CONTENT, id=st.just("h"), name=st.sampled_from([None, "Ana"])),
    st.builds(AIMessage, content=CONTENT, id=st.just("a"), tool_calls=st.lists(CALL, max_size=2)),
    st.builds(SystemMessage, content=TEXT, id=st.just("s")),
    st.builds(ToolMessage, content=CONTENT, id=st.just("t"), tool_call_id=st.just("1"), artifact=st.just({"k": 1})),
    st.builds(ChatMessage, content=TEXT, id=st.just("c"), role=st.sampled_from(["user", "assistant", "critic"])),
)


@given(MESSAGE)
def test_a_message_comes_back_as_it_was(message: BaseMessage) -> None:
    returned = back(message)
    if returned is None:
        assert not str(message.text).strip()
    else:
        assert returned == message


@given(st.lists(MESSAGE, max_size=8))
def test_only_people_and_agents_say_something(messages: list[BaseMessage]) -> None:
    for message in said(messages):
        assert message.role in ("user", "assistant", "tool")
        assert message.text.strip() or message.images
    assert all(message.id in ("h", "a", "c") for message in said(messages))


@given(st.lists(MESSAGE, max_size=8))
def test_an_exchange_is_the_end_and_has_the_last_words_of_the_person(messages: list[BaseMessage]) -> None:
    end = list(exchange(messages))
    assert end == messages[len(messages) - len(end) :]
    people = [message for message in messages if by_person(message)]
    assert bool(end) == bool(people)
    assert all(message in end for message in people[-1:])


def test_the_parts_of_a_chunk_are_a_message() -> None:
    chunk = AIMessageChunk(content="Hel", id="a") + AIMessageChunk(content="lo", id="a")
    kept = as_message(chunk)
    assert kept is not None
    assert (kept.role, kept.text) == ("assistant", "Hello")
    assert str(from_turns([as_turn(kept)])[0].text) == "Hello"


def test_roles_of_other_programs_are_known() -> None:
    roles = {"user": "user", "Assistant": "assistant", "developer": "system", "critic": "tool"}
    for role, known in roles.items():
        kept = as_message(ChatMessage(content="Hello", role=role))
        assert kept is not None
        assert kept.role == known


def test_a_message_without_id_gets_one() -> None:
    one, other = as_message(HumanMessage("Hello")), as_message(HumanMessage("Hello"))
    assert one is not None
    assert other is not None
    assert one.id != other.id


def test_what_json_cannot_say_is_kept_as_text() -> None:
    message = ToolMessage("Done", tool_call_id="1", artifact=object(), id="t")
    returned = back(message)
    assert returned is not None
    assert (returned.content, returned.id) == ("Done", "t")


def test_turns_of_other_sources_are_messages_too() -> None:
    image = ImagePart("https://example.org/cat.png")
    turns = [
        as_turn(Message("user", "Hello", id="1", name="Ana")),
        as_turn(Message("assistant", "Hi", id="2")),
        as_turn(Message("system", "Be kind", id="3")),
        as_turn(Message("tool", "a note", id="4")),
        as_turn(Message("user", ["My cat", image], id="5")),  # type: ignore[list-item]
    ]
    assert from_turns(turns) == [
        HumanMessage("Hello", id="1", name="Ana"),
        AIMessage("Hi", id="2"),
        SystemMessage("Be kind", id="3"),
        HumanMessage([{"type": "text", "text": "My cat"}, {"type": "image", "url": image.url}], id="5"),
    ]


class Custom(BaseMessage):
    type: str = "custom"


@pytest.mark.parametrize("message", [RemoveMessage("1"), Custom(content="Hello"), "Hello", None, {"role": "user"}])
def test_what_is_no_message_is_refused(message: Any) -> None:
    with pytest.raises(MessageError, match="cannot be remembered"):
        as_message(message)
