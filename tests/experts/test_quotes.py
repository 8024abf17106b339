from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.experts import quotes
from memlora_plugins.experts.extraction import Exchange
from memlora_plugins.experts.wording import mark_injected

TEXT = (
    "Hi! I have to see an allergist on 24 October and more. I plan a charity auction for August. My neighbour is named "
    "Tomasz. Keep to bullet-point answers with me, please! I'm being looked after by Dr Pitrai, who is my doctor."
)


@pytest.mark.parametrize(
    ("noted", "meant"),
    [
        ("I have to see an injuredist on 24 October", "I have to see an allergist on 24 October"),
        ("I plan a charity auction auction auction for August.", "I plan a charity auction for August."),
        ("My neighbour is named someoneasz.", "My neighbour is named Tomasz."),
        ("My neighbor is named Tomasz.", "My neighbour is named Tomasz."),
        ("Keep to bullet-p me, please!", "Keep to bullet-point me, please!"),
        ("I'm not looked after by Dr Pitrai, who", "I'm being looked after by Dr Pitrai, who"),
        ("My neighbour named Tomasz.", "My neighbour named Tomasz."),  # nothing there was not said
    ],
)
def test_a_slip_of_the_copy_is_put_right_from_the_message(noted: str, meant: str) -> None:
    assert quotes.as_said([noted], Exchange(TEXT)) == quotes.Quotes((meant,))


@pytest.mark.parametrize(
    ("text", "noted", "kept"),
    [
        (
            "I have a phobia of horses. I mean: fireworks.",
            "I hazqe a phobia of fireworks.",
            "I have a phobia of fireworks.",
        ),
        ("I live in London. No, wait, Lisboa!", "I live in Lisbon.", "I live in Lisboa."),
        (
            "So, I talked to Cormac last night.",
            "I talzqd to Cormac on 2022-11-15.",
            "I talked to Cormac on 2022-11-15.",
        ),
        ("I was born on 1985-03-02.", "I was born on 1985-03-20.", "I was born on 1985-03-02."),
        ("Nobody in our family smokes at home.", "We smoke at home.", "We smoke at home."),
        ("This is it. My name is Tom.", "My name is is Tom.", "My name is Tom."),
    ],
)
def test_what_is_put_right_loses_no_other_word(text: str, noted: str, kept: str) -> None:
    assert quotes.as_said([noted], Exchange(text)).facts == (kept,)


def test_slips_of_one_sentence_are_one_fact() -> None:
    said = quotes.as_said(["I live in Lisboa.", "I live in Lisbon Lisbon."], Exchange("So, I live in Lisbon."))
    assert said.facts == ("I live in Lisbon.",)


@pytest.mark.parametrize(
    "noted", ["The weather is fine.", "I'm a a lot of user.", "I own a yacht in Monaco.", "2021-04-26.", "Lisboetas."]
)
def test_what_nobody_said_is_no_quote(noted: str) -> None:
    exchange = Exchange("I live in Porto.", assistant_text="Where do you live?")
    said = quotes.as_said([noted, "I live in Porto."], exchange)
    assert said == quotes.Quotes(("I live in Porto.",), unsaid=(noted,))


def test_what_the_assistant_claims_was_not_said() -> None:
    exchange = Exchange("Cool!", assistant_text="Mount Everest is the tallest mountain.")
    assert quotes.as_said(["Mount Everest is the tallest mountain."], exchange).facts == ()


def test_scripts_without_spaces_are_left_as_they_are() -> None:
    assert quotes.as_said(["我住在里斯夲。"], Exchange("我住在里斯本。")).facts == ("我住在里斯夲。",)


def test_memories_in_the_message_are_not_what_the_person_said() -> None:
    exchange = Exchange(f"{mark_injected('Ana owns a yacht in Monaco.')} I live in Lisbon.")
    assert quotes.as_said(["I own a yacht in Monaco."], exchange).unsaid == ("I own a yacht in Monaco.",)


@pytest.mark.parametrize(
    ("text", "asked", "noted"),
    [
        ("I baked a cake two days ago.", None, "I baked a cake on 2021-04-26."),
        ("Bowls, actually.", "What do you make by hand?", "I make bowls by hand."),
        ("Glass Ferry!", "Whose concert were you at in Bratislava? :)", "I saw Glass Ferry live in Bratislava."),
        ("Sunday, actually.", "What day do you work out at the gym?", "I go to the gym on Sundays."),
        ("Yes.", "So your brother Henry works as an actuary?", "My brother Henry works as an actuary."),
    ],
)
def test_dates_for_days_and_whole_sentences_for_answers_are_kept(text: str, asked: str | None, noted: str) -> None:
    assert quotes.as_said([noted], Exchange(text, assistant_text=asked)) == quotes.Quotes((noted,))


@given(st.lists(st.text(min_size=1).filter(lambda text: not text.isspace()), min_size=1), st.data())
def test_whatever_was_said_stays_as_it_was_said(words: list[str], data: st.DataObject) -> None:
    text = " ".join(" ".join(words).split())
    pieces = text.split(" ")
    start = data.draw(st.integers(0, len(pieces) - 1))
    end = data.draw(st.integers(start + 1, len(pieces)))
    quote = " ".join(pieces[start:end])
    assert quotes.as_said([quote], Exchange(text)) == quotes.Quotes((quote,))


TREES = ("oak", "elm", "ash", "fir", "yew", "bay", "fig", "sal", "tea", "nut", "rye", "pea", "the", "a", "of")


@given(st.lists(st.sampled_from(TREES), min_size=4, max_size=40), st.data())
def test_no_word_that_was_said_is_lost_and_none_that_was_not_said_is_new(text: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    fact = text[start : data.draw(st.integers(start + 1, len(text)))]
    for place in data.draw(st.sets(st.integers(0, len(fact) - 1), max_size=3)):
        fact[place] = data.draw(st.text("aeokfrz", min_size=1, max_size=5))
    said = quotes.as_said([" ".join(fact)], Exchange(" ".join(text)))
    [result] = said.facts or said.unsaid
    assert {*fact} & {*text} <= {*result.split()}
    assert {*result.split()} <= {*fact} | {*text}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Ana", "Ana: I moved to Porto."),
        (None, "The user: I moved to Porto."),
        ("User", "The user: I moved to Porto."),
        (" Ana:\nBob ", "Ana Bob: I moved to Porto."),
        ("userland", "userland: I moved to Porto."),
    ],
)
def test_a_fact_in_the_persons_own_words_is_kept_with_who_said_it(name: str | None, kept: str) -> None:
    assert quotes.quote("I moved to Porto.", name) == kept


@pytest.mark.parametrize(
    ("quote", "other", "expected"),
    [
        ("Ana: I paint.", "ana: I swim.", True),
        ("Ana: I paint.", "Bob: I swim.", False),
        ("The user: I paint.", "Bob: I swim.", True),
        ("Ana: I paint.", "The user: I swim.", True),
        ("Ana: I paint.", "Paints", True),
    ],
)
def test_quotes_of_two_names_are_of_two_people(quote: str, other: str, expected: bool) -> None:
    assert quotes.may_be_one_person(quote, other) == expected


@pytest.mark.parametrize(
    "text", ["I like to run and " * 22, "I like to run with Anna and " * 150], ids=["nano's piece", "the longest piece"]
)
@pytest.mark.timeout(20)  # without bounds it would be minutes
def test_no_message_takes_long_to_be_compared_with_its_facts(text: str) -> None:
    facts = [f"I like to run and I like to rum and I like to {number}" for number in range(40)]
    assert len(quotes.as_said(facts, Exchange(text)).facts) <= 40
