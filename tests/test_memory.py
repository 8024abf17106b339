"""The doors, over the real embedded store: what is remembered, found, changed and lost (nothing)."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from scripted import FakeBackend, Reply, WordEmbedder, decides, says, user_line

from memlora_plugins import (
    AddResult,
    Answer,
    AsyncMemory,
    BackendNotConfiguredError,
    BackendUnavailableError,
    ClosedError,
    EdgeFactStore,
    EmbeddingError,
    Fact,
    ForkedError,
    ImagePart,
    InvalidInputError,
    Memory,
    Message,
    MessageError,
    NotFoundError,
    NotPortableError,
    PromptTooLongError,
    Ranking,
    ReplyError,
    RetiredError,
    Scope,
    ScopeError,
    Settings,
    SettingsError,
    Stage,
    Token,
    Turn,
    UnsaidError,
)
from memlora_plugins.core import build_store
from memlora_plugins.experts import update
from memlora_plugins.serving.base import Completion, Request
from memlora_plugins.settings import load_settings

ANA, BOB = Scope("ana"), Scope("bob")
MAY = datetime(2026, 5, 3, tzinfo=UTC)


def make(path: Path, backend: FakeBackend | None = None, embedder: WordEmbedder | None = None) -> Memory:
    return Memory(
        backend=backend or FakeBackend(extraction=facts_of, update=keep_all, generation=lambda r: "In Lisbon."),
        store=EdgeFactStore(path),
        embedder=embedder or WordEmbedder(),
    )


def facts_of(request: Request) -> str:
    """A fake extraction expert: what stands between « and » in the exchange is a fact."""
    shown = user_line(request)
    return says(*(part.split("»")[0] for part in shown.split("«")[1:]))


def keep_all(request: Request) -> str:
    """A fake update expert that has nothing to say: every new fact is then added."""
    return decides()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with make(tmp_path / "m") as memory:
        yield memory


def said(text: str, **fields: Any) -> Message:
    return Message("user", text, **fields)


def texts(facts: Any) -> list[str]:
    return [fact.text for fact in facts]


# --- remembering -----------------------------------------------------------------------------------------------------


def test_what_a_person_says_becomes_a_fact_with_its_source(memory: Memory) -> None:
    message = said("Hello! «Lives in Lisbon» since May.", created_at=MAY)
    result = memory.add([message], scope=ANA)
    assert [(event.operation, event.fact.text) for event in result.events] == [("ADD", "Lives in Lisbon")]
    assert result.pending == result.errors == ()
    assert [turn.pending for turn in result.turns] == [False]
    [fact] = memory.facts(scope=ANA)
    assert fact.sources == (message.id,)
    assert fact.valid_from == MAY
    hits = memory.search("Where does she live? Lisbon?", scope=ANA)
    assert {hit.kind for hit in hits} == {"fact", "turn"}
    assert all(hit.sources == (message.id,) for hit in hits)


def test_what_the_assistant_says_is_kept_and_shown_to_the_expert_but_not_distilled(memory: Memory) -> None:
    memory.add([Message("assistant", "Where do you live, «not a fact of hers»?")], scope=ANA)
    memory.add([said("In «Lisbon»")], scope=ANA)
    [request] = memory._core.backend.asked("extraction")
    assert "Where do you live" in user_line(request)
    assert len(memory.turns(scope=ANA)) == 2


def test_system_and_tool_messages_are_kept_and_never_found(memory: Memory) -> None:
    memory.add([Message("system", "secret sauce"), Message("tool", "secret result"), said("hello")], scope=ANA)
    assert [turn.role for turn in memory.turns(scope=ANA)] == ["system", "tool", "user"]
    assert [hit.text for hit in memory.search("secret sauce result", scope=ANA)] in ([], ["hello"])


def test_adding_the_same_message_again_changes_nothing(memory: Memory) -> None:
    message = said("«Likes tea»")
    memory.add([message, message], scope=ANA)
    again = memory.add([message], scope=ANA)
    assert again.events == ()
    assert len(memory.turns(scope=ANA)) == len(memory.facts(scope=ANA)) == 1
    assert len(memory._core.backend.asked("extraction")) == 1


def test_equal_sentences_stay_two_turns_and_one_fact_with_two_sources(memory: Memory) -> None:
    one, two = said("«Likes tea»"), said("«Likes tea»")
    memory.add([one], scope=ANA)
    result = memory.add([two], scope=ANA)
    assert [event.operation for event in result.events] == ["NONE"]
    assert len(memory.turns(scope=ANA)) == 2
    [fact] = memory.facts(scope=ANA)
    assert set(fact.sources) == {one.id, two.id}
    assert memory._core.backend.asked("update") == []


def test_without_distil_the_turns_are_kept_and_no_model_is_asked(memory: Memory) -> None:
    result = memory.add([said("«Likes tea»")], scope=ANA, distil=False)
    assert result.pending == ()
    assert memory.flush().events == ()
    assert memory.facts(scope=ANA) == []
    assert memory.search("tea", scope=ANA)


def test_a_megabyte_message_is_kept_whole_and_distilled_piece_by_piece(memory: Memory) -> None:
    text = "«Starts here». " + "Nothing to see. " * 65_000 + "«Ends here»."
    result = memory.add([said(text)], scope=ANA)
    assert set(texts(memory.facts(scope=ANA))) == {"Starts here", "Ends here"}
    assert memory.turns(scope=ANA)[0].text == text
    assert result.errors == ()


@pytest.mark.parametrize("text", ["a\ud800b «x\udfffy»", "nul \x00 bell \x07 «ctrl \x01 fact»", "🙂 «emoji 🙂»"])
def test_odd_characters_lose_nothing(memory: Memory, text: str) -> None:
    result = memory.add([said(text)], scope=ANA)
    assert result.errors == ()
    assert len(memory.facts(scope=ANA)) == 1
    assert memory.turns(scope=ANA)[0].text == Message("user", text).text


def test_metadata_that_no_store_could_read_back_is_refused(memory: Memory) -> None:
    deep: dict[str, Any] = {}
    deep["again"] = deep
    with pytest.raises(InvalidInputError, match="deep"):
        memory.add([said("hello", metadata=deep)], scope=ANA)
    memory.add([said("hello", metadata={"a": [{"b": [1]}]})], scope=ANA)
    assert [turn.metadata for turn in memory.turns(scope=ANA)] == [{"a": [{"b": [1]}]}]


@pytest.mark.parametrize("messages", [["hi"], [{"role": "user", "content": "hi"}], [None]])
def test_something_else_than_messages_is_refused(memory: Memory, messages: Any) -> None:
    with pytest.raises(MessageError, match="position 0"):
        memory.add(messages, scope=ANA)


def test_nothing_at_all_is_refused_and_an_empty_list_is_fine(memory: Memory) -> None:
    with pytest.raises(MessageError, match="NoneType"):
        memory.add(None, scope=ANA)
    with pytest.raises(InvalidInputError, match="NoneType"):
        memory.load(None, scope=ANA)
    assert memory.add([], scope=ANA) == AddResult()
    assert memory.load([], scope=ANA) == 0


def test_a_single_message_is_taken_as_one(memory: Memory) -> None:
    assert len(memory.add(said("hello"), scope=ANA).turns) == 1


@pytest.mark.parametrize("scope", [None, "ana", {"user_id": "ana"}])
def test_nothing_works_without_a_scope(memory: Memory, scope: Any) -> None:
    for call in (
        lambda: memory.add([said("x")], scope=scope),
        lambda: memory.search("x", scope=scope),
        lambda: memory.facts(scope=scope),
        lambda: memory.erase(scope=scope),
        lambda: memory.stream("x", scope=scope),
        lambda: memory.aio.stream("x", scope=scope),
    ):
        with pytest.raises(ScopeError, match="Scope"):
            call()


# --- updating --------------------------------------------------------------------------------------------------------


def updating(tmp_path: Path, update: Any) -> Memory:
    return make(tmp_path / "u", FakeBackend(extraction=facts_of, update=update))


def test_update_keeps_the_old_version_in_history(tmp_path: Path) -> None:
    with updating(tmp_path, lambda r: decides(("0", "UPDATE", "Lives in Porto"))) as memory:
        memory.add([said("«Lives in Lisbon»", created_at=MAY)], scope=ANA)
        old = memory.facts(scope=ANA)[0]
        later = MAY + timedelta(days=30)
        [event] = memory.add([said("«Lives in Porto»", created_at=later)], scope=ANA).events
        assert (event.operation, event.fact.text, event.previous.text) == (
            "UPDATE",
            "Lives in Porto",
            "Lives in Lisbon",
        )
        assert texts(memory.facts(scope=ANA)) == ["Lives in Porto"]
        before, after = memory.history(event.fact.id, scope=ANA)
        assert (before.id, before.retired_by, before.valid_to, before.superseded_by) == (
            old.id,
            "UPDATE",
            later,
            after.id,
        )
        assert after.version == 2
        assert memory.history(old.id, scope=ANA) == [before, after]
        assert memory.get(old.id, scope=ANA) == before
        assert "Lives in Lisbon" not in [h.text for h in memory.search("lives", scope=ANA, kinds=["fact"])]
        with pytest.raises(RetiredError) as refused:
            memory.edit(old.id, "x", scope=ANA)
        assert refused.value.current_id == after.id
        assert after.id in str(refused.value)


def test_an_update_to_what_another_fact_says_tells_of_that_fact(tmp_path: Path) -> None:
    def merge(request: Request) -> str:
        old = json.loads(user_line(request).split("Old memories: ")[1].splitlines()[0])
        return decides(*((id, "UPDATE", "Likes green tea") for id, text in old.items() if text == "Likes tea"))

    backend = FakeBackend(extraction=facts_of, update=merge)
    with make(tmp_path, backend) as memory:
        memory.add([said("«Likes tea» «Likes green tea»")], scope=ANA)
        result = memory.add([said("«Likes rather green tea»")], scope=ANA)
        assert {event.operation for event in result.events} == {"UPDATE"}
        for event in result.events:
            assert memory.get(event.fact.id, scope=ANA).text == event.fact.text == "Likes green tea"


@pytest.mark.parametrize("later", [MAY + timedelta(days=1), MAY - timedelta(days=1)])
def test_versions_of_a_fact_stay_with_its_agent(tmp_path: Path, later: datetime) -> None:
    coach = Scope("ana", "coach")
    backend = FakeBackend(extraction=facts_of, update=lambda r: decides(("0", "UPDATE", "Lives in Lisbon")))
    with make(tmp_path, backend) as memory:
        memory.add([said("«Lives in Porto»", created_at=MAY)], scope=coach)
        memory.add([said("«Lives in Lisbon»", created_at=later)], scope=ANA)
        [now] = memory.facts(scope=coach)
        assert now.text == ("Lives in Lisbon" if later > MAY else "Lives in Porto")
        assert len(memory.history(now.id, scope=coach)) == 2


def test_an_older_statement_never_retires_a_newer_one(tmp_path: Path) -> None:
    with updating(tmp_path, lambda r: decides(("0", "UPDATE", "Lives in Lisbon"))) as memory:
        memory.add([said("«Lives in Porto»", created_at=MAY)], scope=ANA)
        memory.add([said("«Lives in Lisbon»", created_at=MAY - timedelta(days=300))], scope=ANA)
        [current] = memory.facts(scope=ANA)
        assert current.text == "Lives in Porto"
        assert texts(memory.history(current.id, scope=ANA)) == ["Lives in Lisbon", "Lives in Porto"]


def test_an_older_contradiction_deletes_nothing(tmp_path: Path) -> None:
    with updating(tmp_path, lambda r: decides(("0", "DELETE", "Likes tea a lot"))) as memory:
        memory.add([said("«Likes tea a lot»", created_at=MAY)], scope=ANA)
        memory.add([said("«Dislikes tea a lot»", created_at=MAY - timedelta(days=1))], scope=ANA)
        assert "Likes tea a lot" in texts(memory.facts(scope=ANA))


def test_delete_by_contradiction_keeps_the_new_fact(tmp_path: Path) -> None:
    with updating(tmp_path, lambda r: decides(("0", "DELETE", "Likes cheese pizza"))) as memory:
        memory.add([said("«Likes cheese pizza»")], scope=ANA)
        result = memory.add([said("«Dislikes cheese pizza»")], scope=ANA)
        assert {event.operation for event in result.events} == {"DELETE", "ADD"}
        [fact] = memory.facts(scope=ANA)
        assert fact.text == "Dislikes cheese pizza"
        assert texts(memory.history(fact.id, scope=ANA)) == ["Likes cheese pizza", "Dislikes cheese pizza"]


def test_none_on_a_near_fact_adds_a_source_and_nothing_else(tmp_path: Path) -> None:
    with updating(tmp_path, lambda r: decides(("0", "NONE", "Likes the cheese pizza"))) as memory:
        memory.add([said("«Likes cheese pizza»")], scope=ANA)
        memory.add([said("«Likes the cheese pizza»")], scope=ANA)
        [fact] = memory.facts(scope=ANA)
        assert len(fact.sources) == 2


def test_a_merged_text_is_kept_with_both_sources(tmp_path: Path) -> None:
    with updating(tmp_path, lambda r: decides(("0", "UPDATE", "Likes cheese pizza and tuna pizza"))) as memory:
        memory.add([said("«Likes cheese pizza»")], scope=ANA)
        memory.add([said("«Likes tuna pizza»")], scope=ANA)
        [fact] = memory.facts(scope=ANA)
        assert fact.text == "Likes cheese pizza and tuna pizza"
        assert len(fact.sources) == 2
        assert memory.search("cheese tuna", scope=ANA, kinds=["fact"])[0].id == fact.id


def test_a_message_with_very_many_facts_is_put_to_the_expert_in_portions(tmp_path: Path) -> None:
    with updating(tmp_path, lambda r: decides()) as memory:
        memory.add([said("«Owns cat number 0»")], scope=ANA)
        result = memory.add([said(" ".join(f"«Owns cat number {n}»" for n in range(1, 31)))], scope=ANA)
        assert result.errors == ()
        assert len(memory.facts(scope=ANA)) == 31
        assert len(memory._core.backend.asked("update")) == 3


def test_a_fact_without_neighbours_is_added_without_asking(memory: Memory) -> None:
    memory.add([said("«Plays the violin»")], scope=ANA)
    memory.add([said("«Works at night»")], scope=ANA)
    assert memory._core.backend.asked("update") == []
    assert len(memory.facts(scope=ANA)) == 2


def test_a_commit_in_between_is_noticed_and_planned_again(tmp_path: Path) -> None:
    asked = []

    def update(request: Request) -> str:
        asked.append(request)
        if len(asked) == 1:  # somebody edits the neighbour while the model is thinking
            memory.edit(memory.facts(scope=ANA)[0].id, "Likes cheese pizza with basil", scope=ANA)
        return decides(("0", "UPDATE", "Likes cheese pizza with ham"))

    with updating(tmp_path, update) as memory:
        memory.add([said("«Likes cheese pizza»")], scope=ANA)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        result = memory.add([said("«Likes cheese pizza with ham»", created_at=tomorrow)], scope=ANA)
        assert result.errors == ()
        assert len(asked) == 2
        assert "basil" in user_line(asked[1])
        [fact] = memory.facts(scope=ANA)
        assert texts(memory.history(fact.id, scope=ANA)) == [
            "Likes cheese pizza",
            "Likes cheese pizza with basil",
            "Likes cheese pizza with ham",
        ]


def test_endless_conflicts_leave_the_turn_pending_and_say_so(tmp_path: Path) -> None:
    count = 0

    def update(request: Request) -> str:
        nonlocal count
        count += 1
        memory.edit(memory.facts(scope=ANA)[0].id, f"Likes cheese pizza number {count}", scope=ANA)
        return decides(("0", "UPDATE", "Likes cheese pizza with ham"))

    with updating(tmp_path, update) as memory:
        memory.add([said("«Likes cheese pizza»")], scope=ANA)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        result = memory.add([said("«Likes cheese pizza with ham»", created_at=tomorrow)], scope=ANA)
        assert [failure.stage for failure in result.errors] == ["commit"]
        assert len(result.pending) == 1
        assert count == 5


def test_an_erase_in_the_middle_of_distilling_wins(tmp_path: Path) -> None:
    def update(request: Request) -> str:
        memory.erase(scope=ANA)
        return decides()

    with updating(tmp_path, update) as memory:
        memory.add([said("«Likes cheese pizza»")], scope=ANA)
        result = memory.add([said("«Likes tuna pizza»")], scope=ANA)
        assert result.errors == ()
        assert memory.count(scope=ANA) == {"facts": 0, "retired": 0, "turns": 0, "pending": 0}


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_model_that_is_down_leaves_the_turn_pending_found_and_explained(tmp_path: Path) -> None:
    backend = FakeBackend(extraction=lambda r: BackendUnavailableError("connection refused"))
    with make(tmp_path, backend) as memory:
        result = memory.add([said(f"«fact {n}»") for n in range(20)], scope=ANA)
        assert len(result.pending) == 20
        assert "connection refused" in str(result.errors[0])
        assert len(backend.requests) <= 8  # the rest is not tried against a server that is down
        assert memory.search("fact 3", scope=ANA)[0].kind == "turn"
        assert memory.count(scope=ANA)["pending"] == 20
        backend.experts = {"extraction": facts_of, "update": keep_all}
        flushed = memory.flush()
        assert len(flushed.events) == 20
        assert flushed.pending == ()
        assert memory.count(scope=ANA) == {"facts": 20, "retired": 0, "turns": 20, "pending": 0}


@pytest.mark.parametrize("reply", ["I would rather talk about the weather.", "", '{"fax": []}', "{" * 50])
def test_nonsense_is_asked_about_once_more_and_then_stays_pending(tmp_path: Path, reply: str) -> None:
    backend = FakeBackend(extraction=lambda r: reply, update=keep_all)
    with make(tmp_path, backend) as memory:
        result = memory.add([said("«Likes tea»"), said("«Likes milk»")], scope=ANA)
        assert len(result.pending) == 2
        assert all(isinstance(failure.error, ReplyError) for failure in result.errors)
        assert len(backend.requests) == 4


def test_a_readable_second_reply_is_enough(tmp_path: Path) -> None:
    replies = iter(["sorry, what?", says("Likes tea")])
    backend = FakeBackend(extraction=lambda r: next(replies))
    with make(tmp_path, backend) as memory:
        assert [event.fact.text for event in memory.add([said("tea!")], scope=ANA).events] == ["Likes tea"]
        assert [request.temperature > 0 for request in backend.requests] == [False, True]


def test_a_cut_reply_is_asked_again_with_more_room_and_salvaged_if_cut_again(tmp_path: Path) -> None:
    backend = FakeBackend(extraction=lambda r: Completion('{"facts":["Likes tea","Likes mi', "length"))
    with make(tmp_path, backend) as memory:
        result = memory.add([said("tea and milk")], scope=ANA)
        first, second = backend.requests
        assert second.max_tokens == 2 * first.max_tokens
        assert [event.fact.text for event in result.events] == ["Likes tea"]
        assert "cut off" in str(result.errors[0])
        assert result.pending == ()


def test_a_cut_reply_is_salvaged_where_a_longer_one_has_no_room(tmp_path: Path) -> None:
    replies = iter(
        [Completion('{"facts":["Likes tea","Likes mi', "length"), PromptTooLongError("too long", status=400)]
    )
    with make(tmp_path, FakeBackend(extraction=lambda r: next(replies))) as memory:
        result = memory.add([said("tea and milk")], scope=ANA)
        assert [event.fact.text for event in result.events] == ["Likes tea"]
        assert "cut off;" in str(result.errors[0])


def test_an_unreadable_reply_without_room_for_a_longer_one_names_both(tmp_path: Path) -> None:
    replies = iter([Completion("Well, let me see", "length"), PromptTooLongError("The window is 64 tokens.")])
    with make(tmp_path, FakeBackend(extraction=lambda r: next(replies))) as memory:
        result = memory.add([said("tea and milk")], scope=ANA)
        assert len(result.pending) == 1
        assert "cannot be read" in str(result.errors[0])
        assert "no room: The window is 64 tokens." in str(result.errors[0])


def test_facts_too_long_to_compare_are_compared_in_parts_and_at_last_added_as_they_are(tmp_path: Path) -> None:
    def roomy_for_one(request: Request) -> Reply:
        _, new = update.lists(str(request.messages[-1]["content"]))
        too_long = len(new) > 1 or "anchovy" in new[0]
        return PromptTooLongError(f"The window is full: {new}", status=400) if too_long else keep_all(request)

    with updating(tmp_path, roomy_for_one) as memory:
        memory.add([said("«Likes cheese pizza»")], scope=ANA)
        more = ["Likes tuna pizza", "Likes anchovy pizza", "Likes green pizza", "Likes black anchovy pizza"]
        result = memory.add([said("".join(f"«{text}»" for text in more))], scope=ANA)
        assert [event.fact.text for event in result.events] == more
        [failure] = result.errors
        assert failure.stage == "update"
        assert str(failure.error) == (
            "2 of the new facts had no room to be compared with others and were added as they are: "
            "The window is full: ['Likes anchovy pizza']"
        )
        assert result.pending == ()


def test_a_failing_update_leaves_the_turn_pending_and_memory_unchanged(tmp_path: Path) -> None:
    with updating(tmp_path, lambda r: BackendUnavailableError("gone")) as memory:
        memory.add([said("«Likes cheese pizza»")], scope=ANA)
        result = memory.add([said("«Likes tuna pizza»")], scope=ANA)
        assert [failure.stage for failure in result.errors] == ["update"]
        assert texts(memory.facts(scope=ANA)) == ["Likes cheese pizza"]
        assert memory.count(scope=ANA)["pending"] == 1


def test_a_failing_embedder_keeps_the_words_and_says_so(tmp_path: Path) -> None:
    embedder = WordEmbedder()
    with make(tmp_path, embedder=embedder) as memory:
        embedder.failing = EmbeddingError("no embedder")
        result = memory.add([said("«Likes violet tea»")], scope=ANA)
        assert [failure.stage for failure in result.errors] == ["embedding", "update"]
        assert len(result.pending) == 1
        with pytest.raises(EmbeddingError):
            memory.search("violet", scope=ANA)
        assert [failure.stage for failure in memory.flush().errors] == ["embedding", "update"]
        embedder.failing = None
        assert memory.search("violet", scope=ANA)[0].text == "«Likes violet tea»"
        embedded = embedder.texts
        flushed = memory.flush()
        assert (len(flushed.events), flushed.errors) == (1, ())
        assert embedder.texts == embedded + 2  # the turn, late, and its fact
        assert memory.flush() == AddResult()


def test_without_a_model_everything_is_kept_and_the_way_on_is_named(tmp_path: Path) -> None:
    with Memory.open(path=tmp_path / "m", model="none") as memory:
        result = memory.add([said("I moved to Lisbon in May.")], scope=ANA)
        assert len(result.pending) == 1
        assert isinstance(result.errors[0].error, BackendNotConfiguredError)
        assert "memlora serve" in str(result.errors[0])
        assert memory.search("Where does she live?", scope=ANA)[0].text == "I moved to Lisbon in May."
        assert memory.context("anything", scope=ANA).count("Lisbon") == 1
        with pytest.raises(BackendNotConfiguredError):
            memory.answer("Where do I live?", scope=ANA)
        with pytest.raises(BackendNotConfiguredError):
            list(memory.stream("Where do I live?", scope=ANA))


def quoting(path: Path, backend: FakeBackend) -> Memory:
    """A memory of what people say in their own words, whose facts are all near to each other."""
    settings = Settings(quoted_facts=True, similarity_threshold=-1)
    return Memory(backend=backend, store=EdgeFactStore(path), embedder=WordEmbedder(), settings=settings)


def test_facts_in_the_persons_own_words_are_kept_with_who_said_them(tmp_path: Path) -> None:
    shown: list[str] = []

    def update(request: Request) -> str:
        shown.append(request.messages[-1]["content"])
        return decides(("0", "UPDATE", "Ana: I moved to Rome."))

    backend = FakeBackend(extraction=facts_of, update=update)
    with quoting(tmp_path, backend) as memory:
        memory.add([said("Well, «I live in Lisbon.»", name="Ana")], scope=ANA)
        memory.add([said("«I moved to Rome.»", name="Ana")], scope=ANA)
        assert texts(memory.facts(scope=ANA)) == ["Ana: I moved to Rome."]
        memory.add([said("«Me too!»")], scope=BOB)
        assert texts(memory.facts(scope=BOB)) == ["The user: Me too!"]
    assert "'pattern': '^ ?(?:Well" in str(backend.requests[0].schema)  # the reply is held to clauses of the message
    assert '"Ana: I live in Lisbon."' in shown[0]
    assert '["Ana: I moved to Rome."]' in shown[0]


def test_a_quote_is_found_by_what_was_said_not_by_who_said_it_wherever_it_comes_from(tmp_path: Path) -> None:
    seen: list[str] = []

    class Noting(WordEmbedder):
        def embed(self, texts: Sequence[str]) -> Any:
            seen.extend(texts)
            return super().embed(texts)

    def memory(name: str) -> Memory:
        backend, store = FakeBackend(extraction=facts_of), EdgeFactStore(tmp_path / name)
        return Memory(backend=backend, store=store, embedder=Noting(), settings=Settings(quoted_facts=True))

    with memory("old") as old, memory("new") as new:
        old.add([said("Well, «I live in Lisbon.»", name="Ana")], scope=ANA)
        [fact] = old.facts(scope=ANA)
        assert fact.text == "Ana: I live in Lisbon."
        assert "I live in Lisbon." in seen
        assert fact.text not in seen
        rows = old.export(scope=ANA)
        seen.clear()
        assert new.load(rows, scope=ANA) == 2
        assert "I live in Lisbon." in seen
        assert fact.text not in seen
        [fact] = new.facts(scope=ANA)
        new.edit(fact.id, "Ana: I live in Rome.", scope=ANA)
        assert seen[-1] == "I live in Rome."
        [fact] = new.facts(scope=ANA)
        new.edit(fact.id, "Allergies: peanuts", scope=ANA)
        assert seen[-1] == "Allergies: peanuts"


def test_what_somebody_said_is_changed_by_nobody_else_and_into_no_other_words(tmp_path: Path) -> None:
    facts = iter(("I live in Lisbon.", "I live in Rome.", "I moved to Porto."))
    backend = FakeBackend(
        extraction=lambda request: says(next(facts)), update=lambda request: decides(("0", "UPDATE", "I moved"))
    )
    with quoting(tmp_path, backend) as memory:
        memory.add([said("I live in Lisbon.", name="Ana")], scope=ANA)
        memory.add([said("I live in Rome.", name="Bob")], scope=ANA)
        assert set(texts(memory.facts(scope=ANA))) == {"Ana: I live in Lisbon.", "Bob: I live in Rome."}
        memory.add([said("I moved to Porto.", name="Bob")], scope=ANA)
        assert set(texts(memory.facts(scope=ANA))) == {"Ana: I live in Lisbon.", "Bob: I moved to Porto."}


def test_what_nobody_said_is_left_out_and_told(tmp_path: Path) -> None:
    backend = FakeBackend(extraction=lambda request: says("I live in Lisbom.", "Purple clouds."))
    with quoting(tmp_path, backend) as memory:
        result = memory.add([said("I live in Lisbon.")], scope=ANA)
        assert texts(memory.facts(scope=ANA)) == ["The user: I live in Lisbon."]
        [failure] = result.errors
        assert (failure.stage, result.pending) == ("extraction", ())
        assert str(failure.error) == "1 fact that was noted is not in the person's words and left out."
        assert isinstance(failure.error, UnsaidError)
        assert failure.error.reply == "Purple clouds."


def one_by_one(path: Path, update: Any, **settings: Any) -> Memory:
    """A memory that asks about each new fact alone; its facts are all near to each other."""
    return Memory(
        backend=FakeBackend(extraction=facts_of, update=update),
        store=EdgeFactStore(path),
        embedder=WordEmbedder(),
        settings=Settings(facts_per_update=1, similarity_threshold=-1, **settings),
    )


@pytest.mark.parametrize(
    "order", [("milk", "coffee", "juice"), ("coffee", "juice", "milk"), ("juice", "milk", "coffee")]
)
@pytest.mark.parametrize("change", ["UPDATE", "DELETE"])
async def test_facts_asked_about_one_by_one_are_each_kept(tmp_path: Path, order: tuple[str, ...], change: str) -> None:
    """No answer knows of the others: what a memory was said to know stays known though another fact replaces it."""

    def update_one(request: Request) -> str:
        old, [new] = update.lists(str(request.messages[-1]["content"]))
        place = str(old.index("Likes tea and milk"))
        return decides((place, "NONE" if new == "Likes milk" else change, new))

    with one_by_one(tmp_path, update_one) as memory:
        memory.add([said("«Likes tea and milk»")], scope=ANA)
        result = await memory.aio.add([said("".join(f"«Likes {drink}»" for drink in order))], scope=ANA)
        assert set(texts(memory.facts(scope=ANA))) == {"Likes coffee", "Likes milk", "Likes juice"}
        assert sorted(event.operation for event in result.events) == sorted(
            ["UPDATE", "ADD", "ADD"] if change == "UPDATE" else ["DELETE", "ADD", "ADD", "ADD"]
        )
        assert result.usage.calls == 4
        assert memory.count(scope=ANA)["retired"] == 1


def test_what_is_taken_back_beside_it_does_not_take_a_fact_along(tmp_path: Path) -> None:
    """The words of "Plays tennis" are all in "No longer plays tennis on Mondays", which does not tell it."""

    def update_one(request: Request) -> str:
        old, [new] = update.lists(str(request.messages[-1]["content"]))
        place = str(old.index("Plays tennis on Mondays"))
        return decides((place, "NONE" if new == "Plays tennis" else "DELETE", new))

    with one_by_one(tmp_path, update_one) as memory:
        memory.add([said("«Plays tennis on Mondays»")], scope=ANA)
        memory.add([said("«Plays tennis»«No longer plays tennis on Mondays»")], scope=ANA)
        assert set(texts(memory.facts(scope=ANA))) == {"Plays tennis", "No longer plays tennis on Mondays"}


def test_many_facts_are_asked_about_a_few_at_a_time_and_failures_leave_the_turn_whole(tmp_path: Path) -> None:
    asked: list[str] = []
    broken = threading.Event()

    def keep_one(request: Request) -> Reply:
        _, [new] = update.lists(str(request.messages[-1]["content"]))
        asked.append(new)
        return BackendUnavailableError("gone") if broken.is_set() and new == "Likes number 9" else keep_all(request)

    with one_by_one(tmp_path, keep_one) as memory:
        memory.add([said("«Likes tea»")], scope=ANA)
        broken.set()
        message = said("".join(f"«Likes number {number}»" for number in range(30)))
        failed = memory.add([message], scope=ANA)
        assert [failure.stage for failure in failed.errors] == ["update"]
        assert len(failed.pending) == 1
        assert len(asked) <= 16  # those of the second eight went out together, no more of them
        assert texts(memory.facts(scope=ANA)) == ["Likes tea"]
        broken.clear()
        assert len(memory.flush().events) == 30
        assert memory.count(scope=ANA) == {"facts": 31, "retired": 0, "turns": 2, "pending": 0}


def test_one_fact_too_long_to_compare_stops_no_other(tmp_path: Path) -> None:
    def roomy(request: Request) -> Reply:
        _, [new] = update.lists(str(request.messages[-1]["content"]))
        return PromptTooLongError("full", status=400) if "anchovy" in new else decides(("0", "UPDATE", new))

    with one_by_one(tmp_path, roomy, neighbours_per_fact=1) as memory:
        memory.add([said("«Likes cheese pizza»")], scope=ANA)
        result = memory.add([said("«Likes anchovy pizza»«Likes tuna pizza»")], scope=ANA)
        assert {(event.operation, event.fact.text) for event in result.events} == {
            ("ADD", "Likes anchovy pizza"),
            ("UPDATE", "Likes tuna pizza"),
        }
        assert [str(failure.error).partition(":")[0] for failure in result.errors] == [
            "1 of the new facts had no room to be compared with others and were added as they are"
        ]


def test_a_fact_is_compared_with_the_persons_own_among_those_of_many(tmp_path: Path) -> None:
    compared: list[list[str]] = []

    def update_one(request: Request) -> str:
        compared.append(update.lists(str(request.messages[-1]["content"]))[0])
        return keep_all(request)

    settings = Settings(quoted_facts=True, similarity_threshold=-1, neighbours_per_fact=1)
    backend = FakeBackend(extraction=facts_of, update=update_one)
    with Memory(backend=backend, store=EdgeFactStore(tmp_path), embedder=WordEmbedder(), settings=settings) as memory:
        memory.add([said("«I live in Lisbon.»", name="Ana")], scope=ANA)
        for name in ("Bob", "Cem", "Dan"):
            memory.add([said("«I moved to Porto.»", name=name)], scope=ANA)
        memory.add([said("«I moved to Porto.»", name="Ana")], scope=ANA)
    assert compared == [["Ana: I live in Lisbon."]]


async def test_a_streamed_answer_begins_with_its_first_word(tmp_path: Path) -> None:
    with make(tmp_path, FakeBackend(generation=lambda request: " \n In Lisbon.")) as memory:
        shown = [event.text for event in memory.stream("Where?", scope=ANA) if isinstance(event, Token)]
        awaited = [event.text async for event in memory.aio.stream("Where?", scope=ANA) if isinstance(event, Token)]
    assert "".join(shown) == "".join(awaited) == "In Lisbon."


def test_answers_are_given_from_a_context_of_their_own_size(tmp_path: Path) -> None:
    backend = FakeBackend(generation=lambda request: "In Lisbon.")
    parts = {"store": EdgeFactStore(tmp_path), "embedder": WordEmbedder()}
    with Memory(backend=backend, settings=Settings(answer_budget=64), **parts) as memory:
        memory.add([said(f"Line {n} about the house in Lisbon") for n in range(40)], scope=ANA, distil=False)
        for budget in (None, 400):
            memory.answer("Which house?", scope=ANA, token_budget=budget)
        list(memory.stream("Which house?", scope=ANA))
        short, wide, streamed = (user_line(request).count("about the house") for request in backend.requests)
        assert 0 < short == streamed < wide
        assert memory.context("Which house?", scope=ANA).count("about the house") == 40  # its budget is another


def test_an_answer_from_so_many_memories_is_made_of_the_nearest_facts(tmp_path: Path) -> None:
    backend = FakeBackend(extraction=facts_of, update=keep_all, generation=lambda request: "In Lisbon.")

    def found(most: int, question: str) -> list[str]:
        parts = {"backend": backend, "store": EdgeFactStore(tmp_path), "embedder": WordEmbedder()}
        with Memory(settings=Settings(memories_per_answer=most), **parts) as memory:
            return [hit.text for hit in memory.answer(question, scope=ANA).hits]

    parts = {"backend": backend, "store": EdgeFactStore(tmp_path), "embedder": WordEmbedder()}
    with Memory(settings=Settings(similarity_threshold=1), **parts) as memory:
        memory.add([said("The house is old")], scope=ANA, distil=False)
        assert found(1, "Which house?") == ["The house is old"]  # there is no fact yet
        memory.add([said("«Her house is old» «Her house is small» «Likes tea»")], scope=ANA)
    assert found(1, "Which house is small?") == ["Her house is small"]
    assert set(found(3, "Which house is small?")) == {"Her house is small", "Her house is old"}
    assert found(2, "Why so blue?") == []  # no fact is near: the expert is told that nothing is remembered
    assert "nothing is remembered" in user_line(backend.requests[-1])


def test_an_answer_in_the_words_of_the_memories_is_asked_for_where_it_is_wanted(tmp_path: Path) -> None:
    backend = FakeBackend(extraction=facts_of, generation=lambda request: "old")
    for wanted in (True, False):
        parts = {"backend": backend, "store": EdgeFactStore(tmp_path / str(wanted)), "embedder": WordEmbedder()}
        with Memory(settings=Settings(quoted_answers=wanted), **parts) as memory:
            memory.add([said("The house is old")], scope=ANA, distil=False)
            assert memory.answer("Which house?", scope=ANA).text == "old"
            list(memory.stream("Which house?", scope=ANA))
    assert [bool(re.fullmatch(request.pattern or "(?!)", "house is old")) for request in backend.requests] == [
        True,
        True,
        False,
        False,
    ]
    assert backend.requests[-1].pattern is None


# --- in the background -----------------------------------------------------------------------------------------------


def test_write_behind_without_a_model_says_so_and_keeps_the_turn(tmp_path: Path) -> None:
    with Memory.open(path=tmp_path / "m", model="none") as memory:
        result = memory.add([said("Likes tea")], scope=ANA, wait=False)
        [failure] = result.errors
        assert isinstance(failure.error, BackendNotConfiguredError)
        assert failure.turn_ids == tuple(turn.id for turn in result.pending)
        assert memory.count(scope=ANA)["pending"] == 1
        assert [type(failure.error) for failure in memory.flush().errors] == [BackendNotConfiguredError]


def test_write_behind_returns_at_once_and_flush_finishes(tmp_path: Path) -> None:
    go = threading.Event()

    def slow(request: Request) -> str:
        assert go.wait(10)
        return facts_of(request)

    with make(tmp_path, FakeBackend(extraction=slow, update=keep_all)) as memory:
        result = memory.add([said("«Likes tea»")], scope=ANA, wait=False)
        assert len(result.pending) == 1
        assert result.events == ()
        assert [turn.pending for turn in memory.turns(scope=ANA, pending=True)] == [True]
        go.set()
        memory.flush()
        assert texts(memory.facts(scope=ANA)) == ["Likes tea"]
        assert memory.flush().events == ()


def test_what_was_pending_is_resumed_by_the_next_open(tmp_path: Path) -> None:
    with make(tmp_path, FakeBackend(extraction=lambda r: BackendUnavailableError("down"))) as memory:
        memory.add([said("«Likes tea»")], scope=ANA)
    with make(tmp_path) as memory:
        memory.flush()
        assert texts(memory.facts(scope=ANA)) == ["Likes tea"]


def test_an_unexpected_failure_in_the_background_is_reported_by_flush(tmp_path: Path) -> None:
    def broken(request: Request) -> str:
        raise ZeroDivisionError("a bug")

    with make(tmp_path, FakeBackend(extraction=broken)) as memory:
        memory.add([said("«Likes tea»")], scope=ANA, wait=False)
        assert "ZeroDivisionError" in str(memory.flush().errors[0])
        assert memory.count(scope=ANA)["pending"] == 1


def test_a_failure_in_the_background_is_told_with_the_next_add_once(tmp_path: Path) -> None:
    backend = FakeBackend(extraction=lambda r: BackendUnavailableError("down"), update=keep_all)
    with make(tmp_path / "m", backend) as memory:
        result = memory.add([said("«Lives in Lisbon»")], scope=Scope("ana", session_id="one"), wait=False)
        assert result.errors == ()
        memory.flush()
        assert memory.keep([said("hello")], scope=BOB).errors == ()
        [failure] = memory.keep([said("hello")], scope=Scope("ana", session_id="two")).errors
        assert (failure.stage, failure.turn_ids) == ("extraction", (result.turns[0].id,))
        backend.experts["extraction"] = facts_of
        assert memory.add([said("hello again")], scope=ANA).errors == ()
        memory.flush()
        assert memory.keep([said("bye")], scope=ANA).errors == ()


async def test_a_flush_that_is_given_up_harms_nobody(tmp_path: Path) -> None:
    go = threading.Event()

    def slow(request: Request) -> str:
        assert go.wait(10)
        return facts_of(request)

    backend = FakeBackend(extraction=slow, update=keep_all)
    parts = {"store": EdgeFactStore(tmp_path), "embedder": WordEmbedder()}
    async with Memory(backend=backend, settings=Settings(workers=1), **parts).aio as memory:
        await memory.add([said("«Likes tea»")], scope=ANA, wait=False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(memory.flush(), 0.02)
        go.set()
        await memory.flush()
        await memory.add([said("«Owns a boat»")], scope=ANA, wait=False)
        await asyncio.wait_for(memory.flush(), 10)
        assert texts(await memory.facts(scope=ANA)) == ["Likes tea", "Owns a boat"]


def test_erasing_one_session_leaves_the_background_work_of_another(tmp_path: Path) -> None:
    go = threading.Event()

    def slow(request: Request) -> str:
        assert go.wait(10)
        return facts_of(request)

    parts = {"store": EdgeFactStore(tmp_path), "embedder": WordEmbedder()}
    backend = FakeBackend(extraction=slow, update=keep_all)
    with Memory(backend=backend, settings=Settings(workers=1), **parts) as memory:
        memory.add([said("«Owns a boat»")], scope=BOB, wait=False)  # the one thread is busy
        for session in ("one", "two"):
            memory.add([said(f"«Told in {session}»")], scope=Scope("ana", session_id=session), wait=False)
        memory.erase(scope=Scope("ana", session_id="one"))
        go.set()
        memory._core._worker.done().result(10)  # without the turns that flush would queue again
        assert texts(memory.facts(scope=ANA)) == ["Told in two"]


def test_a_flush_does_not_wait_for_what_comes_after_it(tmp_path: Path) -> None:
    begun, hold = threading.Event(), threading.Event()

    def slow(request: Request) -> str:
        if "second" in user_line(request):
            begun.set()
            assert hold.wait(10)
        return facts_of(request)

    with make(tmp_path, FakeBackend(extraction=slow, update=keep_all)) as memory:
        first = memory._core._worker
        memory.add([said("«Says the first thing»")], scope=ANA, wait=False)
        memory.flush()
        memory.add([said("«Says the second thing»")], scope=BOB, wait=False)
        assert begun.wait(10)
        waiting = first.done()
        memory.add([said("«Adds something else»")], scope=ANA, wait=False)
        assert not waiting.done()
        hold.set()
        assert [event.fact.text for event in waiting.result(10).events][-1] == "Says the second thing"
        memory.flush()
        assert memory.count(scope=ANA)["pending"] == memory.count(scope=BOB)["pending"] == 0


def test_closing_in_the_middle_of_background_work_loses_nothing(tmp_path: Path) -> None:
    go = threading.Event()

    def slow(request: Request) -> str:
        go.wait(10)
        return facts_of(request)

    memory = make(tmp_path, FakeBackend(extraction=slow, update=keep_all))
    memory.add([said("«Likes tea»")], scope=ANA, wait=False)
    memory.close()
    go.set()
    with make(tmp_path) as memory:
        memory.flush()
        assert texts(memory.facts(scope=ANA)) == ["Likes tea"]


def test_concurrent_identical_adds_leave_one_fact(memory: Memory) -> None:
    message = said("«Likes tea»")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: memory.add([message if n % 2 else said("«Likes tea»")], scope=ANA), range(16)))
    memory.flush()
    [fact] = memory.facts(scope=ANA)
    assert len(fact.sources) == 9
    assert len(memory.turns(scope=ANA)) == 9


# --- recalling -------------------------------------------------------------------------------------------------------


def test_a_small_memory_is_given_whole_in_order_and_a_large_one_within_the_budget(memory: Memory) -> None:
    memory.add([said(f"Line {n}", created_at=MAY + timedelta(days=n)) for n in range(3)], scope=ANA, distil=False)
    lines = memory.context("zebra", scope=ANA).splitlines()
    assert [line.split("Line ")[1][0] for line in lines] == ["0", "1", "2"]
    memory.add([said(f"Padding about topic {n} and so on " * 5) for n in range(200)], scope=ANA, distil=False)
    context = memory.context("topic 77", scope=ANA, token_budget=200)
    assert "topic 77" in context
    assert len(context.split()) < 200


def test_what_is_said_in_one_go_is_shown_in_its_order(memory: Memory) -> None:
    lines = [f"line {number}" for number in range(12)]
    memory.add([Message("user" if n % 2 else "assistant", line) for n, line in enumerate(lines)], scope=ANA)
    for budget in (800, 100):  # all of it, and what was found
        shown = re.findall(r"line \d+", memory.context("which line?", scope=ANA, token_budget=budget))
        assert shown == [line for line in lines if line in shown]
        assert shown


def test_answer_and_stream_tell_the_same(memory: Memory) -> None:
    memory.add([said("«Lives in Lisbon»")], scope=ANA)
    answer = memory.answer("Where do I live?", scope=ANA)
    assert answer.text == "In Lisbon."
    assert answer.usage.calls == 1
    assert any(hit.text == "Lives in Lisbon" for hit in answer.hits)
    items = list(memory.stream("Where do I live?", scope=ANA))
    assert [item.name for item in items if isinstance(item, Stage)] == ["recall", "generation"]
    assert "".join(item.text for item in items if isinstance(item, Token)) == "In Lisbon."
    assert isinstance(items[-1], Answer)
    assert items[-1].text == answer.text


async def test_an_answer_can_be_asked_for_in_other_words(memory: Memory) -> None:
    memory.add([said("«Lives in Lisbon»")], scope=ANA)

    def asked() -> str:
        return user_line(memory._core.backend.asked("generation")[-1])

    memory.answer("Where do I live?", scope=ANA)
    usual = asked()
    prompt = memory.answer_prompt
    assert prompt == memory.aio.answer_prompt
    memory.answer("Where do I live?", scope=ANA, prompt=prompt)
    assert asked() == usual
    own = prompt.replace("briefly", "in French")
    memory.answer("Where do I live?", scope=ANA, prompt=own)
    assert asked() == usual.replace("briefly", "in French") != usual
    await memory.aio.answer("Where?", scope=ANA, prompt=own)
    assert "in French" in asked()
    *_, answer = memory.stream("Where?", scope=ANA, prompt=own)
    assert "in French" in asked()
    _, generating, *_ = memory.stream("Where?", scope=ANA)
    assert isinstance(generating, Stage)
    assert generating.detail["hits"] == answer.hits
    async for _ in memory.aio.stream("Where?", scope=ANA, prompt=own.replace("French", "Dutch")):
        pass
    assert "in Dutch" in asked()
    with pytest.raises(InvalidInputError, match="answer_prompt"):
        memory.answer("Where?", scope=ANA, prompt="{memories}")


def test_an_answer_that_was_cut_off_says_so(tmp_path: Path) -> None:
    replies = iter([Completion("In Lis", "length"), Completion("In Lisbon.")])
    with make(tmp_path, FakeBackend(generation=lambda r: next(replies))) as memory:
        assert [memory.answer("Where?", scope=ANA).truncated for _ in range(2)] == [True, False]


@pytest.mark.parametrize("question", ["", "  ", None])
def test_a_blank_question_is_refused(memory: Memory, question: Any) -> None:
    for call in (memory.search, memory.context, memory.answer):
        with pytest.raises(InvalidInputError, match="blank"):
            call(question, scope=ANA)


def test_unusable_limits_are_refused(memory: Memory) -> None:
    with pytest.raises(InvalidInputError, match="limit"):
        memory.search("x", scope=ANA, limit=0)
    with pytest.raises(InvalidInputError, match="token_budget"):
        memory.context("x", scope=ANA, token_budget=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda memory: memory.search("x", scope=ANA, limit="3"),
        lambda memory: memory.search("x", scope=ANA, kinds="fact"),
        lambda memory: memory.search("x", scope=ANA, kinds=("facts",)),
        lambda memory: memory.facts(scope=ANA, limit=-1),
        lambda memory: memory.turns(scope=ANA, limit=-1),
        lambda memory: memory.context("x", scope=ANA, token_budget="80"),
    ],
)
def test_unusable_arguments_are_refused(memory: Memory, call: Any) -> None:
    with pytest.raises(InvalidInputError):
        call(memory)


def test_facts_are_shared_by_sessions_and_turns_are_not(memory: Memory) -> None:
    memory.add([said("«Likes tea»")], scope=Scope("ana", session_id="one"))
    two = Scope("ana", session_id="two")
    assert texts(memory.facts(scope=two)) == ["Likes tea"]
    assert memory.turns(scope=two) == []
    assert {hit.kind for hit in memory.search("tea", scope=two)} == {"fact"}


# --- curating --------------------------------------------------------------------------------------------------------


def test_edit_and_delete_make_versions(memory: Memory) -> None:
    memory.add([said("«Likes tea»")], scope=ANA)
    [first] = memory.facts(scope=ANA)
    assert memory.edit(first.id, "Likes tea", scope=ANA) == first
    second = memory.edit(first.id, "Likes green tea", scope=ANA)
    assert second.version == 2
    assert memory.search("green", scope=ANA, kinds=["fact"])[0].id == second.id
    deleted = memory.delete(second.id, scope=ANA)
    assert deleted.retired_by == "DELETE"
    assert memory.facts(scope=ANA) == []
    assert texts(memory.facts(scope=ANA, retired=True)) == ["Likes tea", "Likes green tea"]
    assert memory.history(first.id, scope=ANA)[-1] == memory.get(second.id, scope=ANA) == deleted
    with pytest.raises(RetiredError) as refused:
        memory.delete(first.id, scope=ANA)
    assert refused.value.current_id is None
    with pytest.raises(InvalidInputError, match="blank"):
        memory.edit(second.id, " ", scope=ANA)


def test_forgetting_a_fact_takes_its_history_and_the_words_it_came_from_out_of_search(tmp_path: Path) -> None:
    backend = FakeBackend(
        extraction=facts_of, update=lambda r: decides(("0", "UPDATE", "Lives in Porto")), generation=lambda r: ""
    )
    with make(tmp_path / "m", backend) as memory:
        memory.add([Message("user", "Well, «Lives in Lisbon»", created_at=MAY)], scope=ANA)
        said = Message("user", "Now «Lives in Porto», and I «Play chess»")
        events = memory.add([said], scope=Scope("ana", session_id="later")).events
        (moved,) = [event.fact for event in events if event.operation == "UPDATE"]
        changed = memory.forget(moved.id, scope=ANA)
        assert [item.text for item in changed if isinstance(item, Fact)] == ["Lives in Porto"]
        assert {hit.text for hit in memory.search("where do I live? in Lisbon or Porto?", scope=ANA)} == {"Play chess"}
        assert "Lisbon" not in memory.context("where?", scope=ANA)
        assert [fact.text for fact in memory.facts(scope=ANA)] == ["Play chess"]
        assert [fact.text for fact in memory.history(moved.id, scope=ANA)] == ["Lives in Lisbon", "Lives in Porto"]
        assert len(memory.turns(scope=ANA)) == 2
        assert [type(item) for item in memory.forget(moved.id, scope=ANA)] == [Turn, Turn]  # again: nothing new
        with make(tmp_path / "copy") as other:
            other.load(memory.export(scope=ANA), scope=ANA)
            assert {hit.text for hit in other.search("Lisbon Porto", scope=ANA)} == {"Play chess"}


def test_forgetting_what_waits_to_be_distilled_ends_the_wait(memory: Memory) -> None:
    result = memory.keep([Message("user", "«Has a secret»")], scope=ANA)
    assert result.pending == result.turns
    assert memory.forget(result.turns[0].id, scope=ANA) == [replace(result.turns[0], forgotten=True, pending=False)]
    assert memory.flush() == AddResult()
    assert memory.search("secret", scope=ANA) == []


def test_forgetting_an_old_version_takes_what_was_merged_with_it_along(memory: Memory) -> None:
    facts = [
        memory.add([said(f"{n} «{text}»")], scope=ANA).events[0].fact for n, text in ((1, "Likes tea"), (2, "Tea"))
    ]
    for fact in facts:
        memory.edit(fact.id, "Likes green tea", scope=ANA)
    memory.forget(facts[0].id, scope=ANA)
    assert memory.search("tea", scope=ANA) == []


def test_forgetting_what_is_not_there_says_so(memory: Memory) -> None:
    turn = memory.add([Message("user", "hello")], scope=BOB).turns[0]
    with pytest.raises(NotFoundError):
        memory.forget(turn.id, scope=ANA)


def test_what_is_kept_is_distilled_when_it_is_added(memory: Memory) -> None:
    message = Message("user", "I moved. «Lives in Porto»")
    assert memory.keep([message], scope=ANA).events == ()
    assert memory.search("Porto", scope=ANA)[0].kind == "turn"
    assert [event.fact.text for event in memory.add([message], scope=ANA).events] == ["Lives in Porto"]
    assert memory.keep([message], scope=ANA).pending == ()


def test_a_note_becomes_a_fact_as_it_stands_and_is_compared_with_what_is_known(tmp_path: Path) -> None:
    backend = FakeBackend(update=lambda r: decides(("0", "UPDATE", "Lives in Porto, near the sea")))
    with make(tmp_path / "m", backend) as memory:
        scope = Scope("ana", session_id="monday")
        (event,) = memory.note("Lives in Porto", scope=scope).events
        assert (event.operation, event.fact.text, event.fact.scope) == ("ADD", "Lives in Porto", ANA)
        assert memory.note("Lives in Porto.", scope=scope).events[0].operation == "NONE"
        (event,) = memory.note("Lives in Porto, near the sea", scope=scope, wait=True).events
        assert event.operation == "UPDATE"
        assert [(hit.kind, hit.text) for hit in memory.search("Porto", scope=ANA)] == [
            ("fact", "Lives in Porto, near the sea")
        ]
        assert memory.turns(scope=scope) == []  # no turn of the conversation
        with pytest.raises(MessageError):
            memory.note(" ", scope=ANA)


def test_a_note_that_cannot_be_compared_waits(tmp_path: Path) -> None:
    backend = FakeBackend(update=lambda r: BackendUnavailableError("down"))
    with make(tmp_path / "m", backend) as memory:
        memory.note("Lives in Porto", scope=ANA)
        result = memory.note("Lives in Porto with a dog", scope=ANA)
        assert [turn.text for turn in result.pending] == ["Lives in Porto with a dog"]
        backend.experts["update"] = keep_all
        assert [event.fact.text for event in memory.flush().events] == ["Lives in Porto with a dog"]


def test_an_edit_to_what_another_fact_says_returns_that_fact(memory: Memory) -> None:
    memory.add([said("«Likes tea» «Plays chess»")], scope=ANA)
    tea, chess = sorted(memory.facts(scope=ANA), key=lambda fact: fact.text)
    assert memory.edit(tea.id, "Plays chess.", scope=ANA).id == chess.id
    assert texts(memory.facts(scope=ANA)) == ["Plays chess"]
    assert memory.get(tea.id, scope=ANA).superseded_by == chess.id


def test_an_id_of_another_user_is_not_found(memory: Memory) -> None:
    memory.add([said("«Likes tea»")], scope=ANA)
    [fact], [turn] = memory.facts(scope=ANA), memory.turns(scope=ANA)
    for id in (fact.id, turn.id, "no-such-id", "00000000-0000-0000-0000-000000000000"):
        for call in (
            lambda id=id: memory.get(id, scope=BOB),
            lambda id=id: memory.edit(id, "x", scope=BOB),
            lambda id=id: memory.delete(id, scope=BOB),
            lambda id=id: memory.history(id, scope=BOB),
        ):
            with pytest.raises(NotFoundError):
                call()
    assert memory.get(turn.id, scope=ANA) == turn
    with pytest.raises(NotFoundError):
        memory.edit(turn.id, "turns are not facts", scope=ANA)


def test_export_and_load_round_trip(memory: Memory, tmp_path: Path) -> None:
    memory.add([said("«Likes tea»", name="Ana", metadata={"a": [1, None]})], scope=Scope("ana", "coach", "s1"))
    memory.edit(memory.facts(scope=ANA)[0].id, "Likes green tea", scope=ANA)
    rows = list(memory.export(scope=ANA))
    with make(tmp_path / "other") as other:
        assert other.load(rows, scope=ANA) == len(rows) == 3
        assert other.load(rows, scope=ANA) == 0
        assert list(other.export(scope=ANA)) == rows
        assert other.search("green tea", scope=ANA)
        assert other.load(rows, scope=BOB) == 3
        assert len(other.history(other.facts(scope=BOB)[0].id, scope=BOB)) == 2
        assert {row["id"] for row in other.export(scope=BOB)}.isdisjoint(row["id"] for row in rows)


@pytest.mark.parametrize(
    "change", [{"kind": "x"}, {"id": "7"}, {"text": None}, {"valid_from": "yesterday"}, {"id": None}]
)
def test_a_row_that_is_not_exported_is_named(memory: Memory, change: dict[str, Any]) -> None:
    memory.add([said("«Likes tea»")], scope=ANA)
    rows = [row for row in memory.export(scope=ANA) if row["kind"] == "fact"]
    with pytest.raises(InvalidInputError, match="Row 2"):
        memory.load([rows[0], {**rows[0], **change}], scope=ANA)


@pytest.mark.parametrize(
    "change",
    [
        {"role": "robot"},
        {"name": 5},
        {"message_id": 5},
        {"position": 2**63},
        {"position": float("nan")},
        {"created_at": "0001-01-01T00:00:00+05:00"},
        {"metadata": {"x": float("nan")}},
        {"kind": "fact", "sources": "abc"},
        {"kind": "fact", "sources": [5]},
        {"kind": "fact", "operation": "FORGET"},
        {"kind": "fact", "retired_by": "me"},
        {"kind": "fact", "version": 2**63},
        {"kind": "fact", "text": " "},
    ],
)
def test_a_crafted_row_is_refused_and_named(memory: Memory, change: dict[str, Any]) -> None:
    memory.add([said("«Likes tea»")], scope=ANA)
    rows = {row["kind"]: row for row in memory.export(scope=ANA)}
    with pytest.raises(InvalidInputError, match="Row 1"):
        memory.load([{**rows[change.get("kind", "turn")], **change}], scope=BOB)
    assert memory.count(scope=BOB)["turns"] == memory.count(scope=BOB)["facts"] == 0


@pytest.mark.parametrize("spell", [str.upper, "{{{}}}".format, lambda id: id.replace("-", "")])
def test_a_row_cannot_take_a_fact_from_another_user(memory: Memory, spell: Any) -> None:
    memory.add([said("«Likes tea»")], scope=ANA)
    row = next(row for row in memory.export(scope=ANA) if row["kind"] == "fact")
    memory.load([{**row, "user_id": "bob", "id": spell(row["id"]), "text": "Mine"}], scope=BOB)
    assert texts(memory.facts(scope=ANA)) == ["Likes tea"]


def test_loading_embeds_only_what_is_searched(tmp_path: Path) -> None:
    with make(tmp_path / "one") as memory:
        memory.add([said("«Likes tea»"), Message("tool", "42"), said([ImagePart("https://a.org/c.png")])], scope=ANA)
        memory.delete(memory.facts(scope=ANA)[0].id, scope=ANA)
        rows = list(memory.export(scope=ANA))
    embedder = WordEmbedder()
    with make(tmp_path / "two", embedder=embedder) as other:
        assert other.load(rows, scope=ANA) == 4
        assert embedder.texts == 1
        assert list(other.export(scope=ANA)) == rows


def test_erase_removes_one_user_and_leaves_the_other(memory: Memory) -> None:
    for scope in (ANA, BOB):
        memory.add([said("«Likes tea»")], scope=scope)
    assert memory.erase(scope=ANA) == 2
    assert memory.count(scope=ANA) == {"facts": 0, "retired": 0, "turns": 0, "pending": 0}
    assert list(memory.export(scope=ANA)) == []
    assert len(list(memory.export(scope=BOB))) == 2


def test_erasing_a_session_keeps_facts_that_another_session_also_told(memory: Memory) -> None:
    one, two = Scope("ana", session_id="one"), Scope("ana", session_id="two")
    memory.add([said("«Likes tea» «Plays the violin»")], scope=one)
    kept = said("«Likes tea»")
    memory.add([kept], scope=two)
    memory.erase(scope=one)
    [fact] = memory.facts(scope=ANA)
    assert fact.text == "Likes tea"
    assert fact.sources == (kept.id,)
    assert len(memory.turns(scope=ANA)) == 1


# --- life of a memory ------------------------------------------------------------------------------------------------


def test_what_changes_what_was_found_is_counted(memory: Memory) -> None:
    memory.add([said("«Lives in Lisbon»"), said("«Likes tea»"), said("«Likes rum»")], scope=ANA)
    assert memory.revisions == 0
    lives, tea, rum = memory.facts(scope=ANA)
    memory.edit(lives.id, "Lives in Porto", scope=ANA)
    memory.delete(tea.id, scope=ANA)
    memory.forget(rum.id, scope=ANA)
    memory.erase(scope=ANA)
    assert memory.revisions == memory.aio.revisions == 4


def test_use_after_close_is_an_error_and_closing_twice_is_not(tmp_path: Path) -> None:
    memory = make(tmp_path)
    assert not memory.closed
    memory.close()
    memory.close()
    assert memory.closed
    assert memory.aio.closed
    with pytest.raises(ClosedError):
        memory.facts(scope=ANA)
    assert memory._core.backend.closed


class Unclosable(FakeBackend):
    def close(self) -> None:
        raise BackendUnavailableError("it will not close")

    async def aclose(self) -> None:
        self.close()


async def test_a_part_that_fails_to_close_does_not_keep_the_folder(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError):
        make(tmp_path, Unclosable()).close()
    with pytest.raises(BackendUnavailableError):
        await make(tmp_path, Unclosable()).aio.close()
    assert not (tmp_path / "owner.json").exists()


def test_a_pickle_finds_its_folder_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Memory.open(model="none") as memory:
        memory.add([said("I like tea")], scope=ANA, distil=False)
        stored = pickle.dumps(memory)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pickle.loads(stored) as reopened:
        assert len(reopened.turns(scope=ANA)) == 1


def test_a_folder_open_twice_in_one_process_is_shared(tmp_path: Path) -> None:
    with Memory.open(path=tmp_path, model="none") as one, Memory.open(path=tmp_path, model="none") as two:
        one.add([said("I like tea")], scope=ANA, distil=False)
        assert two.turns(scope=ANA) == one.turns(scope=ANA) != []
        one.close()
        assert len(two.turns(scope=ANA)) == 1


def test_an_opened_memory_travels_as_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Memory.open(path=tmp_path / "m", model="none", token_budget=99, qdrant_api_key="s3cret") as memory:
        memory.add([said("I like tea")], scope=ANA, distil=False)
        stored = pickle.dumps(memory)
        assert b"s3cret" not in stored
        with pickle.loads(stored) as copied:
            assert copied.settings.token_budget == 99
            assert copied.turns(scope=ANA) == memory.turns(scope=ANA)
        with Memory.open(**memory.portable()) as again:
            assert again.portable() == memory.portable() == memory.aio.portable()
        with copy.copy(memory) as shared:
            assert len(shared.turns(scope=ANA)) == 1
        assert "s3cret" not in repr(memory)


def test_a_memory_is_opened_with_a_ranking_that_travels_with_it(tmp_path: Path) -> None:
    """Two of one folder, open at once: each ranks in its own way."""
    about = [
        Message("user", "Cello lessons cost a lot", name="Ben"),
        Message("user", "My cello is at home and I play it on most evenings", name="Ana"),
    ]
    words = Ranking(text=0, context=0, named=5.0)
    with Memory.open(path=tmp_path / "m", model="none", ranking=words) as favouring:
        favouring.add(about[:1], scope=replace(ANA, session_id="1"), distil=False)
        favouring.add(about[1:], scope=replace(ANA, session_id="2"), distil=False)
        with Memory.open(path=tmp_path / "m", model="none", ranking=Ranking(named=0)) as plain:
            assert plain.settings.ranking == Ranking(named=0)
            mine, theirs = favouring.search("cello Ana", scope=ANA), plain.search("cello Ana", scope=ANA)
            assert [hit.score for hit in mine] != [hit.score for hit in theirs]
        with pickle.loads(pickle.dumps(favouring)) as again, Memory.open(**favouring.portable()) as reopened:
            assert again.settings.ranking == reopened.settings.ranking == words
            assert again.search("cello Ana", scope=ANA) == reopened.search("cello Ana", scope=ANA) == mine
    with pytest.raises(SettingsError, match="ranking: A ranking is a Ranking or a table of"):
        Memory.open(path=tmp_path / "m", model="none", ranking="rrf")


def test_a_server_is_searched_with_the_ranking_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake store: what it is made of."""
    made: dict[str, Any] = {}
    monkeypatch.setattr("memlora_plugins.store.qdrant.QdrantFactStore", lambda **given: made.update(given))
    build_store(load_settings(qdrant_url="http://127.0.0.1:9", ranking={"named": 0.4}))
    assert (made["url"], made["ranking"]) == ("http://127.0.0.1:9", Ranking(named=0.4))


