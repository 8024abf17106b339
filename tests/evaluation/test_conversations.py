"""Reading conversations with their questions, and the order in which they are remembered."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.errors import InvalidInputError
from memlora_plugins.evaluation.conversations import Conversation, Question, chosen, load_conversations
from memlora_plugins.types import Message, Scope

LOCOMO: dict[str, Any] = {
    "sample_id": "talk-1",
    "conversation": {
        "speaker_a": "Ana",
        "speaker_b": "Ben",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ana", "dia_id": "D1:1", "text": "I bought a boat."},
            {"speaker": "Ben", "dia_id": "D1:2", "text": "Lovely!"},
        ],
        "session_2_date_time": "9:00 am on 9 May, 2023",
        "session_2": [{"speaker": "Ana", "dia_id": "D2:1", "text": "It leaks."}],
    },
    "qa": [
        {"question": "What did Ana buy?", "answer": "a boat", "evidence": ["D1:1"], "category": 4},
        {"question": "Whose plane?", "adversarial_answer": "Ana's", "evidence": [], "category": 5},
        {"question": "Whose car?", "answer": "Ben's", "evidence": [], "category": 5},
    ],
    "observation": {"session_1_observation": {"Ana": [["Ana owns a boat.", "D1:1"]]}},
}


def jsonl(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_locomo_file(tmp_path: Path) -> None:
    file = tmp_path / "locomo.json"
    file.write_text("\ufeff\n " + json.dumps([LOCOMO]), encoding="utf-8")
    [talk] = load_conversations(file)
    assert (talk.id, talk.scope) == ("talk-1", Scope("talk-1"))
    assert [(session, said.name, said.role) for session, said in talk.messages] == [
        ("session_1", "Ana", "user"),
        ("session_1", "Ben", "user"),
        ("session_2", "Ana", "user"),
    ]
    assert [question.answerable for question in talk.questions] == [True, False, False]
    assert [(fact.text, fact.message_ids, fact.speaker) for fact in talk.facts] == [
        ("Ana owns a boat.", ("D1:1",), "Ana")
    ]
    assert [scope.session_id for scope, _ in talk.sessions()] == ["session_1", "session_2"]
    assert talk.ended == datetime(2023, 5, 9, 9, tzinfo=UTC)


def test_plain_chat_with_questions(tmp_path: Path) -> None:
    file = jsonl(
        tmp_path / "chats.jsonl",
        {"role": "user", "content": "I moved to Lisbon.", "name": "Ana", "id": "m1", "created_at": "2025-05-02"},
        {"conversation": 7, "session": "s1", "role": "assistant", "content": "Hello!"},
        {"conversation": 7, "session": "s1", "role": "user", "content": "Hi."},
        {"question": "Where does Ana live?", "answer": " Lisbon ", "evidence": ["m1"], "category": 1},
        {"question": "How many?", "answer": 3, "conversation": 7},
        {"question": "Why?", "conversation": 7},
        {"question": "What\ud800?", "answer": "n\ud800", "conversation": 7, "category": 12},  # the file's own category
    )
    chats, seven = load_conversations(file)
    assert (chats.id, seven.id) == ("chats", "7")
    assert chats.questions == (Question("Where does Ana live?", "Lisbon", 1, ("m1",)),)
    assert [question.answer for question in seven.questions] == ["3", None, "n\N{REPLACEMENT CHARACTER}"]
    assert [question.answerable for question in seven.questions] == [True, False, True]
    assert seven.questions[2].text == "What\N{REPLACEMENT CHARACTER}?"  # so that every file can hold it
    assert [(session, said.role) for session, said in seven.messages] == [("s1", "assistant"), ("s1", "user")]
    assert seven.ended is None


def test_messages_without_a_time_follow_the_one_before() -> None:
    began = datetime(2024, 1, 1, tzinfo=UTC)
    dated = Message("user", "b", created_at=datetime(2023, 1, 1, tzinfo=UTC))
    talk = Conversation("c", ((None, Message("user", "a")), (None, dated), ("s", Message("user", "c"))))
    (_, first), (scope, second) = talk.sessions(undated=began)
    assert [said.created_at for said in first] == [dated.created_at, dated.created_at]
    assert dated.created_at is not None
    assert [said.created_at for said in second] == [dated.created_at + timedelta(seconds=1)]
    assert scope == Scope("c", session_id="s")
    undated = Conversation("c", ((None, Message("user", "a")), (None, Message("user", "b"))))
    [(_, both)] = undated.sessions(undated=began)
    assert [said.created_at for said in both] == [began, began + timedelta(seconds=1)]
    assert list(Conversation("c", ()).sessions()) == []


@given(st.lists(st.tuples(st.sampled_from([None, "s1", "s2"]), st.none() | st.datetimes(timezones=st.just(UTC)))))
def test_sessions_keep_every_message_in_order(said: list[tuple[str | None, datetime | None]]) -> None:
    try:
        talk = Conversation(
            "c",
            tuple((session, Message("user", f"{number}", created_at=at)) for number, (session, at) in enumerate(said)),
        )
        parts = list(talk.sessions(undated=datetime(2024, 1, 1, tzinfo=UTC)))
    except OverflowError:  # a second after the end of the calendar
        return
    assert [message.text for _, messages in parts for message in messages] == [str(n) for n in range(len(said))]
    assert all(message.created_at for _, messages in parts for message in messages)
    scopes = [scope.session_id for scope, _ in parts]
    assert all(one != next for one, next in pairwise(scopes))


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([], "holds no conversation"),
        ([{"question": "Where?"}], "no message of the conversation 'chat'"),
        ([{"question": " "}], "line 1: question must be text"),
        ([{"question": "x", "answer": ["y"]}], "line 1: answer must be text"),
        ([{"question": "x", "answer": True}], "line 1: answer must be text"),
        ([{"question": "x", "category": "4"}], "line 1: category must be a whole number"),
        ([{"question": "x", "evidence": "m1"}], "line 1: evidence must be a list"),
        ([{"role": "user", "content": "x", "conversation": " "}], "line 1: conversation must be a name"),
        ([{"role": "user", "content": "x", "session": True}], "line 1: session must be a name"),
        ([{"role": "robot", "content": "x"}], "line 1: Unknown role"),
        ([{"role": "user", "content": "x", "id": "m"}, {"role": "user", "content": "y", "id": "m"}], "line 2: the id"),
        ([{"kind": "turn", "user_id": "ana"}], "line 1: an exported memory"),
    ],
)
def test_another_file_is_refused_saying_where(tmp_path: Path, rows: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        load_conversations(jsonl(tmp_path / "chat.jsonl", *rows))


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load_conversations(tmp_path / "nowhere")
    (tmp_path / "bytes").write_bytes(b"\xff\xff")
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        load_conversations(tmp_path / "bytes")
    (tmp_path / "deep.json").write_text("[" * 50_000)
    with pytest.raises(InvalidInputError, match="cannot be read as JSON"):
        load_conversations(tmp_path / "deep.json")
    (tmp_path / "one.json").write_text(json.dumps(LOCOMO, indent=1))
    with pytest.raises(InvalidInputError, match=r"one\.json is not a LoCoMo file: it holds one conversation by itself"):
        load_conversations(tmp_path / "one.json")
    rag = {"0": {"conversation": [{"speaker": "Ana", "text": "Hi", "timestamp": ""}], "question": []}}
    (tmp_path / "rag.json").write_text(json.dumps(rag))
    with pytest.raises(InvalidInputError, match=r"Use the file that it was made of, locomo10\.json"):
        load_conversations(tmp_path / "rag.json")
    (tmp_path / "other.json").write_text('{\n"x": 1}')
    with pytest.raises(InvalidInputError, match="line 1: not JSON"):
        load_conversations(tmp_path / "other.json")
    (tmp_path / "twice.json").write_text(json.dumps([LOCOMO, LOCOMO]))
    with pytest.raises(InvalidInputError, match="'talk-1' more than once"):
        load_conversations(tmp_path / "twice.json")


def test_choosing_by_id() -> None:
    talks = [Conversation(id, ()) for id in "abc"]
    assert [talk.id for talk in chosen(talks, ["c", "a", "c"])] == ["c", "a"]
    with pytest.raises(InvalidInputError, match=r"No conversation x. There are: a, b, c\."):
        chosen(talks, ["x"])


@given(
    st.dictionaries(
        st.sampled_from(["role", "content", "question", "answer", "category", "evidence", "conversation", "session"]),
        st.text() | st.none() | st.integers() | st.lists(st.text()),
    )
)
def test_any_line_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]) -> None:
    file = jsonl(tmp_path_factory.getbasetemp() / "any.jsonl", row)
    try:
        talks = load_conversations(file)
    except InvalidInputError:
        return
    assert all(talk.messages for talk in talks)
