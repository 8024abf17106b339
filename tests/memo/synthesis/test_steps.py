"""What the Generator is asked, and what is made of its replies: whole, half, in prose, or odd."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.errors import ReplyError
from memlora_plugins.memo.reflections import STEPS, Step
from memlora_plugins.memo.synthesis import steps
from memlora_plugins.memo.synthesis.steps import Said, Verdict, read_pairs, read_verdicts

ADA = Said("Where was Ada born?", "Porto")
BEN = Said('What does "Ben" play?', "the cello, ä")


# What is asked -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_instructions_are_the_system_message_and_data_stands_alone(step: Step) -> None:
    system, user = steps.messages(step, "only {data}")
    assert (system["role"], user) == ("system", {"role": "user", "content": "only {data}"})
    assert "The question is understood by itself" in system["content"]
    key = "verdicts" if step == "3" else "pairs"
    schema = steps.SCHEMAS[step]
    assert schema["required"] == [key]
    item = schema["properties"][key]["items"]
    assert item["required"] == list(item["properties"])  # strict mode knows no optional keys
    for name in item["properties"]:
        assert f'"{name}"' in system["content"]


def test_every_step_has_a_name_of_its_own() -> None:
    assert list(steps.EXPERTS) == list(get_args(Step))
    assert len(set(steps.EXPERTS.values())) == 6


def test_pairs_are_shown_as_numbered_lines_of_json_and_nothing_else() -> None:
    assert steps.numbered([ADA, BEN]) == (
        '{"n": 0, "question": "Where was Ada born?", "answer": "Porto"}\n'
        '{"n": 1, "question": "What does \\"Ben\\" play?", "answer": "the cello, ä"}'
    )
    assert steps.to_verify("A text.", [ADA]) == f"A text.\n---\n{steps.numbered([ADA])}"
    assert steps.to_cross([ADA], [BEN]) == f"{steps.numbered([ADA])}\n---\n{steps.numbered([BEN], 1)}"
    assert steps.numbered([]) == ""


# How replies are read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"pairs": [{"question": "Q?", "answer": "A"}]}', [("Q?", "A")]),
        ('```json\n{"pairs": [{"question": "Q?", "answer": "A"}]}\n```', [("Q?", "A")]),
        ('<think>{"pairs": []}</think>[{"question": " Q? ", "answer": "A\\n b"}]', [("Q?", "A b")]),
        ('{"Pairs": [{"Question": "Q?", "ANSWER ": 1912}]}', [("Q?", "1912")]),
        ('{"pairs": [{"question": "Q?", "answer": ["a", 2]}]}', [("Q?", "a, 2")]),
        ("Sure: {'pairs': [{'question': 'Q?', 'answer': 'A'}]}", [("Q?", "A")]),
        ('{"pairs": []}', []),
    ],
)
def test_readings_of_pairs(reply: str, expected: list[tuple[str, str]]) -> None:
    reading = read_pairs(reply)
    assert [(one.question, one.answer) for one in reading.said] == expected
    assert (reading.blank, reading.truncated) == (0, False)


def test_half_a_reply_gives_what_is_complete() -> None:
    whole = json.dumps({"pairs": [{"question": f"Q{n}?", "answer": "A"} for n in range(4)]})
    reading = read_pairs(whole[: whole.index("Q3")])
    assert [one.question for one in reading.said] == ["Q0?", "Q1?", "Q2?"]
    assert reading.truncated


@pytest.mark.parametrize("reply", ["", "I would rather tell a story.", '{"pairs": [', '{"pairs": ["a", 3]}', "{}"])
@pytest.mark.parametrize("read", [read_pairs, read_verdicts])
def test_replies_that_cannot_be_read(reply: str, read: Any) -> None:
    with pytest.raises(ReplyError):
        read(reply.replace("pairs", "verdicts") if read is read_verdicts else reply, 3)


def test_pairs_without_a_question_or_an_answer_are_counted() -> None:
    odd = [{"question": " "}, {"question": "Q?", "answer": None}, {"question": {}, "answer": "A"}, 7]
    reading = read_pairs(json.dumps({"pairs": [*odd, {"question": "Q?", "answer": "A"}]}))
    assert len(reading.said) == 1
    assert reading.blank == 4


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([0, 2], (0, 2)),
        ([2, 2, 0], (2, 0)),
        (["1", "n2", "pair 0"], (1, 2, 0)),
        (1, (1,)),
        ([3, -1, 99], ()),
        ([True, 1.5, None, "all", {}], ()),
        (None, ()),
        ("everything", ()),
    ],
)
def test_sources_are_the_numbers_that_were_shown(sources: Any, expected: tuple[int, ...]) -> None:
    reply = json.dumps({"pairs": [{"question": "Q?", "answer": "A", "from": sources}]})
    assert read_pairs(reply, 3).said[0].sources == expected


@pytest.mark.parametrize(
    ("kind", "expected"), [("converging", "converging"), ("Parallel properties", "parallel"), ("both", None), (1, None)]
)
def test_kinds(kind: Any, expected: str | None) -> None:
    reply = json.dumps({"pairs": [{"question": "Q?", "answer": "A", "kind": kind}]})
    assert read_pairs(reply).said[0].kind == expected


def test_verdicts() -> None:
    said = [
        {"n": 0, "verdict": "keep", "question": "", "answer": "", "reason": "fine"},
        {"n": "1", "verdict": " Rewrite.", "question": "Who is Ada?", "answer": "", "reason": "pronoun"},
        {"n": 2, "verdict": "discard"},
        {"n": 3, "verdict": "rewrite", "question": " ", "answer": None},  # into what?
        {"n": 4, "verdict": "maybe"},
        {"n": 9, "verdict": "keep"},  # not shown
        {"verdict": "keep"},
        {"n": 2, "verdict": "keep"},
    ]
    reading = read_verdicts(json.dumps({"verdicts": said}), 5)
    assert reading.by_number == {0: Verdict("keep"), 1: Verdict("rewrite", "Who is Ada?"), 2: Verdict("keep")}
    assert not reading.truncated


def test_half_a_list_of_verdicts() -> None:
    whole = json.dumps({"verdicts": [{"n": n, "verdict": "keep"} for n in range(3)]})
    reading = read_verdicts(whole[: whole.index('"n": 2')], 3)
    assert list(reading.by_number) == [0, 1]
    assert reading.truncated


@given(st.text() | st.from_regex(r'\{"(pairs|verdicts)": \[(\{"(n|question|answer|verdict)": .{0,9},?)*'))
def test_no_reply_makes_reading_fail_otherwise(reply: str) -> None:
    for read in (read_pairs, read_verdicts):
        with suppress(ReplyError):
            read(reply, 2)


@given(
    st.lists(st.tuples(*[st.text(min_size=1).map(lambda text: " ".join(text.split())).filter(bool)] * 2), max_size=5)
)
def test_what_is_shown_can_be_read(pairs: list[tuple[str, str]]) -> None:
    said = tuple(Said(*one) for one in pairs)
    lines = steps.numbered(said).split("\n") if said else []
    assert read_pairs(f'{{"pairs": [{",".join(lines)}]}}').said == said


# What no pair may do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("According to the passage, who won the cup?", True),
        ("What does the article say about Ada?", True),
        ("Who is mentioned in this document?", True),
        ("Which places are named in the given text?", True),
        ("The text states that Ada was born where?", True),
        ("Who signed the document of 1848 in Porto?", False),
        ("Who wrote the article on bees in Nature?", False),
        ("In the text of the treaty of Windsor, who is named?", False),
        ("Who was born in Porto?", False),
    ],
)
def test_pairs_that_speak_of_their_source(question: str, expected: bool) -> None:
    assert steps.points_to_source(Said(question, "Ada")) is expected
    assert steps.points_to_source(Said("Who?", question)) is expected


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Which city is called Porto?", "porto.", True),
        ("Who wrote C++ (the book)?", "C++", True),
        ("Which university is in Paris?", "University of Paris", False),
        ("Who has a portolan?", "Porto", False),
    ],
)
def test_questions_that_name_their_answer(question: str, answer: str, expected: bool) -> None:
    assert steps.gives_itself_away(Said(question, answer)) is expected
