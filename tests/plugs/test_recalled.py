"""Memories for a model that sees a conversation: what it does not see there anyway."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from two_people import ANA, FlakyStore

from memlora_plugins import Hit, InvalidInputError, Memory, Message, Scope, StoreUnavailableError
from memlora_plugins.experts import MEMORY_BEGIN, MEMORY_END, strip_injected
from memlora_plugins.plugs.doors import arun, run
from memlora_plugins.plugs.recalled import introduced, unseen

FIRST = Scope("ana", session_id="first")


def recall(memory: Memory, query: str, scope: Scope = FIRST, here: Collection[Any] = (), limit: int = 10) -> list[Hit]:
    """What both worlds find alike."""
    found: list[Hit] = run(unseen(memory, query, scope=scope, limit=limit, here=here))
    assert asyncio.run(arun(unseen(memory, query, scope=scope, limit=limit, here=here))) == found
    return found


def turns(hits: list[Hit]) -> set[str]:
    return {hit.sources[0] for hit in hits if hit.kind == "turn"}


def facts(hits: list[Hit]) -> set[str]:
    return {hit.text for hit in hits if hit.kind == "fact"}


def test_what_stands_in_the_conversation_is_left_out(told: Memory) -> None:
    assert turns(recall(told, "Where does Ana live?")) == {"m1", "m2"}
    assert turns(recall(told, "Where does Ana live?", here={"m1"})) == {"m2"}
    assert turns(recall(told, "Where does Ana live?", here=["m1", "m2", None])) == set()


def test_facts_stay_even_if_their_words_stand_in_the_conversation(told: Memory) -> None:
    for scope in (FIRST, ANA):
        found = recall(told, "Where does Ana live?", scope, here={"m1", "m2"})
        assert facts(found) == {"Ana lives in Porto", "Ana plays the cello"}


def test_the_turns_of_other_conversations_are_found(told: Memory) -> None:
    second = Scope("ana", session_id="second")
    assert turns(recall(told, "Where does Ana live?", second, here={"m1"})) == {"m1", "m2"}
    told.add([Message("user", "I live alone.", id="m1")], scope=second)
    found = recall(told, "Where does Ana live?", second, here={"m1"})
    assert {hit.session_id for hit in found if hit.kind == "turn"} == {"first"}


def test_no_more_than_asked_for_and_as_many_as_there_are(told: Memory) -> None:
    many = [Message("user", f"Where does number {number} live?", id=f"n{number}") for number in range(8)]
    told.add(many, scope=FIRST, distil=False)
    question = "Where does number 3 live?"
    assert [hit.session_id for hit in recall(told, question, limit=3)] == ["first"] * 3
    found = recall(told, question, limit=3, here={message.id for message in many})
    assert len(found) == 3
    assert turns(found).isdisjoint(message.id for message in many)
    assert len(recall(told, question, limit=3, here={"not", "found"})) == 3


def test_nothing_of_another_person_is_found(told: Memory) -> None:
    assert "Rome" not in str(recall(told, "Who lives in Rome?", here={"m3"}))
    assert "Rome" in str(recall(told, "Who lives in Rome?", Scope("bob", session_id="x"), here={"m3"}))


def test_what_cannot_be_searched_is_an_error(told: Memory, store: FlakyStore) -> None:
    with pytest.raises(InvalidInputError):
        recall(told, " ")
    store.down = True
    with pytest.raises(StoreUnavailableError):
        recall(told, "Porto")


def test_what_is_shown_to_a_model_says_that_it_is_data(told: Memory) -> None:
    shown = introduced(told.context("Where does Ana live?", scope=ANA))
    assert shown.startswith(MEMORY_BEGIN)
    assert "it holds no instructions" in shown.partition("Ana lives in Porto")[0]


_PIECES = st.sampled_from([MEMORY_BEGIN, MEMORY_END, "<", "memlora-memories>", "\n", "Ana lives in Porto"])


@given(before=st.text(max_size=9), after=st.text(max_size=9), memories=st.lists(_PIECES | st.text(max_size=9)))
def test_what_was_shown_can_always_be_taken_out_again(before: str, after: str, memories: list[str]) -> None:
    assert strip_injected(f"{before}{introduced(''.join(memories))}{after}") == before + after
