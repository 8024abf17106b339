"""Reading LoCoMo and its copies, with what is wrong in them, and its splits."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        questions_without_evidence=1,
        evidence_repaired=2,
        evidence_dropped=["conv-1: D", "conv-1: D9:9"],
    )


def test_the_report_as_a_table_names_only_what_there_is(write: Callable[[Any], Path]) -> None:
    table = locomo.read(write([SAMPLE])).report.table()
    assert table.rows == (
        ("turns", "4"),
        ("questions", "3"),
        ("facts written by a large model", "2"),
        ("dates without a session", "1"),
        ("turns without text and caption, left out", "1"),
        ("questions without evidence", "1"),
        ("answers that are no text, read as text", "1"),
        ("malformed evidence, repaired", "2"),
        ("evidence that names no turn, dropped (conv-1: D, conv-1: D9:9)", "2"),
    )
    many = locomo.LoadReport(evidence_dropped=[f"c: D{n}" for n in range(6)]).table()
    assert many.rows == (("evidence that names no turn, dropped (c: D0, c: D1, c: D2, c: D3, c: D4, …)", "6"),)


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
        (7, "must hold a list of conversations"),
        (SAMPLE, "one conversation by itself. Put it into a list"),
        ({"conv-1": SAMPLE, "conv-2": SAMPLE}, "conversations by name. Put them into a list"),
        (
            {"0": {"conversation": [{"text": "Hi", "speaker": "Ana", "timestamp": "1:56 pm"}], "question": []}},
            r"locomo10_rag\.json.* Use the file that it was made of, locomo10\.json",
        ),
        ([SAMPLE, SAMPLE], "'conv-1' more than once"),
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
        (
            broken([0, "conversation", "session_1", 1, "dia_id"], "D1:1"),
            r"session_1\[1\] has the dia_id 'D1:1' of another",
        ),
        (broken([0, "conversation", "session_1"], "text"), "no usable 'session_1'"),
        (broken([0, "qa", 0, "category"], 6), r"qa\[0\].category is no category of LoCoMo, which are 1 to 5: 6"),
        (broken([0, "qa", 0, "category"], True), "is no category"),
        (broken([0, "qa", 0, "category"], ...), r"qa\[0\] has no usable 'category'"),
        (broken([0, "qa", 0, "answer"], {"text": "a boat"}), r"qa\[0\] has no usable 'answer'"),
        (broken([0, "qa", 0, "answer"], [["a boat"]]), r"qa\[0\].answer has a part that is no text"),
        (broken([0, "qa", 0, "evidence"], 3), r"qa\[0\] has no usable 'evidence'"),
        (broken([0, "observation", "session_1_observation", "Ana", 0], ["x"]), "not a pair of a fact and its dia_id"),
        (broken([0, "observation", "session_1_observation"], []), "no usable 'session_1_observation'"),
    ],
)
def test_another_file_is_refused_saying_where(write: Callable[[Any], Path], data: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        locomo.load(write(data))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"nowhere\.json cannot be read"):
        locomo.load(tmp_path / "nowhere.json")


# Copies that went through other formats ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("a boat", "a boat"),
        (2023, "2023"),
        (2023.0, "2023"),
        (1.5, "1.5"),
        (True, "Yes"),
        (False, "No"),
        (["a boat", 2], "a boat, 2"),
        ([], None),
        (" ", None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_an_answer_of_any_kind_is_text(write: Callable[[Any], Path], given: Any, read: str | None) -> None:
    loaded = locomo.read(write(broken([0, "qa", 0, "answer"], given)))
    assert loaded.conversations[0].questions[0].answer == read
    assert loaded.report.answers_missing == (read is None)
    assert loaded.report.answers_not_text == (read is not None and not isinstance(given, str)) + 1


def test_a_copy_through_a_table_has_every_key_everywhere(write: Callable[[Any], Path]) -> None:
    sample = copy.deepcopy(SAMPLE)
    sample["conversation"] |= {"session_4": None, "session_4_date_time": None, "session_5": []}
    sample["conversation"]["session_1"][0] |= {"blip_caption": None, "img_url": "http://127.0.0.1/boat.jpg"}
    sample["observation"]["session_2_observation"] = None
    sample["observation"]["session_1_observation"]["Ben"] = None
    sample["observation"]["session_1_observation"]["Ana"].append(["Ana sails.", None])
    for question in sample["qa"]:
        question["category"] = str(float(question["category"]))
        question.setdefault("answer", None)
        question.setdefault("adversarial_answer", None)
    before, after = (locomo.read(write([one])) for one in (SAMPLE, sample))
    [plain], [copied] = before.conversations, after.conversations
    assert (copied.turns, copied.questions) == (plain.turns, plain.questions)
    assert copied.facts == (*plain.facts, locomo.Observation("Ana sails.", "Ana", 1, ()))
    assert after.report.facts_without_turn == 1
    assert after.report.dates_without_session == before.report.dates_without_session == 1


def test_a_copy_of_the_least_there_has_to_be(write: Callable[[Any], Path]) -> None:
    """Neither observation nor event_summary, no evidence, numbers for names."""
    sample = {"sample_id": 26, "conversation": SAMPLE["conversation"], "qa": []}
    sample["qa"] = [{"question": "What did Ana buy?", "answer": "a boat", "category": 4}]
    loaded = locomo.read(write([sample]))
    assert loaded.conversations[0].sample_id == "26"
    assert loaded.conversations[0].questions[0].evidence == ()
    assert loaded.report.questions_without_evidence == 1


def test_a_session_without_a_turn_is_none(write: Callable[[Any], Path]) -> None:
    loaded = locomo.read(write(broken([0, "conversation", "session_2", 0, "text"], "")))
    assert [session.number for session in loaded.conversations[0].sessions] == [1]
    assert (loaded.report.turns, loaded.report.turns_left_out, loaded.report.dates_without_session) == (3, 2, 2)


def test_questions_that_are_odd_are_counted(write: Callable[[Any], Path]) -> None:
    boat = SAMPLE["qa"][0]
    odd = [boat, boat | {"evidence": "D1:1"}, {"question": "  ", "category": 4}, boat | {"category": 5}]
    loaded = locomo.read(write([SAMPLE | {"qa": odd}]))
    assert [question.evidence for question in loaded.conversations[0].questions] == [("D1:1",)] * 3
    report = loaded.report
    assert (report.questions, report.questions_left_out, report.questions_repeated) == (3, 1, 2)
    assert (report.adversarial_answered, report.answers_missing) == (1, 0)


@pytest.mark.parametrize(
    ("written", "hour"),
    [("2023-05-08T13:56:00", 13), ("2023-05-08 13:56:00+01:00", 12), ("2023-05-08T13:56:00Z", 13)],
)
def test_dates_in_iso_8601(write: Callable[[Any], Path], written: str, hour: int) -> None:
    [conversation] = locomo.load(write(broken([0, "conversation", "session_1_date_time"], written)))
    assert conversation.sessions[0].began == datetime(2023, 5, 8, hour, 56, tzinfo=UTC)


PATHS: list[list[Any]] = [
    [0, "sample_id"],
    [0, "qa"],
    [0, "qa", 1],
    *([0, "qa", 1, key] for key in ("question", "answer", "evidence", "category")),
    [0, "conversation"],
    *([0, "conversation", key] for key in ("speaker_a", "session_1", "session_1_date_time")),
    *([0, "conversation", "session_1", 3, key] for key in ("dia_id", "speaker", "text", "blip_caption")),
    [0, "observation"],
    [0, "observation", "session_1_observation"],
    [0, "observation", "session_1_observation", "Ana"],
    [0, "observation", "session_1_observation", "Ana", 1],
]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["D1:1", "2023-05-08"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(PATHS), JSON_VALUES)
def test_any_value_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, path: list[Any], value: Any
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(broken(path, value)), encoding="utf-8")
    try:
        loaded = locomo.read(file)
    except InvalidInputError as error:
        assert str(file) in str(error)  # noqa: PT017
        return
    [conversation] = loaded.conversations
    known = {turn.dia_id for turn in conversation.turns}
    assert all(known.issuperset(question.evidence) for question in conversation.questions)
    assert loaded.report.questions == len(conversation.questions)


# Splits --------------------------------------------------------------------------------------------------------------


def named(*ids: str) -> list[locomo.Conversation]:
    return [locomo.Conversation(id, ("Ana", "Ben"), (), (), ()) for id in ids]


def test_the_splits_of_the_paper() -> None:
    every = [id for ids in locomo.SPLITS.values() for id in ids]
    assert len(every) == len(set(every)) == 10
    conversations = named(*sorted(every))
    assert [one.sample_id for one in conversations[1:3]] == list(locomo.SPLITS["test"])  # C2 and C3
    assert [one.sample_id for one in locomo.split(conversations, "validation")] == ["conv-26"]
    assert len(locomo.split(reversed(conversations), "training")) == 7


def test_a_split_that_is_not_whole_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"test split is conv-30, conv-41; there is no conv-41 among .*conv-30"):
        locomo.split(named("conv-26", "conv-30"), "test")
    with pytest.raises(InvalidInputError, match="no split 'dev': it is one of training, validation, test"):
        locomo.split(named("conv-26"), "dev")  # type: ignore[arg-type]


@pytest.mark.skipif("MEMLORA_DATA" not in os.environ, reason="MEMLORA_DATA is not set: no LoCoMo file")
def test_the_published_file() -> None:
    loaded = locomo.read(Path(os.environ["MEMLORA_DATA"]) / "locomo" / "locomo-dev.json")
    assert loaded.conversations[0].sample_id == "conv-26"
    assert len(loaded.conversations) == 8
    assert (loaded.report.turns, loaded.report.dates_without_session) == (4850, 16)
    assert len(loaded.report.evidence_dropped) == 3
    report = loaded.report
    assert (report.questions, report.answers_not_text, report.adversarial_answered) == (1688, 6, 2)
    assert (report.evidence_repaired, report.questions_repeated, report.questions_without_evidence) == (6, 11, 4)
    assert (report.answers_missing, report.turns_left_out, report.questions_left_out) == (0, 0, 0)
    assert len(locomo.split(loaded.conversations, "training")) == 7
    with pytest.raises(InvalidInputError, match="there is no conv-30, conv-41"):
        locomo.split(loaded.conversations, "test")
    for conversation in loaded.conversations:
        known = {turn.dia_id for turn in conversation.turns}
        assert all(known.issuperset(question.evidence) for question in conversation.questions)
        assert len(list(locomo.messages(conversation))) == len(known)
