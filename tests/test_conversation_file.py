from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.conversation_file import chat_message, is_export, moment, rows
from memlora_plugins.errors import InvalidInputError, MessageError


def test_lines_are_numbered_and_blank_ones_skipped(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text('\ufeff{"a": 1}\n\n{"b": "ü"}\n', encoding="utf-8")
    assert list(rows(file)) == [(1, {"a": 1}), (3, {"b": "ü"})]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"a": 1}\n{"a":', "line 2: not JSON"),
        (b"[1]\n", "line 1: a JSON object is needed"),
        (b'{"a": ' * 50_000, "line 1: not JSON that can be read"),
        (b'{"a": 1' + b"0" * 9_999 + b"}", "line 1: not JSON that can be read"),
        (b"\xff\xfe{}", "not UTF-8"),
    ],
)
def test_an_unreadable_file_is_named_with_its_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_bytes(content)
    with pytest.raises(InvalidInputError, match=complaint):
        list(rows(file))


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read: No such file"):
        list(rows(tmp_path / "none"))


def test_exported_rows_are_told_from_chat() -> None:
    assert is_export({"kind": "turn", "user_id": "ana"})
    assert not is_export({"role": "user", "content": "x", "kind": "turn"})


def test_a_line_keeps_its_own_id_and_time(tmp_path: Path) -> None:
    row = {"role": "user", "content": "hi", "id": 7, "name": "Ana", "created_at": 0, "metadata": {"k": [1]}}
    message = chat_message(tmp_path / "c", 1, row)
    assert (message.id, message.name, message.created_at) == ("7", "Ana", datetime(1970, 1, 1, tzinfo=UTC))
    assert message.metadata == {"k": [1]}


def test_a_line_without_id_gets_one_that_a_second_import_finds_again() -> None:
    row = {"role": "user", "content": "hi"}
    once = chat_message(Path("a/c.jsonl"), 1, row).id
    assert chat_message(Path("b/c.jsonl"), 1, row).id == once
    assert chat_message(Path("a/c.jsonl"), 2, row).id != once
    assert chat_message(Path("a/d.jsonl"), 1, row).id != once


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"content": "hi"}, "line 4: 'role' is missing"),
        ({"role": "user"}, "line 4: 'content' is missing"),
        ({"role": "user", "content": " "}, "line 4: .*empty"),
        ({"role": "robot", "content": "x"}, "line 4: Unknown role"),
        ({"role": "user", "content": ["x"]}, "line 4: content must be text"),
        ({"role": "user", "content": "x", "created_at": "soon"}, "line 4: 'soon' is no time"),
        ({"role": "user", "content": "x", "metadata": [1]}, "line 4: .*mapping"),
    ],
)
def test_a_bad_line_is_named(row: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        chat_message(Path("c"), 4, row)


@given(
    st.dictionaries(st.sampled_from(["role", "content", "id", "created_at", "name", "metadata"]), st.text() | st.none())
)
def test_any_line_is_a_message_or_a_typed_error(row: dict[str, object]) -> None:
    try:
        message = chat_message(Path("c"), 1, json.loads(json.dumps(row)))
    except InvalidInputError:
        return
    assert message.text.strip()


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text())
def test_any_time_is_read_or_refused(given: object) -> None:
    try:
        read = moment(given)
    except MessageError:
        return
    assert read is None or isinstance(read, datetime)
