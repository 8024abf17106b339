"""What an answer in the words of the memories can be."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memlora_plugins import Hit
from memlora_plugins.experts import spans
from memlora_plugins.experts.generation import NO_ANSWERS

NOW = datetime(2025, 6, 15, tzinfo=UTC)


def fact(text: str) -> Hit:
    return Hit(kind="fact", text=text, score=1.0, id="1", created_at=NOW)


def turn(text: str) -> Hit:
    return Hit(kind="turn", text=text, score=1.0, id="2", created_at=NOW, role="user", name="Ana")


def can_be(answer: str, *memories: Hit) -> bool:
    pattern = spans.pattern(memories)
    return pattern is None or re.fullmatch(pattern, answer) is not None


@pytest.mark.parametrize("answer", ["Porto", " Porto", "my dog Rex", "My dog Rex", "by bus", "By bus", "The Borrowed"])
def test_an_answer_is_a_stretch_of_words(answer: str) -> None:
    assert can_be(answer, fact('Ana: I moved to Porto, with my dog Rex, by bus. I read "The Borrowed".'))


@pytest.mark.parametrize("answer", ["Porto or", "Port", "Lisbon", "Ana", "Porto with", "I bus", "", "Porto."])
def test_it_is_nothing_else(answer: str) -> None:
    assert not can_be(answer, fact("Ana: I moved to Porto, with my dog Rex, by bus."))


@pytest.mark.parametrize("memories", [(), (fact("Ana: I paint."),)])
def test_a_trained_expert_can_always_say_that_it_does_not_know(memories: tuple[Hit, ...]) -> None:
    assert all(can_be(answer, *memories) for answer in NO_ANSWERS)
    assert not can_be("Perhaps.", *memories)


def test_it_is_of_one_memory_among_several() -> None:
    memories = fact("Ana: I paint."), turn("I live in Rome: it is loud.")
    assert can_be("Rome: it is", *memories)
    assert can_be("paint", *memories)
    assert not can_be("paint I", *memories)


def test_words_are_free_where_they_are_not_set_apart_or_too_many() -> None:
    assert spans.pattern([fact("アナ: 私はポルトに住んでいます。")]) is None
    assert spans.pattern([turn("word " * 301)]) is None
    assert spans.pattern([turn("I use </think> tags")]) is None


@given(
    texts=st.lists(
        st.lists(
            st.sampled_from(("I", "moved,", "to", "Porto!", "–", "(Rex)", "C++", "5%", "—")), min_size=1, max_size=14
        ),
        min_size=1,
        max_size=3,
    ),
    data=st.data(),
)
@settings(deadline=None)
def test_every_stretch_of_words_of_a_memory_can_be_an_answer(texts: list[list[str]], data: st.DataObject) -> None:
    pattern = spans.pattern([turn(" ".join(pieces)) for pieces in texts])
    assert pattern is not None
    pieces = data.draw(st.sampled_from(texts))
    begin = data.draw(st.integers(0, len(pieces) - 1))
    stretch = pieces[begin : begin + data.draw(st.integers(1, 10))]
    answer = " ".join(stretch).lstrip("(").rstrip("!,)")
    if re.match(r"\w", stretch[0].lstrip("(")) and re.search(r"\w", stretch[-1]):
        assert re.fullmatch(pattern, answer)


@given(texts=st.lists(st.text(max_size=60), max_size=3))
@settings(deadline=None)
def test_the_grammar_engine_takes_it(grammars: Any, texts: list[str]) -> None:
    pattern = spans.pattern([turn(text) for text in texts])
    if pattern is not None:
        assert re.fullmatch(pattern, "I do not know.")
        grammars.matcher(pattern)
