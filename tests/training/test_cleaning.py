"""What of a teacher's reply becomes a target."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scripted import decides, says

from memlora_plugins.errors import InvalidInputError
from memlora_plugins.experts import extraction, update
from memlora_plugins.serving.base import Completion, Expert, FinishReason, PromptStyle
from memlora_plugins.training.cleaning import Dropped, Target, all_added, answer_of, cleaned, short_prompt

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TEXTS = st.lists(TEXT, max_size=4)
STYLES: tuple[PromptStyle, ...] = ("short", "full")

EXCHANGE = extraction.Exchange(
    "I moved to Lisbon.", "Ana", "Where do you live?", "Ben", datetime(2025, 5, 2, tzinfo=UTC)
)
ASKED = extraction.messages(EXCHANGE, "short")
OLD = ["Ana lives in Porto", "Ana has a cat"]
NEW = ["Ana lives in Lisbon", "Ana owns a cat", "Ana paints"]
UPDATE = update.messages(OLD, NEW, "full")


@given(TEXT, TEXT | st.none(), TEXT | st.none(), TEXT | st.none())
def test_the_short_prompt_is_found_in_the_full_one(text: str, name: str, said: str, other: str) -> None:
    exchange = extraction.Exchange(text, name, said, other)
    for style in STYLES:
        asked = extraction.messages(exchange, style)
        assert short_prompt("extraction", asked) == extraction.messages(exchange, "short")


@given(TEXTS, TEXTS)
def test_update_lists_are_read_back_from_either_prompt(old: list[str], new: list[str]) -> None:
    for style in STYLES:
        asked = update.messages(old, new, style)
        assert short_prompt("update", asked) == update.messages(old, new, "short")
        told = update.lists(asked[-1]["content"])
        assert told == update.lists(update.messages(*told, "short")[-1]["content"])
        assert [len(texts) for texts in told] == [len(old), len(new)]


@pytest.mark.parametrize("prompt", ["", "Hello", "Old memories: []\nNew facts: []", "Old memories: {}\nNew facts: 7"])
def test_another_prompt_has_no_lists(prompt: str) -> None:
    with pytest.raises(InvalidInputError, match="no prompt of the update expert"):
        update.lists(prompt)


@pytest.mark.parametrize(
    "reply",
    [
        says("Ana lives in Lisbon"),
        '<think>She moved. {"facts": ["wrong"]}</think>\n```json\n{ "facts" : [ "Ana lives in Lisbon" ] }\n```',
        'analysisThe user moved.assistantfinal{"facts": ["Ana lives in Lisbon", " ana lives in lisbon."]}',
        'Sure! {"facts": [{"fact": "Ana lives in Lisbon"}]} Anything else?',
    ],
)
def test_an_extraction_is_compact_json_however_it_was_said(reply: str) -> None:
    assert cleaned("extraction", ASKED, Completion(reply)) == Target('{"facts":["Ana lives in Lisbon"]}')


def test_no_facts_are_a_lesson_too() -> None:
    assert cleaned("extraction", ASKED, Completion(says())) == Target('{"facts":[]}', empty=True)


def test_an_update_keeps_operations_on_new_facts_only() -> None:
    said = decides(
        ("0", "UPDATE", "Ana lives in Lisbon"),
        ("1", "NONE", "Ana has a cat"),
        ("1", "NONE", "Ana owns a cat"),
        ("2", "ADD", "Ana paints"),
    )
    target = cleaned("update", UPDATE, Completion(f"<think>hm</think>{said}"))
    assert isinstance(target, Target)
    assert " " not in target.reply.replace("Ana ", "Ana_").replace(" in ", "_").replace(" a ", "_").replace("_cat", "")
    assert [(item["id"], item["event"], item["text"]) for item in json.loads(target.reply)["memory"]] == [
        ("0", "UPDATE", "Ana lives in Lisbon"),
        ("1", "NONE", "Ana owns a cat"),  # known already: the new fact is named, not the old memory
        ("2", "ADD", "Ana paints"),
    ]


@pytest.mark.parametrize(
    ("expert", "reply", "finish", "reason"),
    [
        ("extraction", "", "stop", "empty reply"),
        ("extraction", "<think>on and on", "length", "cut off"),
        ("extraction", "<think>on and on", "stop", "empty reply"),
        ("extraction", "I would rather not.", "stop", "unreadable reply"),
        ("extraction", '{"facts": ["a b", "c', "length", "cut off"),
        ("extraction", '{"facts": ["a b", "c', "stop", "cut off"),
        ("extraction", says("whole"), "length", "cut off"),
        ("extraction", '{"facts": [', "length", "cut off"),
        ("update", '{"memory": []}', "stop", "no operation"),
        ("update", "{}", "stop", "unreadable reply"),
        ("update", decides(("0", "UPDATE", "Ana lives in Lisbon"), ("2", "ADD", "x"))[:-9], "stop", "cut off"),
    ],
)
def test_what_is_not_whole_is_dropped_with_a_reason(
    expert: Expert, reply: str, finish: FinishReason, reason: str
) -> None:
    asked = ASKED if expert == "extraction" else UPDATE
    assert cleaned(expert, asked, Completion(reply, finish)) == Dropped(reason)


@given(
    st.text() | st.from_type(dict).map(str) | TEXTS.map(lambda facts: says(*facts)), st.sampled_from(["stop", "length"])
)
def test_an_extraction_target_reads_as_itself(reply: str, finish: FinishReason) -> None:
    lesson = cleaned("extraction", ASKED, Completion(reply, finish))
    if isinstance(lesson, Target):
        facts = extraction.read(lesson.reply).facts
        assert extraction.target(facts) == lesson.reply
        assert lesson.empty == (not facts)
    else:
        assert lesson.reason


OPERATIONS = st.lists(
    st.tuples(
        st.integers(-1, 4).map(str),
        st.sampled_from(["ADD", "UPDATE", "DELETE", "NONE"]),
        st.sampled_from([*OLD, *NEW, "Ana lives in Lisbon with a cat"]) | TEXT,
    ),
    max_size=6,
)


@given(OPERATIONS)
@example(
    [
        ("0", "UPDATE", "Ana has a cat"),
        ("4", "DELETE", "Ana has a cat"),
        ("0", "NONE", "Ana has a cat"),
        ("4", "ADD", "Ana owns a cat"),
    ]
)
def test_an_update_target_means_what_the_reply_meant_and_no_old_memory_alone(
    items: list[tuple[str, str, str]],
) -> None:
    said = decides(*items)
    lesson = cleaned("update", UPDATE, Completion(said))
    if not items:
        assert lesson == Dropped("no operation")
        return
    assert isinstance(lesson, Target)
    assert update.read(lesson.reply, OLD, NEW).items == update.read(said, OLD, NEW).items
    for item in json.loads(lesson.reply)["memory"]:
        assert item["text"] in NEW or item["event"] == "UPDATE"


def test_everything_added() -> None:
    decisions = update.read(all_added(UPDATE[-1]["content"]), OLD, NEW)
    assert [(one.operation, one.text) for one in decisions.items] == [("ADD", text) for text in NEW]


def test_answers_are_one_line() -> None:
    assert answer_of(" in \n Lisbon \ud800") == Target("in Lisbon \N{REPLACEMENT CHARACTER}")
    assert answer_of(" \n") == Dropped("answer missing")
