"""What can be said and kept, and what is refused at the door."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins import ImagePart, Message, Scope, TextPart
from memlora_plugins.errors import MessageError, ScopeError
from memlora_plugins.types import Usage, clean_text, fact_id, normalise, turn_id

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates and control characters included


@pytest.mark.parametrize("user", ["", "  ", None, 7, "a\ud800b"])
def test_a_scope_needs_a_user(user: object) -> None:
    with pytest.raises(ScopeError):
        Scope(user)


@pytest.mark.parametrize("field", ["agent_id", "session_id"])
def test_a_scope_refuses_blank_narrowing(field: str) -> None:
    with pytest.raises(ScopeError, match=field):
        Scope("ana", **{field: " "})


def test_a_scope_prints_what_is_not_narrowed() -> None:
    assert str(Scope("ana", session_id="s1")) == "ana/*/s1"
    assert Scope("ana", "coach", "s1").without_session() == Scope("ana", "coach")


@pytest.mark.parametrize("content", ["", "  \n\t", [], [TextPart(" ")], [TextPart(5)], None, 5, [3]])
def test_empty_or_unusable_content_is_refused(content: object) -> None:
    with pytest.raises(MessageError):
        Message("user", content)


def test_an_unknown_role_is_refused_by_name() -> None:
    with pytest.raises(MessageError, match="'robot'"):
        Message("robot", "hi")


_EAST, _WEST = timezone(timedelta(hours=5)), timezone(timedelta(hours=-5))


@pytest.mark.parametrize(
    "bad",
    [
        {"id": " "},
        {"id": 5},
        {"name": 5},
        {"metadata": ["x"]},
        {"created_at": "2026-05-03"},
        {"created_at": datetime(1, 1, 1, tzinfo=_EAST)},
        {"created_at": datetime(9999, 12, 31, 23, tzinfo=_WEST)},
    ],
)
def test_unusable_fields_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(MessageError):
        Message("user", "hi", **bad)


def test_images_are_kept_beside_text() -> None:
    message = Message("user", ["Look:", ImagePart("https://example.org/cat.png"), TextPart("my cat")])
    assert message.text == "Look:\nmy cat"
    assert [image.url for image in message.images] == ["https://example.org/cat.png"]
    assert Message("user", "hi").images == ()
    with pytest.raises(MessageError, match="URL"):
        ImagePart("cat.png")
    with pytest.raises(MessageError, match="URL"):
        ImagePart(None)


def test_each_message_has_an_id_of_its_own() -> None:
    assert Message("user", "hi").id != Message("user", "hi").id
    assert Message("user", "hi", id=None).id
    assert Message("user", "hi", metadata=None, name="  ").metadata == {}


def test_naive_times_are_utc_and_aware_times_are_converted() -> None:
    naive = Message("user", "hi", created_at=datetime(2026, 5, 1, 12))
    aware = Message("user", "hi", created_at=datetime(2026, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))))
    assert naive.created_at == aware.created_at == datetime(2026, 5, 1, 12, tzinfo=UTC)


@given(ANY_TEXT)
def test_any_text_becomes_storable_and_is_otherwise_untouched(text: str) -> None:
    cleaned = clean_text(text)
    json.dumps(cleaned).encode()
    cleaned.encode()
    assert clean_text(cleaned) == cleaned
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert cleaned == text


def test_surrogate_pairs_are_joined_not_lost() -> None:
    assert clean_text("\ud83d\ude00 ok \ud83d") == "😀 ok �"


def test_ids_follow_scope_and_words() -> None:
    ana, bob = Scope("ana"), Scope("bob")
    assert turn_id(ana, "m1") == turn_id(ana, "m1") != turn_id(bob, "m1")
    assert turn_id(ana, "m1") != turn_id(Scope("ana", session_id="s"), "m1")
    assert fact_id("t", "Lives in  Lisbon.") == fact_id("t", "lives in lisbon") != fact_id("t", "lives in porto")


@given(st.text('ab\x1f",[] '), st.text('ab\x1f",[] '))
def test_scope_fields_cannot_be_shifted_into_each_other(one: str, two: str) -> None:
    if one.strip() and two.strip():
        assert turn_id(Scope("u", one), two) != turn_id(Scope("u", None, one), two)
        assert turn_id(Scope(f"u{one}", two), "m") != turn_id(Scope("u", f"{one}{two}"), "m")


def test_normalise_ignores_case_spacing_and_the_final_stop_only() -> None:
    assert normalise(" Likes  Tea. ") == normalise("likes tea") != normalise("likes teas")


def test_usage_adds_up() -> None:
    assert Usage(1, 2, 3) + Usage(1, 1, 1) == Usage(2, 3, 4)
