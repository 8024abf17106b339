"""Whom a question names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.store.names import named


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Where does Ana live?", "Ana"),
        ("where does ana live", "Ana"),
        ("What is Ana's dog called?", "Ana Maria"),
        ("When did Maria leave?", "Ana Maria"),
        ("Does Jose\u0301 sail?", "José"),
        ("What did Will say?", "Will"),
        ("What did The Doctor say about May?", "May"),
        ("李明住在哪里？", "李明"),
        ("김민수는 어디에 살아요?", "김민수"),
        ("राहुल कहाँ रहता है?", "राहुल"),
    ],
)
def test_who_is_named(question: str, name: str) -> None:
    found = named(question, {"turn": name, "other": "Zoltan"})
    assert found.turns == {"turn"}
    assert found.mentioned(f"{name} has a boat")
    assert not found.mentioned("Zoltan has a boat")


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("When will she leave?", "Will"),
        ("Will she leave?", "Will"),
        ("What is the best soup?", "The Doctor"),
        ("Where is the user?", "user"),
        ("Who does he ask?", "He Xin"),
        ("Is Anabel there?", "Ana"),
        ("Is banana good?", "Ana"),
        ("Where?", "  "),
    ],
)
def test_who_is_not(question: str, name: str) -> None:
    found = named(question, {"turn": name})
    assert not found.turns
    assert not found.mentioned(f"{name} and the best soup of banana")


@given(st.text(max_size=30), st.dictionaries(st.text(max_size=3), st.text(max_size=12), max_size=4))
def test_any_text_will_do(question: str, speakers: dict[str, str]) -> None:
    found = named(question, speakers)
    assert found.turns <= speakers.keys()
    assert found.turns == named(question, {id: speakers[id] for id in found.turns}).turns
    found.mentioned(question)
