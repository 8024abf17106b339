"""Ranking: pure arithmetic."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
import qdrant_edge
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.errors import SettingsError
from memlora_plugins.store import ranking
from memlora_plugins.store.ranking import Ranking
from memlora_plugins.types import Fact, Scope, Turn

NOON = datetime(2023, 5, 8, 12, tzinfo=UTC)
IDS = st.sampled_from([f"id{n}" for n in range(12)])
LISTS = st.dictionaries(
    st.sampled_from(list(ranking.SIGNALS)),
    st.dictionaries(IDS, st.floats(0, 50), max_size=12).map(lambda found: list(found.items())),
)


def turn(text: str, **more: object) -> Turn:
    options: dict = {"name": None, **more}
    return Turn(
        id="t",
        scope=Scope("ana"),
        message_id="m",
        role="user",
        text=text,
        created_at=NOON,
        recorded_at=NOON,
        position=0,
        pending=False,
        **options,
    )


def test_a_turn_is_searched_with_its_speaker_and_its_images_caption() -> None:
    assert ranking.turn_text(turn("Look!")) == "Look!"
    assert ranking.turn_text(turn("Look!", name="Ana", metadata={"caption": "a red boat"})) == "Ana: Look! [a red boat]"
    assert ranking.turn_text(turn("Look!", metadata={"caption": " "})) == "Look!"
    assert ranking.turn_text(turn("Look!", metadata={"caption": 3})) == "Look!"


def test_words_carry_the_day() -> None:
    fact = Fact(id="f", scope=Scope("ana"), text="Ana sails", sources=("m",), valid_from=NOON, recorded_at=NOON)
    assert ranking.turn_words(turn("Look!", name="Ana")) == "8 May 2023 Ana: Look!"
    assert ranking.fact_words(fact) == "8 May 2023 Ana sails"


def test_counting_config_counts_terms() -> None:
    bm25 = qdrant_edge.Bm25(qdrant_edge.Bm25Config(**ranking.COUNTING))
    counts = bm25.embed_document("boat boat boat harbour").values
    assert sorted(counts) == pytest.approx([1, 3], rel=1e-4)


def test_a_window_sums_by_distance_and_repetition_saturates() -> None:
    counts = ranking.window_sum({1: 1.0}, [(1, {1: 1.0, 2: 2.0}), (2, {3: 1.0})])
    assert counts == pytest.approx({1: 1 + ranking.WINDOW[1], 2: 2 * ranking.WINDOW[1], 3: ranking.WINDOW[2]})
    weights = ranking.saturated({1: 1.0, 2: 2.0, 3: 1000.0})
    assert weights[1] == pytest.approx(1.0)
    assert weights[2] < 2 * weights[1]
    assert weights[3] < ranking.SATURATION + 1


def test_a_signal_without_weight_is_not_searched() -> None:
    assert Ranking().weights == {"text": 0.3, "context": 0.6, "context_words": 1.0}
    assert Ranking(context=0, text=2).weights == {"text": 2, "context_words": 1.0}


def test_each_signal_puts_up_some_for_each_that_is_wanted() -> None:
    assert Ranking().put_up(10) == 60
    assert Ranking().put_up(10, besides=7) == 67
    assert Ranking().put_up(100) == 200
    assert Ranking().put_up(300) == 300


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": -0.1}, "Ranking.text is a finite number of at least 0, got -0.1"),
        ({"context": math.nan}, "Ranking.context is a finite number"),
        ({"context_words": math.inf}, "Ranking.context_words is a finite number"),
        ({"carried": "much"}, "Ranking.carried is a finite number of at least 0, got 'much'"),
        ({"carried": True}, "Ranking.carried is a finite number"),
        ({"named": -1}, "Ranking.named is a finite number of at least 0, got -1"),
        ({"candidates": 0}, "Ranking.candidates is a whole number of at least 1, got 0"),
        ({"for_each": 1.5}, "Ranking.for_each is a whole number"),
        ({"look_ahead": None}, "Ranking.look_ahead is a whole number"),
        ({"fusion": "sum"}, "Ranking.fusion is scores or rrf, got 'sum'"),
        ({"text": 0, "context": 0, "context_words": 0}, "at least one of text, context, context_words"),
    ],
)
def test_a_ranking_that_makes_no_sense_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Ranking(**fields)


def test_by_ranks_alone_the_scores_do_not_matter() -> None:
    lists = {"text": [("a", 0.9), ("b", 0.1)], "context_words": [("b", 90.0), ("c", 89.0)]}
    by_ranks = ranking.fuse(lists, Ranking(text=1, context_words=1, fusion="rrf"))
    assert by_ranks == [
        ("b", pytest.approx(1 / 62 + 1 / 61)),
        ("a", pytest.approx(1 / 61)),
        ("c", pytest.approx(1 / 62)),
    ]
    assert ranking.fuse(lists, Ranking(text=3, context_words=1, fusion="rrf"))[0] == (
        "b",
        pytest.approx(3 / 62 + 1 / 61),
    )


def test_equal_scores_share_a_rank_in_whatever_order_they_come() -> None:
    by_ranks = Ranking(text=1, fusion="rrf")
    fused = ranking.fuse({"text": [("c", 2.0), ("b", 1.0), ("a", 1.0), ("d", 0.5)]}, by_ranks)
    assert [id for id, _ in fused] == ["c", "a", "b", "d"]
    assert fused == ranking.fuse({"text": [("c", 2.0), ("a", 1.0), ("b", 1.0), ("d", 0.5)]}, by_ranks)
    assert dict(fused)["d"] == pytest.approx(1 / 64)


def test_nothing_is_carried_over_where_it_is_not_wanted() -> None:
    ranked = [("other", 2.0), ("fact", 1.9), ("turn", 1.8)]
    order = ranking.rerank(ranked, {"fact": ["turn"]}, Ranking(carried=0))
    assert order == [("other", 2.0), ("fact", 1.9), ("turn", 1.8)]


def test_agreement_of_signals_wins() -> None:
    fused = ranking.fuse(
        {
            "text": [("a", 0.9), ("b", 0.8), ("c", 0.1)],
            "context": [("b", 0.9), ("a", 0.2), ("c", 0.1)],
            "context_words": [("b", 7.0), ("c", 0.5)],
        }
    )
    assert [id for id, _ in fused] == ["b", "a", "c"]


def test_a_single_item_found_by_words_counts() -> None:
    """Among many that are near by meaning, the one that has the word comes first."""
    near = [(f"t{n}", 0.4 - n / 1000) for n in range(50)]
    assert ranking.fuse({"context": near, "context_words": [("t30", 4.0)]})[0][0] == "t30"


def test_nothing_found_and_all_alike() -> None:
    assert ranking.fuse({}) == []
    assert ranking.fuse({"text": []}) == []
    assert ranking.fuse({"text": [("b", 1.0), ("a", 1.0)]}) == [("a", 0.0), ("b", 0.0)]


@given(LISTS)
def test_fuse_ranks_each_item_once_and_in_order(lists: dict[str, list[tuple[str, float]]]) -> None:
    fused = ranking.fuse(lists)
    assert {id for id, _ in fused} == {id for found in lists.values() for id, _ in found}
    assert len(fused) == len(dict(fused))
    assert all(score >= 0 and math.isfinite(score) for _, score in fused)
    assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)


@given(LISTS, st.floats(0.5, 4))
def test_the_scale_of_a_signal_does_not_matter(lists: dict[str, list[tuple[str, float]]], factor: float) -> None:
    scaled = {name: [(id, score * factor) for id, score in found] for name, found in lists.items()}
    before, after = dict(ranking.fuse(lists)), dict(ranking.fuse(scaled))
    if all(max((score for _, score in found), default=1) > 1e-3 for found in lists.values()):
        assert after == pytest.approx(before, rel=1e-3, abs=1e-3)


def test_echoes_come_last_but_are_not_lost() -> None:
    ranked = [("fact", 5.0), ("its turn", 4.0), ("another", 1.0), ("its other fact", 0.5)]
    order = ranking.rerank(ranked, {"fact": ["its turn"], "its other fact": ["its turn"]})
    assert [id for id, _ in order] == ["fact", "another", "its turn", "its other fact"]
    assert [score for _, score in order] == sorted((score for _, score in order), reverse=True)


def test_a_fact_with_a_source_not_seen_yet_is_no_echo() -> None:
    ranked = [("t1", 5.0), ("fact", 4.0), ("t2", 3.0), ("other", 1.0)]
    assert [id for id, _ in ranking.rerank(ranked, {"fact": ["t1", "t2"]})] == ["t1", "fact", "other", "t2"]


def test_a_fact_vouches_for_its_turn() -> None:
    ranked = [("other", 2.0), ("fact", 1.9), ("turn", 1.8)]
    assert [id for id, _ in ranking.rerank(ranked, {"fact": ["turn"]})] == ["fact", "other", "turn"]


def test_what_those_say_whom_a_question_names_comes_first() -> None:
    ranked = [("other", 5.0), ("hers", 4.5), ("last", 1.0)]
    assert [id for id, _ in ranking.rerank(ranked, {}, named={"hers"})] == ["hers", "other", "last"]
    assert ranking.rerank(ranked, {}, named={"last"})[-1] == ("last", 2.0)
    assert ranking.rerank(ranked, {}, Ranking(named=0), named={"hers"}) == ranked


def test_a_changed_fact_stands_for_itself() -> None:
    """Left out of the sources, it is neither an echo of its old turn nor makes one of it."""
    assert ranking.rerank([("turn", 5.0), ("edited fact", 4.0)], {}) == [("turn", 5.0), ("edited fact", 4.0)]
    assert ranking.rerank([("fact", 1.0)], {"fact": [], "elsewhere": ["turn"]}) == [("fact", 1.0)]
    assert ranking.rerank([], {}) == []


@given(
    st.dictionaries(IDS, st.floats(0, 9)).map(lambda found: sorted(found.items(), key=lambda item: -item[1])),
    st.dictionaries(IDS, st.lists(IDS, max_size=3), max_size=6),
)
def test_rerank_keeps_every_item(ranked: list[tuple[str, float]], sources: dict[str, list[str]]) -> None:
    order = ranking.rerank(ranked, sources)
    assert sorted(id for id, _ in order) == sorted(id for id, _ in ranked)
    assert [score for _, score in order] == sorted((score for _, score in order), reverse=True)