def test_a_hand_built_memory_does_not_travel(memory: Memory) -> None:
    with pytest.raises(NotPortableError, match=r"Memory\.open"):
        pickle.dumps(memory)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_use_after_fork_is_an_error_and_the_parent_goes_on(memory: Memory) -> None:
    memory.add([said("«Likes tea»")], scope=ANA)
    child = os.fork()
    if child == 0:
        try:
            memory.facts(scope=ANA)
        except ForkedError:
            os._exit(0)
        os._exit(4)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(memory.facts(scope=ANA)) == 1


# --- the asynchronous door -------------------------------------------------------------------------------------------


async def test_the_asynchronous_door_does_the_same(tmp_path: Path) -> None:
    async with AsyncMemory(
        backend=FakeBackend(extraction=facts_of, update=keep_all, generation=lambda r: "In Lisbon."),
        store=EdgeFactStore(tmp_path),
        embedder=WordEmbedder(),
    ) as memory:
        result = await memory.add([said("«Lives in Lisbon»")], scope=ANA)
        assert [event.operation for event in result.events] == ["ADD"]
        [fact] = await memory.facts(scope=ANA)
        assert (await memory.search("Lisbon", scope=ANA, limit=1))[0].text
        assert "Lisbon" in await memory.context("where?", scope=ANA)
        assert (await memory.answer("where?", scope=ANA)).text == "In Lisbon."
        items = [item async for item in memory.stream("where?", scope=ANA)]
        assert "".join(item.text for item in items if isinstance(item, Token)) == "In Lisbon."
        assert isinstance(items[-1], Answer)
        edited = await memory.edit(fact.id, "Lives in Porto", scope=ANA)
        assert texts(await memory.history(fact.id, scope=ANA)) == ["Lives in Lisbon", "Lives in Porto"]
        assert await memory.get(edited.id, scope=ANA) == edited
        rows = [row async for row in memory.export(scope=ANA)]
        assert await memory.load(rows, scope=BOB) == 3
        assert len(await memory.turns(scope=BOB)) == 1
        assert (await memory.delete(edited.id, scope=ANA)).retired_by == "DELETE"
        assert (await memory.count(scope=ANA))["retired"] == 2
        assert await memory.erase(scope=ANA) == 3
        assert (await memory.add([said("«Likes tea»")], scope=ANA, wait=False)).pending
        await memory.flush()
        assert len(await memory.facts(scope=ANA)) == 1
        with pytest.raises(NotPortableError):
            pickle.dumps(memory)
        assert "fake backend" in repr(memory)
    with pytest.raises(ClosedError):
        await memory.facts(scope=ANA)


