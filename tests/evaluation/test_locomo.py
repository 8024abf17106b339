"""Reading LoCoMo, and measuring how much evidence a search finds."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memlora_plugins.errors import InvalidInputError
from memlora_plugins.evaluation import locomo

SAMPLE: dict[str, Any] = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ana",
        "speaker_b": "Ben",
        "session_2_date_time": "12:05 am on 1 January, 2024",
        "session_2": [{"speaker": "Ben", "dia_id": "D2:1", "text": "Happy new year!"}],
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ana", "dia_id": "D1:1", "text": "I bought a boat."},
            {"speaker": "Ben", "dia_id": "D1:2", "text": "", "blip_caption": "a photo of a harbour"},
            {"speaker": "Ana", "dia_id": "D1:3", "text": " "},
            {"speaker": "Ana", "dia_id": "D1:5", "text": "It is red.", "blip_caption": "a red boat"},
        ],
        "session_3_date_time": "1:00 pm on 2 January, 2024",
    },
    "qa": [
        {"question": "What did Ana buy?", "answer": "a boat", "evidence": ["D1:1"], "category": 4},
        {"question": "When?", "answer": 2023, "evidence": ["D1:1; D2:1", "D:1:05", "D", "D9:9"], "category": 2},
        {"question": "Whose plane?", "adversarial_answer": "Ana's", "evidence": [], "category": 5},
    ],
    "observation": {
        "session_1_observation": {"Ana": [["Ana has a boat.", "D1:1"], ["It is red.", ["D1:1", "D1:5, D9:9"]]]},
        "session_2_observation": {},
    },
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def write(data: Any) -> Path:
        file = tmp_path / "locomo.json"
        file.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        return file

    return write


def test_sessions_are_dated_and_in_order(write: Callable[[Any], Path]) -> None:
    [conversation] = locomo.load(write([SAMPLE]))
    assert conversation.speakers == ("Ana", "Ben")
    assert [(session.number, session.began) for session in conversation.sessions] == [
        (1, datetime(2023, 5, 8, 13, 56, tzinfo=UTC)),
        (2, datetime(2024, 1, 1, 0, 5, tzinfo=UTC)),
    ]
    assert [turn.dia_id for turn in conversation.turns] == ["D1:1", "D1:2", "D1:5", "D2:1"]
    assert conversation.turns[2] == locomo.Turn("D1:5", "Ana", "It is red.", "a red boat")


def test_questions_and_facts_carry_clean_evidence(write: Callable[[Any], Path]) -> None:
    [conversation] = locomo.load(write([SAMPLE]))
    assert [question.answer for question in conversation.questions] == ["a boat", "2023", None]
    assert [question.evidence for question in conversation.questions] == [("D1:1",), ("D1:1", "D2:1", "D1:5"), ()]
    assert conversation.questions[2].adversarial_answer == "Ana's"
    assert [fact.dia_ids for fact in conversation.facts] == [("D1:1",), ("D1:1", "D1:5")]
    assert (conversation.facts[0].speaker, conversation.facts[0].session) == ("Ana", 1)


def test_faults_are_counted(write: Callable[[Any], Path]) -> None:
    report = locomo.read(write([SAMPLE])).report
    assert report == locomo.LoadReport(
        turns=4,
        questions=3,
        facts=2,
        dates_without_session=1,
        turns_left_out=1,
        answers_not_text=1,
        evidence_repaired=2,
        evidence_dropped=["conv-1: D", "conv-1: D9:9"],
    )


def test_a_file_without_observations(write: Callable[[Any], Path]) -> None:
    sample = {key: value for key, value in SAMPLE.items() if key != "observation"}
    assert locomo.load(write([sample]))[0].facts == ()


def test_messages_are_the_turns_in_order(write: Callable[[Any], Path]) -> None:
    [conversation] = locomo.load(write([SAMPLE]))
    sessions, said = zip(*locomo.messages(conversation), strict=True)
    assert sessions == ("session_1", "session_1", "session_1", "session_2")
    assert [message.id for message in said] == ["D1:1", "D1:2", "D1:5", "D2:1"]
    assert {message.role for message in said} == {"user"}
    assert [message.name for message in said] == ["Ana", "Ben", "Ana", "Ben"]
    assert said[1].text == "[a photo of a harbour]"
    assert said[2].metadata == {"caption": "a red boat"}
    assert said[0].metadata == {}
    times = [message.created_at for message in said]
    assert times == sorted(set(times))
    assert times[0] == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


def broken(path: list[Any], value: Any) -> list[Any]:
    data = [copy.deepcopy(SAMPLE)]
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "cannot be read as JSON"),
        ({"conversation": {}}, "must hold a list of conversations"),
        (["text"], r"\[0\] is not an object"),
        ([{}], r"\[0\] has no usable 'conversation'"),
        (broken([0, "sample_id"], ...), r"\[0\] has no usable 'sample_id'"),
        (broken([0, "qa"], {}), r"\[0\] has no usable 'qa'"),
        (broken([0, "qa", 1, "question"], 7), r"\[0\].qa\[1\] has no usable 'question'"),
        (broken([0, "qa", 1], None), r"\[0\].qa\[1\] is not an object"),
        (broken([0, "conversation", "speaker_b"], ...), r"\[0\].conversation has no usable 'speaker_b'"),
        (broken([0, "conversation", "session_1_date_time"], ...), "no usable 'session_1_date_time'"),
        (broken([0, "conversation", "session_1_date_time"], "yesterday"), "not a date like .*: 'yesterday'"),
        (broken([0, "conversation", "session_1_date_time"], "1:56 pm on 8 Foo, 2023"), "not a date"),
        (broken([0, "conversation", "session_1_date_time"], "1:56 pm on 31 June, 2023"), "not a date"),
        (broken([0, "conversation", "session_1", 0, "dia_id"], ...), r"session_1\[0\] has no usable 'dia_id'"),
        (broken([0, "observation", "session_1_observation", "Ana", 0], ["x"]), "not a pair of a fact and its dia_id"),
    ],
)
def test_another_file_is_refused_saying_where(write: Callable[[Any], Path], data: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        locomo.load(write(data))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"nowhere\.json cannot be read"):
        locomo.load(tmp_path / "nowhere.json")


def test_evidence_recall_counts_items_and_what_they_cover() -> None:
    found = [["D1:1"], ["D1:2", "D1:3"], [], ["D1:4"]]
    assert locomo.evidence_recall(found, ["D1:3", "D1:4"], 2) == 0.5
    assert locomo.evidence_recall(found, ["D1:3", "D1:4"], 4) == 1.0
    assert locomo.evidence_recall([], ["D1:3"], 10) == 0.0
    with pytest.raises(InvalidInputError, match="at least one gold id"):
        locomo.evidence_recall(found, [], 10)


def test_measure_averages_over_questions_with_evidence(write: Callable[[Any], Path]) -> None:
    conversations = locomo.load(write([SAMPLE]))
    asked: list[tuple[str, int]] = []

    def search(conversation: locomo.Conversation, question: str, limit: int) -> list[tuple[str, ...]]:
        asked.append((question, limit))
        return [("D1:1",), ("D1:5", "D2:1")]

    recall = locomo.measure(conversations, search, ks=(1, 2))
    assert asked == [("What did Ana buy?", 2), ("When?", 2)]
    assert recall.questions == 2
    assert recall.at == pytest.approx({1: (1 + 1 / 3) / 2, 2: 1.0})
    assert recall.by_category == {2: pytest.approx({1: 1 / 3, 2: 1.0}), 4: {1: 1.0, 2: 1.0}}
    with pytest.raises(InvalidInputError, match="No question with evidence"):
        locomo.measure(conversations, search, categories=[5])


@pytest.mark.skipif("MEMLORA_DATA" not in os.environ, reason="MEMLORA_DATA is not set: no LoCoMo file")
def test_the_published_file() -> None:
    loaded = locomo.read(Path(os.environ["MEMLORA_DATA"]) / "locomo" / "locomo-dev.json")
    assert loaded.conversations[0].sample_id == "conv-26"
    assert len(loaded.conversations) == 8
    assert (loaded.report.turns, loaded.report.dates_without_session) == (4850, 16)
    assert len(loaded.report.evidence_dropped) == 3
    for conversation in loaded.conversations:
        known = {turn.dia_id for turn in conversation.turns}
        assert all(known.issuperset(question.evidence) for question in conversation.questions)
        assert len(list(locomo.messages(conversation))) == len(known)
