"""Corrected answers of LoCoMo, from a file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memlora_plugins.errors import DatasetError
from memlora_plugins.evaluation import locomo


@pytest.fixture
def conversations() -> list[locomo.Conversation]:
    said = locomo.Session(1, datetime(2023, 5, 8, tzinfo=UTC), (locomo.Turn("D1:1", "Ana", "I bought a boat."),))
    boat = locomo.Question("What did Ana buy?", "a boat", 4, ("D1:1",))
    when = locomo.Question("When?", "2022", 2)
    plane = locomo.Question("Whose plane?", None, 5)
    return [
        locomo.Conversation("conv-1", ("Ana", "Ben"), (said,), (boat, when, plane), ()),
        locomo.Conversation("conv-2", ("Ana", "Ben"), (said,), (boat, boat, when), ()),
    ]


CORRECTIONS: list[dict[str, Any]] = [
    {"conversation": "conv-1", "question": "What  did Ana\nbuy?", "answer": "a red boat", "note": "fuller"},
    {"sample_id": "conv-1", "question": "When?", "answer": 2023, "evidence": ["D1:1"]},
    {"conversation": "conv-1", "question": "Whose plane?", "answer": None},
    {"conversation": "conv-2", "question": "What did Ana buy?", "answer": "a boat"},
]


@pytest.mark.parametrize("as_list", [True, False])
def test_corrected_answers(tmp_path: Path, conversations: list[locomo.Conversation], as_list: bool) -> None:
    file = tmp_path / "corrected"
    lines = "\n".join(map(json.dumps, CORRECTIONS))
    file.write_text(f"\ufeff {json.dumps(CORRECTIONS)}" if as_list else f"{lines}\n\n", encoding="utf-8")
    [one, two], counts = locomo.corrected(conversations, file)
    assert [(question.text, question.answer, question.evidence) for question in one.questions] == [
        ("What did Ana buy?", "a red boat", ("D1:1",)),
        ("When?", "2023", ("D1:1",)),
    ]
    assert two == conversations[1]
    assert (counts.changed, counts.left_out, counts.confirmed) == (2, 1, 2)
    assert len(conversations[0].questions) == 3  # as they were


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"question": "When?", "answer": "x"}], "line 1: conversation: Field required"),
        ([{"conversation": "conv-1", "question": "When?"}], "line 1: answer: Field required"),
        ([{"conversation": "conv-1", "question": "When?", "answer": ["x"]}], "line 1: answer"),
        (
            [{"conversation": "conv-1", "question": "Why?", "answer": "x"}] * 7,
            r"7 that are not asked in these conversations \(conv-1, conv-2\): conv-1: Why\?;.*and 2 more",
        ),
        ([{"conversation": "conv-9", "question": "When?", "answer": "x"}], "1 that .*: conv-9: When"),
        (
            [{"conversation": "conv-1", "question": "When?", "answer": "x", "evidence": ["D1:1", "D7:7"]}],
            r"conv-1 has no turn D7:7 \(When\?\)",
        ),
        ([CORRECTIONS[0], CORRECTIONS[0] | {"answer": None}], "in two ways: conv-1: What"),
        ([], "is empty"),
    ],
)
def test_corrections_that_fit_nothing_are_refused(
    tmp_path: Path, conversations: list[locomo.Conversation], rows: list[dict[str, Any]], complaint: str
) -> None:
    file = tmp_path / "corrected.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DatasetError, match=complaint):
        locomo.corrected(conversations, file)


def test_a_file_of_corrections_that_cannot_be_read(tmp_path: Path, conversations: list[locomo.Conversation]) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        locomo.corrected(conversations, tmp_path / "nowhere")
    (tmp_path / "odd.json").write_text('[{"conversation": "conv-1"}]')
    with pytest.raises(DatasetError, match=r"no corrected answers: 0\.question: Field required"):
        locomo.corrected(conversations, tmp_path / "odd.json")
