"""What a resumable piece of work is made of: what counts, and what is said when it differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from memlora_plugins.errors import InvalidInputError
from memlora_plugins.evaluation.conversations import Conversation
from memlora_plugins.store.ranking import CAPTION
from memlora_plugins.training.identity import check_same, conversation_row, digest
from memlora_plugins.types import Message


def test_a_caption_is_part_of_a_conversation_and_an_id_is_not() -> None:
    def row(message: Message) -> str:
        return digest(conversation_row(Conversation("c", ((None, message),), ())))

    plain = row(Message("user", "Look!", id="1"))
    assert row(Message("user", "Look!", id="2")) == plain
    assert row(Message("user", "Look!", metadata={CAPTION: "a boat"})) != plain


def test_what_differs_is_named_with_its_value_unless_that_is_a_digest(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    check_same(file, {"budget": "800", "weights": digest("one")})
    check_same(file, {"budget": "800", "more": "1"})
    with pytest.raises(InvalidInputError, match=r"with another budget \(800 there, 100 now\), another weights\. Use"):
        check_same(file, {"budget": "100", "weights": digest("two"), "more": "1"})
    check_same(file, many := {f"setting {number}": "1" for number in range(8)})
    with pytest.raises(InvalidInputError, match=r"another setting 4 \(1 there, 2 now\), and 3 more\."):
        check_same(file, dict.fromkeys(many, "2"))