async def test_both_doors_of_one_memory_share_everything(memory: Memory) -> None:
    await memory.aio.add([said("«Likes tea»")], scope=ANA)
    assert texts(memory.facts(scope=ANA)) == ["Likes tea"]
    assert memory.aio.settings is memory.settings


async def test_open_is_a_coroutine_and_reopens_from_its_pickle(tmp_path: Path) -> None:
    async with await AsyncMemory.open(path=tmp_path / "m", model="none") as memory:
        await memory.add([said("I like tea")], scope=ANA, distil=False)
        async with pickle.loads(pickle.dumps(memory)) as copied:
            assert len(await copied.turns(scope=ANA)) == 1


async def test_an_open_that_nobody_waits_for_any_more_releases_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, closed = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Slow:
        def close(self) -> None:
            closed.set()

    def slow(**settings: Any) -> Any:
        loop.call_soon_threadsafe(started.set)
        time.sleep(0.05)
        return Slow()

    monkeypatch.setattr("memlora_plugins.memory.from_settings", slow)
    task = asyncio.create_task(AsyncMemory.open(path=tmp_path))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(closed.wait, 10)


async def test_many_users_at_once_stay_apart(tmp_path: Path) -> None:
    backend = FakeBackend(0.01, extraction=facts_of, update=keep_all)
    async with make(tmp_path, backend).aio as memory:
        people = [Scope(f"user-{n}") for n in range(40)]
        await asyncio.gather(*(memory.add([said(f"«Owns cat {n}»")], scope=p) for n, p in enumerate(people)))
        for n, person in enumerate(people):
            assert texts(await memory.facts(scope=person)) == [f"Owns cat {n}"]


def test_one_memory_serves_several_event_loops(memory: Memory) -> None:
    for n in range(3):
        asyncio.run(memory.aio.add([said(f"«Fact {n} about tea»")], scope=ANA))
    assert len(memory.facts(scope=ANA)) == 3


async def test_a_cancelled_add_leaves_its_turn_pending_and_free_to_distil(tmp_path: Path) -> None:
    backend = FakeBackend(5.0, extraction=facts_of, update=keep_all)
    async with make(tmp_path, backend).aio as memory:
        task = asyncio.create_task(memory.add([said("«Likes tea»")], scope=ANA))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        backend.delay = 0.0
        assert len((await memory.flush()).events) == 1
