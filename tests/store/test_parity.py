"""What every store does, tested on every store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from store_data import (
    ANA,
    DIMENSION,
    EMBEDDER,
    START,
    arun,
    distil,
    fact,
    put,
    replace_fact,
    retirement,
    run,
    turn,
    vector,
)

from memlora_plugins.errors import (
    ClosedError,
    ConflictError,
    EmbedderMismatchError,
    InvalidInputError,
)
from memlora_plugins.store.base import Change, FactStore, NewSources
from memlora_plugins.store.ranking import Ranking
from memlora_plugins.types import Fact, ImagePart, Scope

BOB = Scope("bob", None, "monday")
TUESDAY = Scope("ana", None, "tuesday")
BOT = Scope("ana", "bot", "monday")
Reopen = Callable[..., FactStore]


def current(store: FactStore, scope: Scope = ANA) -> list[str]:
    return [fact.text for fact in run(store.facts(scope))]


def found(store: FactStore, text: str, scope: Scope = ANA, **more: Any) -> list[str]:
    hits = run(store.search(scope, text, vector(text), limit=10, **more))
    return [hit.text for hit in hits]


class TestRanking:
    """One memory is searched in the way that each store of it was told."""

    def test_only_signals_with_a_weight_are_searched(self, reopen: Reopen) -> None:
        put(reopen(), turn("The violin is old", at=1), *(turn(f"note number {n}", at=60 * n) for n in range(2, 8)))
        words, meaning = reopen(ranking=Ranking(text=0, context=0)), reopen(ranking=Ranking(context_words=0))
        assert set(found(words, "violin")) == {"The violin is old", "note number 2", "note number 3"}  # neighbours
        assert len(found(meaning, "violin")) == 7
        assert found(meaning, "violin")[0] == "The violin is old"

    def test_what_a_fact_carries_over_to_its_turn(self, reopen: Reopen) -> None:
        store = reopen()
        distil(store, turn("It cost a lot", id="m1", at=1), "Ana bought a dear violin")
        put(store, *(turn(f"It cost {n}", scope=TUESDAY, at=60 * n) for n in range(2, 8)))

        def score(carried: float) -> float:
            searching = reopen(ranking=Ranking(carried=carried))
            hits = run(searching.search(ANA.without_session(), "violin cost", vector("violin cost"), limit=10))
            return max(hit.score for hit in hits if hit.kind == "fact")

        assert score(0.9) > score(0.0)

    def test_what_is_said_by_or_about_whom_a_question_names_comes_first(self, reopen: Reopen) -> None:
        store = reopen()
        distil(store, turn("I bought a violin", id="m1", name="Ana", at=1), "Ana: I bought a violin")
        distil(
            store, turn("I bought a violin too", scope=TUESDAY, id="m2", name="Bo", at=60), "Bo: I bought a violin too"
        )
        put(store, turn("Who bought a violin?", scope=Scope("ana", None, "friday"), at=120))

        def order(question: str, **ranking: float) -> list[str]:
            searching = reopen(ranking=Ranking(**ranking))
            return [hit.text for hit in run(searching.search(ANA.without_session(), question, None, limit=10))]

        assert order("What did Bo buy, a violin?", named=1)[0].endswith("violin too")
        assert order("What did Ana buy, a violin?", named=1)[0].endswith("bought a violin")
        assert order("a violin?", named=1) == order("a violin?", named=0)


class TestTurnsWithoutVectors:
    def test_get_them_later_and_are_then_found_by_meaning(self, store: FactStore) -> None:
        before, late, after = turn("Good morning", at=1), turn("I bought a violin", at=2), turn("How nice", at=3)
        run(store.put_turns([(before, vector(before.text)), (late, None), (after, vector(after.text))]))
        assert [one.id for one in run(store.unembedded())] == [late.id]
        silent = turn("a tool's output", at=4, role="tool")
        run(store.put_turns([(silent, None)]))
        run(store.embed_turns([(late, vector("fiddle instrument"))]))
        assert run(store.unembedded()) == []
        hits = run(store.search(ANA, "?", vector("fiddle instrument"), limit=1))
        assert [hit.text for hit in hits] == ["I bought a violin"]
        [kept] = run(store.turns(ANA, ids=[late.id]))
        assert kept == late

    def test_that_are_gone_meanwhile_stay_gone(self, store: FactStore) -> None:
        gone = turn("I bought a violin")
        run(store.put_turns([(gone, None)]))
        run(store.erase(ANA))
        run(store.embed_turns([(gone, vector(gone.text))]))
        assert run(store.turns(ANA)) == []
        assert run(store.unembedded()) == []


class TestTurns:
    def test_come_back_as_they_were_said(self, store: FactStore) -> None:
        said = turn(
            "Here it is.\x00\x07 Zażółć 🦊",
            role="assistant",
            name="Bot",
            images=(ImagePart("https://example.org/fox.png"),),
            metadata={"n": 2**62, "x": 0.5, "on": True, "none": None, "list": [1, {"a.b": "c"}], "empty": {}},
        )
        assert put(store, said) == [said]
        assert run(store.turns(ANA)) == [said]
        assert run(store.get(ANA, said.id)) == said

    def test_are_written_once(self, store: FactStore) -> None:
        first, second = turn("one", at=1), turn("two", at=2)
        put(store, first)
        assert put(store, replace(first, text="changed"), second, second) == [second]
        assert [t.text for t in run(store.turns(ANA))] == ["one", "two"]

    def test_are_narrowed_by_what_is_asked(self, store: FactStore) -> None:
        said = [turn(f"line {n}", at=n, pending=n % 2 == 0) for n in range(6)]
        put(store, *said)
        put(store, turn("other session", scope=TUESDAY, at=1), turn("bob's", scope=BOB, at=2))

        def texts(scope: Scope = ANA, **more: Any) -> list[str]:
            return [t.text for t in run(store.turns(scope, **more))]

        assert texts() == [f"line {n}" for n in range(6)]
        assert texts(limit=2) == ["line 0", "line 1"]
        assert texts(limit=2, newest_first=True) == ["line 5", "line 4"]
        assert texts(before=said[3].position) == ["line 0", "line 1", "line 2"]
        assert texts(before=said[3].position, limit=2, newest_first=True) == ["line 2", "line 1"]
        assert texts(pending=True) == ["line 0", "line 2", "line 4"]
        assert texts(pending=False, limit=1) == ["line 1"]
        assert texts(ids=[said[4].id, said[1].id]) == ["line 1", "line 4"]
        assert texts(ids=[]) == texts(limit=0) == []
        assert len(texts(Scope("ana"))) == 7
        assert texts(ids=[said[0].id], scope=BOB) == []

    def test_of_every_scope_wait_to_be_distilled(self, store: FactStore) -> None:
        put(store, turn("second", at=2), turn("first", scope=BOB, at=1), turn("no", at=0, pending=False))
        assert [t.text for t in run(store.pending())] == ["first", "second"]

    def test_of_a_system_or_tool_are_kept_but_not_found(self, store: FactStore) -> None:
        put(store, turn("zebra rules", role="system"), turn("zebra result", role="tool"), turn("zebra said"))
        assert len(run(store.turns(ANA))) == 3
        assert found(store, "zebra") == ["zebra said"]

    def test_of_a_megabyte_and_of_emojis_alone(self, store: FactStore) -> None:
        said = [turn("word " * 200_000, id="long", at=1), turn("🦊🦊", id="fox", at=2)]
        put(store, *said)
        assert run(store.turns(ANA)) == said

    def test_with_lone_surrogates_are_made_valid(self, store: FactStore) -> None:
        said = turn("hello", metadata={"a\ud800": ["b\ud800"]})
        put(store, said)
        assert run(store.turns(ANA))[0].metadata == {"a\ufffd": ["b\ufffd"]}
        assert found(store, "hello \ud800") == ["hello"]

    @pytest.mark.parametrize("value", [float("nan"), 2**64, b"bytes", {1: 2}, object()])
    def test_with_metadata_that_is_not_json_are_refused(self, store: FactStore, value: object) -> None:
        with pytest.raises(InvalidInputError, match="Metadata"):
            put(store, turn("hello", metadata={"a": value}))
        assert run(store.turns(ANA)) == []

    async def test_work_the_same_without_blocking_calls(self, store: FactStore) -> None:
        said = turn("I live in Lisbon")
        await arun(store.put_turns([(said, vector(said.text))]))
        assert [t.text for t in await arun(store.turns(ANA))] == ["I live in Lisbon"]
        assert (await arun(store.search(ANA, "Lisbon", None, limit=3)))[0].id == said.id
        await store.aclose()
        with pytest.raises(ClosedError):
            await arun(store.turns(ANA))


class TestSearch:
    def test_finds_turns_and_facts_by_meaning_and_words(self, store: FactStore) -> None:
        distil(store, turn("I moved to Lisbon in May", at=1), "Lives in Lisbon")
        put(store, turn("My cat is called Miso", scope=TUESDAY, at=2))
        assert set(found(store, "Lisbon", kinds=("fact",))) == {"Lives in Lisbon"}
        assert found(store, "Lisbon", kinds=("turn",)) == ["I moved to Lisbon in May"]
        assert found(store, "what is the cat called", scope=Scope("ana"))[0] == "My cat is called Miso"
        hit = run(store.search(ANA, "Lisbon", vector("Lisbon"), limit=1))[0]
        assert hit.score > 0
        assert hit.sources == ("I moved to Lisbon in May",)
        assert run(store.search(ANA, "Lisbon", vector("Lisbon"), limit=1, kinds=())) == []

    def test_narrows_turns_by_session_but_not_facts(self, store: FactStore) -> None:
        distil(store, turn("cats on monday"), "Likes cats")
        put(store, turn("cats on tuesday", scope=TUESDAY), turn("cats of nobody", scope=Scope("ana")))
        assert set(found(store, "cats", TUESDAY)) == {"cats on tuesday", "Likes cats"}
        assert len(found(store, "cats", Scope("ana"))) == 4

    def test_narrows_by_agent(self, store: FactStore) -> None:
        distil(store, turn("cats for all"), "Likes cats")
        distil(store, turn("cats for bot", scope=BOT), "Bot knows cats")
        assert set(found(store, "cats", Scope("ana", "bot"))) == {"cats for bot", "Bot knows cats"}
        assert len(found(store, "cats", Scope("ana"))) == 4

    def test_finds_a_short_answer_by_the_question_before_it(self, store: FactStore) -> None:
        put(store, *(turn(f"weather talk {n}", at=n) for n in range(8)))
        put(store, turn("Have you ever been to Porto?", role="assistant", at=20))
        put(store, turn("Yes, twice.", at=21))
        assert "Yes, twice." in found(store, "been to Porto")[:4]

    def test_gives_the_same_contexts_in_whatever_order_turns_arrive(self, store: FactStore) -> None:
        said = [turn(f"word{n} about topic{n // 3}", at=n) for n in range(9)]
        mixed = [replace(t, id=turn(t.text, scope=BOB, at=0).id, scope=BOB) for t in said]
        put(store, *said)
        for index in (4, 0, 8, 2, 6):
            put(store, mixed[index])
        put(store, *(mixed[n] for n in (1, 3, 5, 7)))

        def scores(scope: Scope) -> dict[str, float]:
            hits = run(store.search(scope, "topic1 word4", vector("topic1 word4"), limit=9))
            return {hit.text: round(hit.score, 3) for hit in hits}

        assert scores(ANA) == scores(BOB)

    def test_works_by_words_alone_and_by_vector_alone(self, store: FactStore) -> None:
        put(store, turn("red apples"), turn("green pears", at=9))
        run(store.put_turns([(turn("blue plums", at=20), None)]))
        assert [h.text for h in run(store.search(ANA, "plums", None, limit=1))] == ["blue plums"]
        assert [h.text for h in run(store.search(ANA, "…", vector("apples"), limit=1))] == ["red apples"]
        assert run(store.search(ANA, "…", None, limit=5)) == []

    def test_word_weights_do_not_depend_on_other_people(self, store: FactStore) -> None:
        put(store, *(turn(f"{word} today", at=at * 10) for at, word in enumerate(["tea", "tea", "rum"])))

        def scores() -> list[tuple[str, float]]:
            return [(hit.text, round(hit.score, 4)) for hit in run(store.search(ANA, "tea rum", None, limit=5))]

        before = scores()
        put(store, *(turn(f"rum number {n}", scope=BOB, at=n) for n in range(30)))
        assert scores() == before

    def test_refuses_a_vector_of_another_length(self, store: FactStore) -> None:
        with pytest.raises(InvalidInputError, match="shape"):
            run(store.search(ANA, "x", vector("x")[:3], limit=1))
        with pytest.raises(InvalidInputError, match="shape"):
            run(store.put_turns([(turn("x"), vector("x")[:3])]))


class TestFacts:
    def test_come_back_as_they_were_committed(self, store: FactStore) -> None:
        said = turn("I moved to Lisbon")
        put(store, said)
        new = fact("Lives in Lisbon", said, metadata={"a": [1]}, valid_to=START + timedelta(days=1))
        run(store.commit(ANA, Change(add=((new, None),), done=(said.id,))))
        assert run(store.facts(TUESDAY)) == [new]
        assert run(store.get(TUESDAY, new.id)) == new
        assert run(store.turns(ANA))[0].pending is False
        assert run(store.count(ANA)) == {"facts": 1, "retired": 0, "turns": 1, "pending": 0}

    def test_are_listed_oldest_first(self, store: FactStore) -> None:
        for at in (3, 1, 2):
            distil(store, turn(f"said {at}", at=at), f"fact {at}")
        assert current(store) == ["fact 1", "fact 2", "fact 3"]
        assert [f.text for f in run(store.facts(ANA, limit=2))] == ["fact 1", "fact 2"]

    def test_near_a_vector_come_nearest_first_with_their_cosine(self, store: FactStore) -> None:
        distil(store, turn("said"), "Lives in Lisbon", "Lives in Porto", "Has a cat")
        near = run(store.neighbours(ANA, [vector("Lives in Lisbon"), vector("Has a cat")], limit=2))
        assert [f.text for f, _ in near[0]] == ["Lives in Lisbon", "Lives in Porto"]
        assert near[0][0][1] == pytest.approx(1.0, abs=1e-4)
        assert near[0][1][1] == pytest.approx(float(vector("Lives in Lisbon") @ vector("Lives in Porto")), abs=1e-3)
        assert near[1][0][0].text == "Has a cat"
        assert run(store.neighbours(ANA, [], limit=2)) == []
        assert run(store.neighbours(BOB, [vector("Has a cat")], limit=2)) == [[]]

    def test_that_say_exactly_the_same_are_known(self, store: FactStore) -> None:
        (lisbon,) = distil(store, turn("said"), "Lives in Lisbon.")
        assert run(store.same_text(ANA, ["lives  in LISBON", "Lives in Porto"])) == [lisbon, None]
        assert run(store.same_text(BOB, ["Lives in Lisbon."])) == [None]
        assert run(store.same_text(ANA, [])) == []

    def test_that_are_replaced_stay_in_history(self, store: FactStore) -> None:
        (old,) = distil(store, turn("I live in Lisbon"), "Lives in Lisbon")
        new = replace_fact(store, old, "Lives in Porto", turn("I moved to Porto", at=5))
        assert current(store) == ["Lives in Porto"]
        assert found(store, "Lisbon", kinds=("fact",)) == ["Lives in Porto"]
        gone = run(store.get(ANA, old.id))
        assert isinstance(gone, Fact)
        assert gone.retired
        assert (gone.text, gone.retired_by, gone.superseded_by) == ("Lives in Lisbon", "UPDATE", new.id)
        assert run(store.superseded(ANA, [new.id])) == [gone]
        assert run(store.superseded(BOB, [new.id])) == run(store.superseded(ANA, [])) == []
        assert run(store.same_text(ANA, ["Lives in Lisbon"])) == [None]
        assert len(run(store.facts(ANA, retired=True))) == 2
        assert run(store.count(ANA))["retired"] == 1

    def test_of_another_person_are_not_there(self, store: FactStore) -> None:
        (secret,) = distil(store, turn("said"), "Ana's secret")
        for id in (secret.id, turn("said").id):
            assert run(store.get(BOB, id)) is None
        with pytest.raises(ConflictError):
            run(store.commit(BOB, Change(retire=(retirement(secret),))))
        with pytest.raises(ConflictError):
            run(store.commit(BOB, Change(sources=(NewSources(secret.id, 1, ("x",)),))))
        assert run(store.get(ANA, secret.id)) == secret
        assert run(store.get(ANA, "not an id")) is None


class TestCommit:
    def test_that_lost_a_race_changes_nothing(self, store: FactStore) -> None:
        (old,) = distil(store, turn("I live in Lisbon"), "Lives in Lisbon")
        replace_fact(store, old, "Lives in Porto", turn("I moved to Porto", at=5))
        late = turn("I moved to Faro", at=6)
        put(store, late)
        new = fact("Lives in Faro", late, version=2)
        with pytest.raises(ConflictError, match="changed"):
            run(store.commit(ANA, Change(add=((new, None),), retire=(retirement(old, new),), done=(late.id,))))
        assert current(store) == ["Lives in Porto"]
        assert run(store.turns(ANA, pending=True)) == [late]
        assert run(store.get(ANA, new.id)) is None

    def test_wants_its_turns_still_pending(self, store: FactStore) -> None:
        said = turn("said")
        distil(store, said, "one")
        for id, reason in ((said.id, "distilled"), (turn("never said").id, "gone")):
            with pytest.raises(ConflictError, match=reason):
                run(store.commit(ANA, Change(add=((fact("two", said), None),), done=(id,))))
        assert current(store) == ["one"]

    def test_wants_the_version_it_was_made_from(self, store: FactStore) -> None:
        (old,) = distil(store, turn("said"), "one")
        for change in (
            Change(retire=(replace(retirement(old), version=7),)),
            Change(sources=(NewSources(old.id, 7, ("x",)),)),
        ):
            with pytest.raises(ConflictError, match="changed"):
                run(store.commit(ANA, change))
        assert current(store) == ["one"]

    def test_leaves_a_fact_that_exists_as_it_is(self, store: FactStore) -> None:
        said = turn("said")
        (old,) = distil(store, said, "one")
        run(store.commit(ANA, Change(add=((replace(old, sources=("other",)), None),))))
        assert run(store.facts(ANA)) == [old]

    def test_does_not_add_what_another_fact_says(self, store: FactStore) -> None:
        distil(store, turn("said"), "Likes tea")
        again = turn("said again", at=5)
        distil(store, again, "likes tea.", "Likes rum")
        facts = {f.text: f.sources for f in run(store.facts(ANA))}
        assert facts == {"Likes tea": ("said", "said again"), "Likes rum": ("said again",)}

    def test_adds_a_text_once_even_if_it_comes_twice(self, store: FactStore) -> None:
        one, two = turn("one"), turn("two")
        put(store, one, two)
        change = Change(add=((fact("Same", one), None), (fact("same.", two), None)), done=(one.id, two.id))
        run(store.commit(ANA, change))
        assert [(f.text, f.sources) for f in run(store.facts(ANA))] == [("Same", ("one", "two"))]

    def test_points_what_it_retires_at_the_fact_that_stands(self, store: FactStore) -> None:
        (tea,) = distil(store, turn("one", at=1), "Likes tea")
        (rum,) = distil(store, turn("two", at=2), "Likes rum")
        replace_fact(store, rum, "likes tea", turn("three", at=3))
        assert [f.superseded_by for f in run(store.facts(ANA, retired=True)) if f.retired] == [tea.id]
        assert run(store.facts(ANA))[0].sources == ("one", "three")

    def test_keeps_equal_facts_of_two_agents_apart(self, store: FactStore) -> None:
        distil(store, turn("one"), "Likes tea")
        distil(store, turn("two", scope=BOT), "Likes tea")
        assert len(run(store.facts(Scope("ana")))) == 2

    def test_adds_sources_to_what_is_known(self, store: FactStore) -> None:
        (old,) = distil(store, turn("one"), "Likes tea")
        run(store.commit(ANA, Change(sources=(NewSources(old.id, 1, ("two", "one")),))))
        assert run(store.facts(ANA)) == [replace(old, sources=("one", "two"))]

    def test_with_nothing_in_it_is_fine(self, store: FactStore) -> None:
        run(store.commit(ANA, Change()))

    def test_of_a_past_fact_does_not_make_it_current(self, store: FactStore) -> None:
        (old,) = distil(store, turn("one", at=9), "Likes tea")
        past = fact("Likes rum", turn("zero", at=1), retired_at=START, retired_by="UPDATE", superseded_by=old.id)
        run(store.commit(ANA, Change(add=((past, vector("Likes rum")),))))
        assert current(store) == ["Likes tea"]
        assert run(store.superseded(ANA, [old.id])) == [past]

    def test_made_by_eight_threads_at_once_leaves_one_fact(self, store: FactStore) -> None:
        said = turn("said")
        put(store, said)
        change = Change(add=((fact("Likes tea", said), vector("Likes tea")),), done=(said.id,))
        outcomes = _at_once([lambda: run(store.commit(ANA, change))] * 8)
        assert sorted(outcomes) == ["ConflictError"] * 7 + ["done"]
        assert current(store) == ["Likes tea"]
        assert run(store.pending()) == []

    def test_of_the_same_text_from_eight_turns_at_once_leaves_one_fact(self, store: FactStore) -> None:
        turns = [turn(f"said {n}", at=n) for n in range(8)]
        outcomes = _at_once([partial(distil, store, t, "Likes tea") for t in turns])
        assert outcomes == ["done"] * 8
        (left,) = run(store.facts(ANA))
        assert set(left.sources) == {t.text for t in turns}

    def test_replacing_one_fact_from_eight_threads_lets_one_win(self, store: FactStore) -> None:
        (old,) = distil(store, turn("said"), "Likes tea")
        turns = [turn(f"said {n}", at=n + 1) for n in range(8)]
        outcomes = _at_once([partial(replace_fact, store, old, f"Likes {t.text}", t) for t in turns])
        assert sorted(outcomes) == ["ConflictError"] * 7 + ["done"]
        (left,) = run(store.facts(ANA))
        assert [f.superseded_by for f in run(store.facts(ANA, retired=True)) if f.retired] == [left.id]
        assert len(run(store.pending())) == 7


def _at_once(calls: list[Callable[[], object]]) -> list[str]:
    barrier = threading.Barrier(len(calls))
    outcomes: list[str] = []

    def call(action: Callable[[], object]) -> None:
        barrier.wait()
        try:
            action()
        except Exception as error:  # noqa: BLE001 (told to the test)
            outcomes.append(type(error).__name__)
        else:
            outcomes.append("done")

    threads = [threading.Thread(target=call, args=(action,)) for action in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


class TestLeavingOut:
    def test_what_is_left_out_makes_room_for_others(self, store: FactStore) -> None:
        said = [turn(f"tea number {number}", at=number) for number in range(30)]
        put(store, *said)
        (fact,) = distil(store, turn("I like tea", at=40), "Likes tea")
        seen = [one.id for one in said[:28]]
        hits = run(store.search(ANA, "tea", vector("tea"), limit=3, without=seen))
        assert len(hits) == 3
        assert not {hit.id for hit in hits} & set(seen)
        everything = run(store.search(ANA, "tea", vector("tea"), limit=40))
        left = run(store.search(ANA, "tea", vector("tea"), limit=40, without=[fact.id, *seen]))
        assert {hit.id for hit in left} == {hit.id for hit in everything} - {fact.id, *seen}
        assert len(left) == 3


class TestForget:
    def test_leaves_a_turn_out_of_search_and_keeps_it(self, store: FactStore) -> None:
        one, other = turn("my door code is 4711", at=1), turn("I like tea", at=2)
        put(store, one, other)
        (gone,) = run(store.forget(ANA, [one.id]))
        assert gone == replace(one, forgotten=True, pending=False)
        assert found(store, "door code") == ["I like tea"]
        assert run(store.turns(ANA)) == [gone, other]
        assert run(store.turns(ANA, pending=True)) == [other]
        assert run(store.put_turns([(one, vector(one.text))])) == []  # said again, it stays so
        assert found(store, "door code") == ["I like tea"]

    def test_of_a_fact_takes_the_turns_it_came_from_in_whatever_session(self, store: FactStore) -> None:
        (likes,) = distil(store, turn("tea on monday"), "Likes tea")
        distil(store, turn("tea on tuesday", scope=TUESDAY, at=5), "Likes tea", "Likes rum")
        assert {t.text for t in run(store.forget(ANA, [likes.id]))} == {"tea on monday", "tea on tuesday"}
        assert sorted(found(store, "tea")) == ["Likes rum", "Likes tea"]

    def test_of_what_is_not_there_or_of_another_person_changes_nothing(self, store: FactStore) -> None:
        one = turn("my door code is 4711")
        (known,) = distil(store, one, "Has a door code")
        for scope, id in (
            (BOB, one.id),
            (BOB, known.id),
            (TUESDAY, one.id),
            (ANA, "00000000-0000-0000-0000-000000000000"),
        ):
            assert run(store.forget(scope, [id])) == []
        assert one.text in found(store, "door code")


class TestErase:
    def test_of_a_person_removes_everything_of_that_person_only(self, store: FactStore) -> None:
        (old,) = distil(store, turn("I live in Lisbon"), "Lives in Lisbon")
        replace_fact(store, old, "Lives in Porto", turn("I moved", at=1))
        kept = distil(store, turn("bob's words", scope=BOB), "Bob's fact")
        assert run(store.erase(Scope("ana"))) == 4
        assert run(store.count(Scope("ana"))) == {"facts": 0, "retired": 0, "turns": 0, "pending": 0}
        assert run(store.facts(BOB)) == kept
        assert found(store, "bob", BOB)
        assert run(store.erase(Scope("ana"))) == 0
        distil(store, turn("I live in Lisbon"), "Lives in Lisbon")
        assert current(store) == ["Lives in Lisbon"]

    def test_of_an_agent_leaves_the_others(self, store: FactStore) -> None:
        distil(store, turn("one"), "Likes tea")
        distil(store, turn("two", scope=BOT), "Likes rum")
        assert run(store.erase(Scope("ana", "bot"))) == 2
        assert current(store, Scope("ana")) == ["Likes tea"]

    def test_of_a_session_keeps_facts_with_another_source(self, store: FactStore) -> None:
        distil(store, turn("tea on monday"), "Likes tea")
        distil(store, turn("tea on tuesday", scope=TUESDAY, at=5), "Likes tea", "Likes rum")
        hand_written = fact("Written by hand")
        run(store.commit(ANA, Change(add=((hand_written, None),))))
        assert run(store.erase(TUESDAY)) == 2
        assert {f.text: f.sources for f in run(store.facts(ANA))} == {
            "Likes tea": ("tea on monday",),
            "Written by hand": (),
        }
        assert found(store, "tea", kinds=("fact",)) == ["Likes tea"]
        assert [t.text for t in run(store.turns(Scope("ana")))] == ["tea on monday"]

    def test_of_a_session_tells_equal_message_ids_apart(self, store: FactStore) -> None:
        monday, tuesday = turn("monday", id="1"), turn("tuesday", id="1", scope=TUESDAY)
        distil(store, monday, "Likes tea")
        distil(store, tuesday, "Likes rum")
        assert run(store.erase(TUESDAY)) == 2
        assert current(store) == ["Likes tea"]

    def test_of_a_session_mends_the_chains_of_versions(self, store: FactStore) -> None:
        (lisbon,) = distil(store, turn("Lisbon", at=1), "Lives in Lisbon")
        porto = replace_fact(store, lisbon, "Lives in Porto", turn("Porto", scope=TUESDAY, at=2))
        faro = replace_fact(store, porto, "Lives in Faro", turn("Faro", at=3))
        run(store.erase(TUESDAY))
        (old,) = run(store.superseded(ANA, [faro.id]))
        assert (old.id, old.retired) == (lisbon.id, True)
        assert run(store.get(ANA, porto.id)) is None
        run(store.erase(replace(ANA, session_id="monday")))
        assert run(store.facts(ANA, retired=True)) == []

    def test_of_the_session_that_replaced_a_fact_leaves_it_retired(self, store: FactStore) -> None:
        (lisbon,) = distil(store, turn("Lisbon", at=1), "Lives in Lisbon")
        replace_fact(store, lisbon, "Lives in Porto", turn("Porto", scope=TUESDAY, at=2))
        run(store.erase(TUESDAY))
        (left,) = run(store.facts(ANA, retired=True))
        assert (left.retired, left.superseded_by) == (True, None)

    def test_of_a_session_goes_by_the_sources_that_a_replaced_fact_had(self, store: FactStore) -> None:
        (tea,) = distil(store, turn("tea", scope=TUESDAY), "Likes tea")
        said = turn("green", at=4)
        put(store, said)
        merged = fact("Likes green tea", said, sources=("tea", "green"), version=2)
        change = Change(add=((merged, None),), retire=(retirement(tea, merged),), done=(said.id,))
        run(store.commit(ANA, change))
        run(store.erase(TUESDAY))
        (left,) = run(store.facts(ANA, retired=True))
        assert (left.text, left.sources) == ("Likes green tea", ("green",))


class TestRestore:
    def test_brings_back_what_was_erased(self, store: FactStore) -> None:
        (old,) = distil(store, turn("I live in Lisbon"), "Lives in Lisbon")
        replace_fact(store, old, "Lives in Porto", turn("I moved", at=1))
        facts, turns = run(store.facts(ANA, retired=True)), run(store.turns(ANA))
        run(store.erase(Scope("ana")))
        rows = [(f, vector(f.text)) for f in facts], [(t, vector(t.text)) for t in turns]
        assert run(store.restore(*rows)) == 4
        assert run(store.restore(*rows)) == 0
        assert run(store.facts(ANA, retired=True)) == facts
        assert run(store.turns(ANA)) == turns
        assert found(store, "Porto", kinds=("fact",)) == ["Lives in Porto"]
        run(store.erase(ANA))  # the session: the facts knew their turns again
        assert run(store.facts(ANA, retired=True)) == []


class TestLife:
    def test_everything_is_there_after_reopening(self, reopen: Reopen) -> None:
        first = reopen()
        distil(first, turn("I live in Lisbon"), "Lives in Lisbon")
        run(first.flush())
        first.close()
        first.close()
        second = reopen()
        assert current(second) == ["Lives in Lisbon"]
        assert found(second, "Lisbon")

    def test_use_after_close_says_so(self, store: FactStore) -> None:
        store.close()
        for flow in (store.turns(ANA), store.pending(), store.search(ANA, "x", None, limit=1), store.erase(ANA)):
            with pytest.raises(ClosedError, match="closed"):
                run(flow)
        with pytest.raises(ClosedError):
            run(store.open(EMBEDDER, DIMENSION))

    def test_another_embedder_is_refused_by_name(self, reopen: Reopen) -> None:
        store = reopen()
        run(store.open(EMBEDDER, DIMENSION))
        for name, dimension in (("other", DIMENSION), (EMBEDDER, DIMENSION + 1)):
            with pytest.raises(EmbedderMismatchError, match=f"'{EMBEDDER}' .*'{name}'"):
                run(store.open(name, dimension))

    def test_it_tells_what_it_is(self, store: FactStore) -> None:
        assert "Qdrant" in store.describe()
        assert isinstance(store, FactStore)
