"""The text that nano is made of: what is taught, what is kept for the tests, and that the two never meet."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memlora_plugins.errors import DatasetError
from memlora_plugins.experts import extraction, generation, update
from memlora_plugins.nano.recipe import blank, chatter, corpus, dialogues, memories, relations
from memlora_plugins.nano.recipe.conversations import conversation
from memlora_plugins.nano.recipe.dialogue import UNKNOWN, Author, Scene, Split
from memlora_plugins.nano.recipe.person import to_second, to_third
from memlora_plugins.nano.recipe.pools import Pools, invented
from memlora_plugins.nano.recipe.relation import SLOT, fill
from memlora_plugins.nano.recipe.relations import RELATIONS

POOLS = relations.pools()
CLOSED = {"number", "count", "year", "month", "weekday", "clock", "day", "when", "n"}
SPLITS: tuple[Split, ...] = ("train", "values", "phrasings")
LESSONS: dict[corpus.Lesson, int] = dict.fromkeys(get_args(corpus.Lesson), 1)
SEEDS = st.integers(0, 2**31)


def author(seed: int, split: Split = "train") -> Author:
    return Author(RELATIONS, POOLS, seed, split)


def scenes(count: int, split: Split = "train") -> list[Scene]:
    writer = author(11, split)
    return [writer.scene() for _ in range(count)]


def pool_of(slot: str) -> str:
    return slot.rstrip("0123456789")


# --- what is taught --------------------------------------------------------------------------------------------------


def test_there_are_many_relations_each_with_sentences_to_learn_and_others_to_test() -> None:
    assert len(RELATIONS) >= 150
    assert len({relation.name for relation in RELATIONS}) == len(RELATIONS)
    taught, kept = author(1), author(1, "phrasings")
    for relation in RELATIONS:
        assert len(set(taught.sentences(relation))) >= 6, relation.name
        assert not set(taught.sentences(relation)) & set(kept.sentences(relation)), relation.name
    assert len(kept.relations) >= 150
    assert all(kept.sentences(relation) for relation in kept.relations)


@pytest.mark.parametrize("split", SPLITS)
def test_values_that_are_kept_for_the_tests_fill_no_slot_in_training(split: Split) -> None:
    writer = author(11, split)
    told = [writer.tell(writer.rng.choice(writer.relations), None, None) for _ in range(1_500)]
    values = [
        value
        for one in told
        for said in (one.values, one.spoken)
        for slot, value in said.items()
        if pool_of(slot) not in CLOSED
    ]
    assert len(values) > 1_000
    assert {POOLS.is_held_out(value) for value in values} == {split == "values"}
    speakers = {scene.exchange.user_name for scene in scenes(300, split)} - {None}
    assert {POOLS.is_held_out(str(name)) for name in speakers} == {split == "values"}


@pytest.mark.parametrize("pool", sorted({pool_of(slot) for r in RELATIONS for slot in r.slots} - CLOSED))
def test_every_pool_has_values_to_learn_and_others_to_test(pool: str) -> None:
    rng = random.Random(1)
    for held_out in (False, True):
        drawn = {POOLS.draw(rng, pool, held_out=held_out) for _ in range(40)}
        assert len(drawn) >= 2
        assert {POOLS.is_held_out(value) for value in drawn} == {held_out}


def said(template: str) -> re.Pattern[str]:
    """The template with anything in its slots."""
    return re.compile(".+".join(map(re.escape, SLOT.sub("\0", template).split("\0"))), re.IGNORECASE)


KEPT = [said(sentence) for relation in RELATIONS for sentence in author(1, "phrasings").sentences(relation)]


def test_sentences_that_are_kept_for_the_tests_are_said_in_none_of_training() -> None:
    taught, kept = (
        {one for relation in RELATIONS for one in author(1, split).sentences(relation)} for split in SPLITS[::2]
    )
    assert not taught & kept
    writer = author(11)
    told = [writer.tell(writer.rng.choice(writer.relations), None, None, ended=False) for _ in range(3_000)]
    told += [writer.reworded(one) for one in told] + [writer.another(one, set(one.values)) for one in told]
    assert {one.said for one in told} <= taught


def test_sentences_that_are_kept_for_the_tests_are_said_in_them() -> None:
    facts = [fact for scene in scenes(200, "phrasings") for fact in scene.facts]
    assert all(any(one.search(fact) for one in KEPT) for fact in facts)


def test_facts_are_in_the_words_of_the_person() -> None:
    """But for days, which become dates, corrections, short answers and claims that are agreed to."""
    day = re.compile("on [0-9]{4}-[0-9]{2}-[0-9]{2}", re.IGNORECASE)
    days = "(today|this morning|yesterday|last night|yesterday evening|two days ago)"
    slips = (re.sub(r"\\\{(new|old)\\\}", ".+", re.escape(one)) for one in chatter.CORRECTIONS)
    corrections = re.compile("|".join(slips), re.IGNORECASE)
    for split in SPLITS:
        as_said: list[bool] = []
        for scene in scenes(1_000, split):
            text = scene.exchange.user_text
            answers = (scene.exchange.assistant_text or "").endswith("?") and len(scene.facts) == 1 and len(text) < 80
            for fact in scene.facts:
                assert scene.exchange.date is not None or not day.search(fact)
                as_said.append(bool(re.search(days.join(map(re.escape, day.split(fact))), text, re.IGNORECASE)))
                assert as_said[-1] or answers or corrections.search(text), (fact, text)
        assert sum(as_said) / len(as_said) > 0.9


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_questions_that_are_kept_for_the_tests_are_asked_in_none_of_training(seed: int) -> None:
    writer = author(seed)
    told = writer.tell(writer.rng.choice(RELATIONS), None, None)
    taught = {writer.question(told) for _ in range(60)}
    kept = {writer.question(told, held_out=True) for _ in range(20)}
    assert kept
    assert not taught & kept


@given(SEEDS, st.sampled_from(SPLITS))
@settings(max_examples=10, deadline=None)
def test_the_same_seed_writes_the_same(seed: int, split: Split) -> None:
    def written(seed: int) -> list[object]:
        writer = author(seed, split)
        base = corpus.base_samples(writer, 9, shares=LESSONS, dialogues=[["a", "b"]], prefix="b")
        tasks = [sample for name in corpus.EXPERTS for sample in corpus.samples(writer, name, 2, prefix=name)]
        return [*base, *tasks, conversation(writer, "c")]

    assert written(seed) == written(seed) != written(seed + 1)


def test_another_process_writes_the_same() -> None:
    """Whatever order the names of a set come in there."""
    script = """
