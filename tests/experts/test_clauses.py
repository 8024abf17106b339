"""What a fact in the person's own words can be: the schemas, and that a grammar takes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memlora_plugins.experts import clauses, extraction, quotes
from memlora_plugins.experts.extraction import Exchange

JUNE = datetime(2025, 6, 15, tzinfo=UTC)


def facts(text: str, asked: str | None = None, date: datetime | None = JUNE) -> dict[str, Any]:
    found: dict[str, Any] = clauses.schema(Exchange(text, assistant_text=asked, date=date))["properties"]["facts"]
    return found


def told(text: str, fact: str, asked: str | None = None, date: datetime | None = JUNE) -> bool:
    """Whether a reply about `text` can hold `fact`."""
    found = facts(text, asked, date)
    if found.get("maxItems") == 0:
        return False
    return re.search(found["items"].get("pattern", ""), fact) is not None


@pytest.mark.parametrize(
    "fact",
    [
        "I moved to Porto",
        "I moved to Porto.",
        "my sister, Ana, is a nurse.",
        "I moved to Porto and my sister, Ana, is a nurse.",
        " I moved to Porto",
    ],
)
def test_a_fact_is_a_clause_as_it_was_said(fact: str) -> None:
    assert told("Well, I moved to Porto and my sister, Ana, is a nurse.", fact)


@pytest.mark.parametrize(
    "fact",
    [
        "I moved to Lisbon.",
        "I moved to.",
        "I moved moved to Porto.",
        "moved to Porto.",
        "my sister is a nurse.",
        "Oh!",
        "I moved to Porto. Oh! My sister is here.",
        "Is that far?",
        "Is that far",
    ],
)
def test_it_is_nothing_else(fact: str) -> None:
    assert not told("I moved to Porto. Oh! My sister is here. Is that far?", fact)


@pytest.mark.parametrize(
    "text",
    ["Is that far ?", "Is that far？", "Well, could you help me?", "Really? Oh! What's that?", "Who’s there?"],
)
def test_who_only_asks_tells_nothing(text: str) -> None:
    assert facts(text)["maxItems"] == 0


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("I moved to Porto can you help me find a school?", "I moved to Porto"),
        ("My name is Ana what is yours?", "My name is Ana"),
        ("I live in Lisbon (is that far?).", "I live in Lisbon"),
        ("Où est Ana ? J'habite à Porto.", "J'habite à Porto."),
    ],
)
def test_what_is_told_beside_a_question_is_told(text: str, fact: str) -> None:
    assert told(text, fact)


def test_a_title_ends_no_sentence() -> None:
    assert told("My doctor is Dr. Silva. I like her.", "My doctor is Dr. Silva.")
    assert not told("My doctor is Ana Silva. I like her.", "My doctor is Ana Silva. I like her.")


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("I ran a race yesterday.", "I ran a race on 2025-06-14."),
        ("I ran a race yesterday evening in Rome!", "I ran a race on 2025-06-14 in Rome!"),
        ("Last night I ran a race.", "On 2025-06-14 I ran a race."),
        ("Well, two days ago, I ran a race.", "Well, on 2025-06-13, I ran a race."),
        ("I ran a race 3 weeks ago.", "I ran a race on 2025-05-25."),
        ("Tomorrow I leave.", "On 2025-06-16 I leave."),
        ("The day before yesterday it broke, my lamp.", "On 2025-06-13 it broke, my lamp."),
        ("I ran and yesterday I rested.", "on 2025-06-14 I rested."),
    ],
)
def test_a_day_may_become_its_date_and_no_other(text: str, fact: str) -> None:
    assert told(text, fact)
    assert told(text, text)
    day = re.sub(r"\d{4}-\d{2}-\d{2}", "2025-06-01", fact)
    assert not told(text, day)
    assert not told(text, fact, date=None)


@pytest.mark.parametrize(
    "text",
    [
        "I retired twenty two days ago.",
        "I saw it half a day ago.",
        "My favourite song is Yesterday by the Beatles.",
        "I read USA Today every morning.",
        "I read it in 3 days and loved it.",
    ],
)
def test_what_only_looks_like_a_day_becomes_no_date(text: str) -> None:
    assert "2025" not in str(facts(text))


@pytest.mark.parametrize(("text", "year"), [("Yesterday I moved out.", 1), ("I move out tomorrow.", 9999)])
def test_beyond_the_calendar_there_is_no_date(text: str, year: int) -> None:
    day = datetime(year, 1 if year == 1 else 12, 1 if year == 1 else 31, tzinfo=UTC)
    assert told(text, text, date=day)


@pytest.mark.parametrize("mark", ["🎉", "*", ">", "•", "–"])
def test_a_mark_of_its_own_is_a_pause(mark: str) -> None:
    assert told(f"{mark} I live in Porto", "I live in Porto.")
    assert told(f"I live in Porto {mark} my dog is Rex", "I live in Porto.")
    assert told(f"I live in Porto {mark} my dog is Rex", "my dog is Rex")
    assert told(f"I live in Porto {mark}", "I live in Porto")


def test_a_line_is_a_clause() -> None:
    text = "My name is Ana\nI live in Porto\r\n\nI have two dogs"
    for fact in ("My name is Ana", "I live in Porto.", "I have two dogs"):
        assert told(text, fact)
    assert not told(text, "My name is Ana I live in Porto")


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("My name is Jose\u0301.", "My name is Jose."),
        ("I code in C# and C++.", "I code in C."),
        ("I weigh 70%.", "I weigh 70."),
        ("मैं पोर्टो में रहता हूँ।", "मैं पोर्टो में रहता ह."),
    ],
)
def test_signs_of_a_word_stay_with_it(text: str, cut: str) -> None:
    assert told(text, text)
    assert not told(text, cut)


def test_in_a_correction_a_few_words_may_be_others() -> None:
    text = "I live in Porto with my dog. Sorry, I meant Lisbon, not Porto."
    assert told(text, "I live in Lisbon with my dog.")
    assert told(text, "I live in Porto with my dog.")
    assert not told(text, "I live in Rome with my dog.")
    assert not told("I live in Porto with my dog. Lisbon is far.", "I live in Lisbon with my dog.")


@pytest.mark.parametrize("text", ["Where do I live?", "Hello!", "?", "Why? Who?"])
def test_without_a_clause_there_is_no_fact(text: str) -> None:
    assert facts(text)["maxItems"] == 0


@pytest.mark.parametrize(
    ("text", "asked"), [("Yes.", "Do you live in Porto?"), ("Porto, and I like it.", "Where do you live?")]
)
def test_an_answer_is_told_in_any_words(text: str, asked: str) -> None:
    assert clauses.schema(Exchange(text, assistant_text=asked)) == extraction.SCHEMA


@pytest.mark.parametrize(
    "text", ["", "我住在里斯本。", "I meant this. " + "I moved to Porto with my wife and my dog. " * 200]
)
def test_where_clauses_cannot_be_told_apart_or_are_too_many_the_words_are_free(text: str) -> None:
    assert clauses.schema(Exchange(text, date=JUNE)) == extraction.SCHEMA


WORDS = (
    "I you my dog cat moved to Porto Lisbon, and but or; two days ago yesterday. not no Sorry, meant Dr. why? "
    '"so" (x) [y] a\\b c++ 5.5 $ ^ {z} | * é —'
)
MESSAGES = st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=14).map(" ".join)


@pytest.mark.parametrize(
    "text",
    ["a, " * 20_000, "!" * 60_000 + "a b c", "I meant it. " + "a b. " * 5_000, "I meant " + "yesterday " * 9_000],
)
@pytest.mark.timeout(60)  # without bounds it would be hours
def test_no_message_takes_long(text: str) -> None:
    assert len(str(facts(text))) < 25_000


@given(text=MESSAGES | st.text(max_size=80), data=st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_a_clause_is_it_was_said(text: str, data: st.DataObject) -> None:
    exchange = Exchange(text, date=JUNE)
    found = clauses.schema(exchange)["properties"]["facts"]
    pattern = found["items"].get("pattern")
    assume(pattern is not None and len(pattern) < 1500)  # hypothesis is slow with longer ones
    fact = data.draw(st.from_regex(pattern, fullmatch=True)).strip()
    checked = quotes.as_said([fact], exchange)
    assert checked.unsaid == ()


@given(text=MESSAGES | st.text(max_size=80))
@settings(max_examples=150, deadline=None)
def test_every_schema_is_one_that_the_grammar_engine_takes(grammars: Any, text: str) -> None:
    grammars.matcher(clauses.schema(Exchange(text, date=JUNE)))


@pytest.mark.parametrize("some", ["to ", "I a ", "I and you ", "a, ", "yesterday "])
def test_however_long_a_clause_is_the_grammar_engine_takes_it(grammars: Any, some: str) -> None:
    for count in range(20, 400, 20):
        grammars.matcher(clauses.schema(Exchange(some * count, date=JUNE)))