from typing import get_args
from memlora_plugins.nano.recipe import corpus, relations
from memlora_plugins.nano.recipe.conversations import conversation
from memlora_plugins.nano.recipe.dialogue import Author, Split

every = dict.fromkeys(get_args(corpus.Lesson), 1)
for split in get_args(Split):
    author = Author(relations.RELATIONS, relations.pools(), 3, split)
    print([list(corpus.samples(author, name, 40, prefix=name)) for name in corpus.EXPERTS])
    print(list(corpus.base_samples(author, 100, shares=every, dialogues=[], prefix="b")))
    print(conversation(author, "talk"))
"""
    written = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(written) == 1


@given(SEEDS, st.sampled_from(SPLITS))
@settings(max_examples=25, deadline=None)
def test_nothing_that_is_written_holds_an_unfilled_slot(seed: int, split: Split) -> None:
    writer = author(seed, split)
    for text in written_by(writer):
        assert not re.search("[{}]", text), text
        assert text.strip()


def written_by(writer: Author) -> Iterator[str]:
    for _ in range(12):
        scene = writer.scene()
        yield from (scene.exchange.user_text, *scene.facts)
        if scene.exchange.assistant_text is not None:
            yield scene.exchange.assistant_text
        pair = memories.pair(writer)
        yield from (str(pair.found), pair.new)
        query = memories.query(writer)
        yield from (query.question, query.answer, *(hit.text for hit in query.memories))
        yield from (text for _, text in memories.small_talk(writer))
    talk = conversation(writer, "c")
    yield from (message.text for _, message in talk.messages)
    yield from (text for question in talk.questions for text in (question.text, question.answer or ""))


def test_memories_are_quotes_of_the_person_by_name_or_as_the_user() -> None:
    writer = author(4)
    for _ in range(100):
        pair = memories.pair(writer)
        for text in (str(pair.found), pair.new):
            assert re.fullmatch("[^:]+: .+", text)


# --- templates and pools ---------------------------------------------------------------------------------------------

HOME = next(relation for relation in RELATIONS if relation.slots == {"city"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"said": (*HOME.said, "I live in {country}")},
        {"said": HOME.said[:3]},
        {"said": ()},
        {"asked": (*HOME.asked, "Where is the sun")},
        {"answer": "{country}"},
        {"said": (*HOME.said, "I live in {city}.")},
        {"ended": ("I left {country}",)},
        {"ended": ("Nobody lives in {city}",)},
        {"said": (*HOME.said, "Home is {city}")},
    ],
)
def test_a_relation_that_could_not_be_told_is_refused(wrong: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match=HOME.name):
        replace(HOME, **wrong)


@pytest.mark.parametrize(
    ("word", "article"), [("nurse", "a"), ("editor", "an"), ("unicorn", "a"), ("ukulele", "a"), ("umbrella", "an")]
)
def test_an_article_fits_its_word(word: str, article: str) -> None:
    assert fill("I am {a job}", {"job": word}) == f"I am {article} {word}"
    assert fill("{job}, {job}", {"job": word}, capital=False) == f"{word}, {word}"


def test_pools_are_named_once_and_end() -> None:
    with pytest.raises(ValueError, match="city"):
        Pools({"city": ("Lisbon",)})
    few = Pools({"tool": ("saw",)})
    with pytest.raises(ValueError, match="no further value"):
        few.draw(random.Random(1), "tool", held_out=False, avoid=frozenset({"saw"}))


def test_domains_that_do_not_fit_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "_MODULES", (relations.people, relations.people))
    with pytest.raises(ValueError, match="share a name"):
        relations.pools()
    monkeypatch.setattr(relations, "_MODULES", ())
    with pytest.raises(ValueError, match="without a pool"):
        relations.pools()
    monkeypatch.undo()
    monkeypatch.setattr(relations, "RELATIONS", (HOME, HOME))
    with pytest.raises(ValueError, match="Two relations"):
        relations.pools()


@given(SEEDS)
def test_invented_words_are_names(seed: int) -> None:
    assert re.fullmatch("[A-Z][a-z]+", invented(random.Random(seed)))


# --- old memories and questions --------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from(SPLITS))
@settings(max_examples=40, deadline=None)
def test_what_is_to_be_decided_is_what_the_pipeline_reads_from_the_wanted_reply(seed: int, split: Split) -> None:
    writer = author(seed, split)
    for _ in range(10):
        pair = memories.pair(writer)
        old, new = [str(pair.found)], [pair.new]
        reply = update.target(pair.decisions, old, new)
        assert set(update.read(reply, old, new).items) == set(pair.decisions), pair


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_day_in_a_memory_is_the_one_that_its_turn_tells(seed: int) -> None:
    writer = author(seed)
    dated = [relation for relation in RELATIONS if "when" in relation.slots]
    writer.relations = tuple(dated)
    for _ in range(30):
        query = memories.query(writer)
        for hit in (hit for hit in query.memories if hit.kind == "fact"):
            days = re.findall("[0-9]{4}-[0-9]{2}-[0-9]{2}", hit.text)
            assert all(timedelta(0) <= hit.created_at.date() - date.fromisoformat(day) <= timedelta(2) for day in days)


def test_what_is_taught_in_short_form_is_right() -> None:
    writer = author(8)
    for _ in range(300):
        asked, answer = memories.lookup(writer)
        assert asked.endswith("?")
        assert answer
        asked, operation = memories.verdict(writer)
        old, new = asked.split("\n")
        assert old.startswith("0 ")
        assert new.startswith("New: ")
        assert operation in ("ADD", "UPDATE", "DELETE", "NONE")


def test_every_operation_and_every_kind_of_question_is_taught() -> None:
    writer = author(3)
    operations = {memories.pair(writer).operation for _ in range(300)}
    assert operations == {"ADD", "UPDATE", "DELETE", "NONE"}
    queries = [memories.query(writer) for _ in range(300)]
    assert {query.kind for query in queries} == {"known", "changed", "unknown", "remark"}
    for query in queries:
        assert all(hit.created_at < query.now for hit in query.memories)
        assert (query.kind == "unknown") == (query.answer == UNKNOWN)
        if query.kind == "known":
            assert query.question.endswith("?")


def test_a_whole_conversation_has_sessions_changes_and_questions_about_its_person() -> None:
    talk = conversation(author(5, "values"), "talk-0")
    messages = [message for _, message in talk.messages]
    assert len({session for session, _ in talk.messages}) == 3
    assert len({message.id for message in messages}) == len(messages)
    times = [message.created_at for message in messages]
    assert times == sorted(times)
    [person] = {message.name for message in messages if message.role == "user"}
    assert len(talk.questions) == 9
    assert all(question.answer for question in talk.questions)
    assert sum(str(person) in question.text for question in talk.questions) > 6


# --- persons ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "second", "third"),
    [
        ("Where do I live?", "Where do you live?", "Where does Ana live?"),
        ("What am I allergic to?", "What are you allergic to?", "What is Ana allergic to?"),
        ("What is my dog's name?", "What is your dog's name?", "What is Ana's dog's name?"),
        ("Which prize have I won?", "Which prize have you won?", "Which prize has Ana won?"),
        ("Who taught me to swim?", "Who taught you to swim?", "Who taught Ana to swim?"),
        ("I'm in Imola.", "You're in Imola.", "Ana is in Imola."),
        ("Is it mine?", "Is it yours?", "Is it Ana's?"),
    ],
)
def test_a_sentence_is_turned_to_another_person(said: str, second: str, third: str) -> None:
    assert to_second(said) == second
    assert to_third(said, "Ana") == third


def first_person(texts: Iterable[str]) -> list[str]:
    return [text for text in texts if re.search(r"(?<![\w'])(I|me|my|mine)(?!\w)", text)]


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_no_question_about_somebody_else_is_in_the_first_person(seed: int) -> None:
    writer = author(seed)
    told = [writer.tell(relation, "Ana", None) for relation in writer.rng.sample(RELATIONS, 40)]
    asked = [writer.question(one, held_out=held_out) for one in told for held_out in (False, True)]
    assert not first_person(to_second(question) for question in asked)
    assert not first_person(to_third(question, "Ana") for question in asked)


# --- chats of other origin -------------------------------------------------------------------------------------------


def test_chats_are_read_and_single_lines_left_out(chats_file: Path) -> None:
    assert dialogues.read_dialogues(chats_file) == [["Hello, you!", "Hi."], ["One", "two", "three"]]


def test_another_file_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        dialogues.read_dialogues(tmp_path / "nowhere.csv")
    (tmp_path / "other.csv").write_text("something else")
    with pytest.raises(DatasetError, match="not the file nano was made with"):
        dialogues.read_dialogues(tmp_path / "other.csv")


def test_the_base_reads_tasks_without_instructions_and_chats() -> None:
    chats = [["Is it raining?", "It pours."]]
    read = list(corpus.base_samples(author(1), 200, shares=LESSONS, dialogues=chats, prefix="b"))
    assert [sample.id for sample in read] == [f"b-{number}" for number in range(200)]
    assert {sample.expert for sample in read} == set(corpus.EXPERTS)
    assert any(sample.reply == "It pours." for sample in read)
    prompts = {expert.SHORT_PROMPT for expert in (extraction, update, generation)}
    tasks = list(
        corpus.base_samples(
            author(2), 200, shares=dict.fromkeys(("exchange", "decision", "question"), 1), dialogues=[], prefix="t"
        )
    )
    instructed = [sample for sample in tasks if any(prompt in sample.messages[0].content for prompt in prompts)]
    assert 0.15 < len(instructed) / len(tasks) < 0.45
    assert any(extraction.FULL_PROMPT in sample.messages[0].content for sample in read)  # now and then


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_first_lesson_is_a_few_sentences_and_what_is_noted_of_each(seed: int) -> None:
    for sample in corpus.base_samples(author(seed), 40, shares={"sentence": 1}, dialogues=[], prefix="s"):
        [asked] = sample.messages
        assert extraction.SHORT_PROMPT not in asked.content
        assert 1 <= len(extraction.read(sample.reply).facts) <= 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    texts = [sample.reply for sample in corpus.samples(author(4), "extraction", 200, prefix="t")]
    return blank.make_tokenizer(texts, tmp_path_factory.mktemp("tokenizer"))


def test_words_to_copy_are_their_own_fact(tokenizer: Any) -> None:
    made = list(corpus.copies(tokenizer, 50, seed=3, prefix="c"))
    assert made == list(corpus.copies(tokenizer, 50, seed=3, prefix="c"))
    assert made != list(corpus.copies(tokenizer, 50, seed=4, prefix="c"))
    for sample in made:
        [fact] = extraction.read(sample.reply).facts
        assert fact in sample.messages[0].content
        assert extraction.SHORT_PROMPT not in sample.messages[0].content


def test_lines_to_compare_and_what_a_new_one_is_to_them(tokenizer: Any) -> None:
    seen: Counter[str] = Counter()
    for sample in corpus.comparisons(tokenizer, 300, seed=3, prefix="c"):
        *numbered, new = sample.messages[0].content.split("\n")
        lines = [line.removeprefix(f"{number} ") for number, line in enumerate(numbered)]
        new = new.removeprefix("New: ")
        relation, *place = sample.reply.split()
        seen[relation] += 1
        if relation == "none":
            assert new not in lines
            continue
        meant = lines[int(place[0])]
        assert (new == meant) == (relation == "same")
        assert new.startswith(meant.removesuffix(".")) == (relation in ("same", "more"))
    assert set(seen) == {"same", "some", "more", "none"}


def test_what_is_copied_is_the_same_tokens_in_the_reply(tokenizer: Any) -> None:
    for sample in corpus.samples(author(6), "extraction", 100, prefix="e"):
        read, replied = (tokenizer.tokenize(text) for text in (sample.messages[0].content, sample.reply))
        for fact in extraction.read(sample.reply).facts:
            if f" {fact}" in sample.messages[0].content:
                words = tokenizer.tokenize(f" {fact}")
                assert _has(read, words), fact
                assert _has(replied, words), fact


def _has(tokens: list[str], part: list[str]) -> bool:
    return any(tokens[at : at + len(part)] == part for at in range(len(tokens)))


def test_a_short_answer_is_noted_in_full() -> None:
    answers = [scene for scene in scenes(3_000) if scene.exchange.user_text.startswith("That would be ")]
    assert answers
    for scene in answers:
        [fact] = scene.facts
        short = scene.exchange.user_text.removeprefix("That would be ").rstrip(".")
        assert short.casefold() in fact.casefold() or re.search("[0-9]{4}-[0-9]{2}-[0-9]{2}", fact)
        assert len(fact) > len(short)
        assert str(scene.exchange.assistant_text).endswith("?")


def test_a_new_fact_stands_beside_the_memory_it_is_about_or_the_one_that_is_found() -> None:
    writer = author(5)
    asked: list[tuple[str, list[str]]] = []

    def nearest(fact: str, known: Sequence[str]) -> str | None:
        asked.append((fact, list(known)))
        return None if len(asked) % 3 == 0 else known[-1]

    pairs = [memories.pair(writer, nearest) for _ in range(200)]
    found = {fact: known[-1] for fact, known in asked}
    for pair in pairs:
        assert pair.found == (pair.meant or found[pair.new])
    assert {pair.operation for pair in pairs if pair.meant is None} == {"ADD"}
    assert {len(known) for _, known in asked} == {5}

    asked.clear()
    served = [memories.served(writer, nearest) for _ in range(200)]
    assert [fact for fact, _ in asked] == [pair.new for pair in served]
    for pair, (_, known) in zip(served, asked, strict=True):
        assert len(set(known)) == len(known) <= 13
        assert pair.meant is None or pair.meant in known
        assert pair.found is None or pair.found == known[-1]
    assert sum(pair.found is None for pair in served) == 66  # every third search found nothing


def test_a_plain_question_is_about_few_notes() -> None:
    writer = author(5)
    for _ in range(300):
        query = memories.query(writer, plain=True)
        assert len(query.memories) <= 5
        assert {hit.kind for hit in query.memories} <= {"fact"}


def test_a_question_is_asked_with_the_note_that_is_found_and_taught_with_the_right_one() -> None:
    found: list[str] = []

    def first(question: str, notes: Sequence[str]) -> str:
        found.append(notes[0])  # something else: what is asked about is noted later
        return notes[0]

    writer = author(3)
    measured = [memories.recalled(writer, first) for _ in range(100)]
    assert [query.memories[0].text for query in measured] == found
    assert {query.answer for query in measured if query.kind == "known"}.isdisjoint({UNKNOWN})
    found.clear()
    taught = [memories.recalled(writer, first, taught=True) for _ in range(300)]
    assert [query.memories[0].text for query in taught if query.kind != "known"] == found
    assert {query.answer for query in taught if query.kind == "unknown"} == {UNKNOWN}
    known = [query for query in taught if query.kind == "known"]
    assert len(known) > 60
    told = [query for query in known if query.answer.split()[-1].casefold() in query.memories[0].text.casefold()]
    assert len(told) >= 0.95 * len(known)  # "on Saturdays" of "every Saturday"


def test_in_training_a_value_now_and_then_comes_from_a_pool_it_does_not_belong_to() -> None:
    months = {POOLS.draw(random.Random(seed), "month", held_out=False) for seed in range(200)}
    assert {author(2).value("month") for _ in range(200)} <= months  # closed pools keep to themselves

    def own(split: Split, pool: str) -> float:
        writer, values = (
            author(2, split),
            {POOLS.draw(random.Random(n), pool, held_out=split == "values") for n in range(3_000)},
        )
        return sum(writer.value(pool) in values for _ in range(500)) / 500

    assert own("train", "job") < 0.98 < own("values", "job") == own("phrasings", "job")
