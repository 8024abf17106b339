"""Ways to search a memory, compared over both stores; on an invented conversation."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import hops
import pytest
from scripted import WordEmbedder

from memlora_plugins import Hit, Memory, Message
from memlora_plugins.errors import InvalidInputError, SettingsError, StoreUnavailableError
from memlora_plugins.evaluation import musique
from memlora_plugins.evaluation.conversations import Conversation, Question, WrittenFact
from memlora_plugins.evaluation.evidence import places, rankings
from memlora_plugins.evaluation.evidence.places import Place
from memlora_plugins.evaluation.evidence.rankings import SETTINGS, Setting
from memlora_plugins.serving.unconfigured import UnconfiguredBackend
from memlora_plugins.store.ranking import Ranking

BEGAN = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
SAID = (
    ("m1", "Ana", "I bought a boat last week."),
    ("m2", "Ben", "Really? What colour?"),
    ("m3", "Ana", "Red, like the old one."),
    ("m4", "Ben", "My sister plays the cello."),
    ("m5", "Ana", "In an orchestra?"),
    ("m6", "Ben", "Yes, in Porto, since March."),
)


def talk(id: str = "c1") -> Conversation:
    said = [
        ("s1", Message("user", text, id=message, name=name, created_at=BEGAN + timedelta(minutes=place)))
        for place, (message, name, text) in enumerate(SAID)
    ]
    return Conversation(
        id,
        tuple(said),
        (
            Question("What colour is Ana's boat?", "red", 4, ("m3",)),
            Question("Where does Ben's sister play the cello?", "Porto", 1, ("m4", "m6")),
            Question("How tall is Ana?", None, 5, ("m1",)),
        ),
        (
            WrittenFact("Ana has a red boat.", ("m1", "m3"), "Ana"),
            WrittenFact("Ben's sister plays the cello in Porto.", ("m6", "m4"), "Ben"),
            WrittenFact("Somebody said something.", (), "Ben"),
        ),
    )


@pytest.fixture(params=[places.edge, places.qdrant_in_process], ids=["edge", "qdrant"])
def place(request: pytest.FixtureRequest) -> Place:
    made: Place = request.param
    return made


def test_a_conversation_is_kept_as_distilling_would_have_it(place: Place) -> None:
    one = talk()
    with place() as opened:
        memory = Memory(backend=UnconfiguredBackend(), store=opened(Ranking()), embedder=WordEmbedder())
        with memory:
            rankings.fill(memory, one, "both")
            assert [(turn.message_id, turn.name, turn.text) for turn in memory.turns(scope=one.scope)] == list(SAID)
            facts = memory.facts(scope=one.scope)
            assert [(fact.text, fact.sources) for fact in facts] == [
                ("Ana has a red boat.", ("m1", "m3")),
                ("Ben's sister plays the cello in Porto.", ("m6", "m4")),
            ]
            assert [fact.valid_from for fact in facts] == [BEGAN, BEGAN + timedelta(minutes=3)]
            assert {fact.operation for fact in facts} == {"ADD"}
            best = memory.search("red boat", scope=one.scope)[0]
            assert (best.kind, best.sources) == ("fact", ("m1", "m3"))
            rankings.fill(memory, one, "both")
            assert memory.count(scope=one.scope) == {"facts": 2, "retired": 0, "turns": 6, "pending": 0}


def test_every_setting_is_measured_over_its_units(place: Place) -> None:
    told: list[tuple[int, int]] = []
    measured = rankings.measure_conversations(
        [talk("c1"), talk("c2")],
        SETTINGS,
        ["turns", "facts", "both"],
        WordEmbedder(),
        place,
        ks=(1, 3),
        progress=lambda done, total: told.append((done, total)),
    )
    assert [one.unit for one in measured] == 6 * ["turns"] + 4 * ["facts"] + 7 * ["both"]
    assert told[-1] == (4 * 17, 4 * 17)
    by_name = {(one.unit, one.setting): one for one in measured}
    assert len(by_name) == 17
    default = by_name["both", "hybrid, the default"]
    assert default.ranking is not None
    assert default.ranking["carried"] == Ranking().carried
    assert default.score.questions == 4
    assert default.score.at[3] == 1.0
    assert default.score.by_category[1].questions == 2
    turns = by_name["turns", "hybrid, the default"].score
    assert turns.at[1] < turns.at[3]
    assert by_name["facts", "hybrid, the default"].score.at[1] == 1.0


def test_a_memory_that_is_told_less(place: Place) -> None:
    """What is left out is not there, and everything else is."""

    def kept(*without: rankings.Untold) -> tuple[list[tuple[str | None, str | None]], set[date]]:
        one = talk()
        with place() as opened:
            memory = Memory(backend=UnconfiguredBackend(), store=opened(Ranking()), embedder=WordEmbedder())
            with memory:
                rankings.fill(memory, one, "both", without)
                turns, facts = memory.turns(scope=one.scope), memory.facts(scope=one.scope)
        assert [turn.text for turn in turns] == [text for _, _, text in SAID]
        assert {fact.sources for fact in facts} == {("m1", "m3"), ("m6", "m4")}
        days = {turn.created_at.date() for turn in turns} | {fact.valid_from.date() for fact in facts}
        return [(turn.name, turn.scope.session_id) for turn in turns], days

    named = [name for _, name, _ in SAID]
    assert kept() == ([(name, "s1") for name in named], {BEGAN.date()})
    assert kept("dates") == ([(name, "s1") for name in named], {date(1970, 1, 1)})
    assert kept("speakers") == ([(None, "s1") for _ in named], {BEGAN.date()})
    assert kept("neighbours") == ([(name, id) for id, name, _ in SAID], {BEGAN.date()})


def test_ablations_of_what_is_told_and_of_the_budget() -> None:
    settings = [
        Setting("default", units=("both",)),
        Setting("without neighbours", units=("both",), without=("neighbours",)),
        Setting("facts alone", units=("both",), fact_share=1.0),
        Setting("turns alone", units=("both",), fact_share=0.0),
        Setting("one of two a fact", units=("both",), fact_share=0.5),
        Setting("a tenth of two facts", units=("both",), fact_share=0.1),
    ]
    measured = rankings.measure_conversations(
        [talk()], settings, ["turns", "both"], WordEmbedder(), places.edge, ks=(2, 6)
    )
    assert [one.setting for one in measured] == [one.name for one in settings]
    assert [(one.without, one.fact_share) for one in measured] == [
        ((), None),
        (("neighbours",), None),
        ((), 1.0),
        ((), 0.0),
        ((), 0.5),
        ((), 0.1),
    ]
    scores = {one.setting: one.score.at for one in measured}
    assert scores["facts alone"][2] == 1.0
    assert scores["turns alone"][6] == 1.0
    assert scores["turns alone"][2] < scores["one of two a fact"][2]
    assert scores["a tenth of two facts"][2] == scores["one of two a fact"][2], "rounded up"
    words = Ranking(text=0, context=0)
    alike = [
        Setting("with", words, without=("speakers",)),
        Setting("without", words, without=("speakers", "neighbours")),
    ]
    near, far = rankings.measure_conversations([talk()], alike, ["turns"], WordEmbedder(), places.edge, ks=(6,))
    assert near.score.by_category[4].recall[6].mean == 1.0
    assert far.score.by_category[4].recall[6].mean == 0.0, "the answer shares no word with the question"


def test_both_stores_agree() -> None:
    def scores(place: Place) -> list[dict[int, float]]:
        measured = rankings.measure_conversations(
            [talk()], SETTINGS, ["turns", "both"], WordEmbedder(), place, ks=(1, 2)
        )
        return [dict(one.score.at) for one in measured]

    assert scores(places.edge) == scores(places.qdrant_in_process)


def test_what_was_made_on_a_server_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake client."""
    removed: list[str] = []

    class FakeClient:
        def __init__(self, url: str, **options: object) -> None:
            assert (url, options["api_key"]) == ("http://127.0.0.1:9", "key")

        def delete_collection(self, name: str) -> None:
            removed.append(name)

        def close(self) -> None:
            removed.append("closed")

    monkeypatch.setattr("qdrant_client.QdrantClient", FakeClient)
    with places.qdrant_server("http://127.0.0.1:9", "key") as opened:
        store = opened(Ranking())
        assert "memlora-eval-" in store.describe()
    assert removed[0] in store.describe()
    assert removed[1:] == ["closed"]
    with pytest.raises(KeyError), places.qdrant_server("http://127.0.0.1:9", "key"):
        raise KeyError("what went wrong")
    assert removed[2].startswith("memlora-eval-")


def test_a_server_that_went_away_meanwhile() -> None:
    with (
        pytest.raises(StoreUnavailableError, match=r"could not be removed .* remove it when the server is back"),
        places.qdrant_server("http://127.0.0.1:9"),
    ):
        pass


def test_nothing_to_measure_is_said() -> None:
    facts_only = [Setting("facts", units=("facts",))]
    with pytest.raises(InvalidInputError, match="No setting is measured over any of these units"):
        rankings.measure_conversations([talk()], facts_only, ["turns"], WordEmbedder(), places.edge)
    silent = Conversation("c", talk().messages)
    with pytest.raises(InvalidInputError, match="No question with evidence"):
        rankings.measure_conversations([silent], SETTINGS, ["turns"], WordEmbedder(), places.edge)


def test_items_by_relevance_alone_or_by_how_unlike_they_are() -> None:
    said = ("Tea is what I drink.", "Tea is what I drink!", "Tea at noon.", "Snow.")
    hits = [
        Hit(kind="turn", text=text, score=1 - place / 10, id=str(place), created_at=BEGAN)
        for place, text in enumerate(said)
    ]

    def taken(relevance: float) -> list[str]:
        return [hit.id for hit in rankings._diverse(hits, 3, relevance, WordEmbedder())]

    assert taken(1.0) == ["0", "1", "2"]
    assert taken(0.5) == ["0", "2", "3"], "the second says the same again"
    assert taken(0.0) == ["0", "3", "2"]
    assert rankings._diverse([], 3, 0.5, WordEmbedder()) == []
    settings = [Setting("default"), Setting("relevance alone", relevance=1.0), Setting("unlike", relevance=0.0)]
    default, same, unlike = rankings.measure_conversations(
        [talk()], settings, ["both"], WordEmbedder(), places.edge, ks=(2,)
    )
    assert same.score == default.score
    assert unlike.relevance == 0.0


def test_paragraphs_are_found_by_three_ways(tmp_path: Path, place: Place) -> None:
    data = musique.load(hops.write_rows(tmp_path / "musique.jsonl"))
    told: list[tuple[int, int]] = []
    measured = rankings.measure_paragraphs(
        data, SETTINGS, WordEmbedder(), place, ks=(2, 9), progress=lambda done, total: told.append((done, total))
    )
    assert [(one.unit, one.setting) for one in measured] == [
        ("paragraphs", "BM25"),
        ("paragraphs", "dense"),
        ("memory of paragraphs", "dense"),
        ("memory of paragraphs", "BM25 with neighbours"),
        ("memory of paragraphs", "hybrid by RRF"),
        ("memory of paragraphs", "hybrid, the default"),
    ]
    assert told == [(3 * n, 18) for n in range(1, 7)]
    assert [one.ranking is None for one in measured] == [True, True, False, False, False, False]
    assert {one.score.questions for one in measured} == {3}
    assert all(list(one.score.by_category) == [2] for one in measured)
    assert measured[-1].score.at[9] == 1.0
    with pytest.raises(InvalidInputError, match="No setting is measured over facts"):
        rankings.measure_paragraphs(data, [Setting("both", units=("both",))], WordEmbedder(), place)
    with pytest.raises(InvalidInputError, match=r"Paragraphs have no .* so 'undated' changes nothing: leave it out"):
        rankings.measure_paragraphs(data, [Setting("undated", without=("dates",))], WordEmbedder(), place)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"relevance": 1.5}, "relevance is a share from 0 to 1, got 1.5"),
        ({"units": ("both",), "fact_share": -0.1}, "fact_share is a share"),
        ({"fact_share": 0.5}, "fact_share is for units"),
        ({"units": ("both",), "fact_share": 0.5, "relevance": 0.5}, "two ways to choose items"),
    ],
)
def test_a_setting_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Setting("a", **given)


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "settings.toml"
        file.write_text(text)
        return file

    return write


def test_settings_from_a_file(toml: Callable[[str], Path]) -> None:
    file = toml(
        """
        [[setting]]
        name = "words count double"
        units = ["turns", "both"]
        ranking = {context_words = 2, fusion = "rrf"}

        [[setting]]
        name = "as it is"

        [[setting]]
        name = "told less"
        units = ["both"]
        without = ["dates", "speakers"]
        fact_share = 0.5

        [[setting]]
        name = "of many kinds"
        relevance = 0.7
        """
    )
    assert rankings.read_settings(file) == [
        Setting("words count double", Ranking(context_words=2, fusion="rrf"), ("turns", "both")),
        Setting("as it is"),
        Setting("told less", units=("both",), without=("dates", "speakers"), fact_share=0.5),
        Setting("of many kinds", relevance=0.7),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name =", "is not TOML"),
        ("", "settings.toml: setting: Field required"),
        ("setting = 3", "setting: "),
        ("setting = []", "setting: .* at least 1"),
        ("other = 1\n[[setting]]\nname = 'a'", "other: Extra inputs are not permitted"),
        ("setting = [1]", r"setting\[1\]: "),
        ("[[setting]]\nname = ' '", r"setting\[1\].name: .* at least 1 character"),
        ("[[setting]]\nname = 'a'\n[[setting]]\nname = 'a'", "two settings of one name"),
        ("[[setting]]\nname = 'a'\nweights = 3", r"setting\[1\].weights: Extra inputs"),
        ("[[setting]]\nname = 'a'\nunits = ['all']", r"units\[1\]: Input should be 'turns', 'facts' or 'both'"),
        ("[[setting]]\nname = 'a'\nunits = []", "units: .* at least 1"),
        (
            "[[setting]]\nname = 'a'\nranking = {words = 2}",
            "ranking: A ranking is a Ranking or a table of text, context,",
        ),
        ("[[setting]]\nname = 'a'\nranking = 2", "ranking: A ranking is a Ranking or a table"),
        ("[[setting]]\nname = 'a'\nwithout = ['words']", "without.*'neighbours', 'dates' or 'speakers'"),
        ("[[setting]]\nname = 'a'\nfact_share = 0.5", r"fact_share is for units = \[.both.\]"),
        ("[[setting]]\nname = 'a'\nunits = ['both']\nfact_share = 1.5", r"setting\[1\]: fact_share is a share"),
        ("[[setting]]\nname = 'a'\nunits = ['both']\nfact_share = 0.5\nrelevance = 0.5", "two ways to choose items"),
        ("[[setting]]\nname = 'a'\nrelevance = -0.5", r"setting\[1\]: relevance is a share from 0 to 1"),
        ("[[setting]]\nname = 'a'\nrelevance = nan", "relevance is a share from 0 to 1"),
        ("[[setting]]\nname = 'a'\nranking = {carried = -1}", r"\[1\].ranking: Ranking.carried is a finite number"),
    ],
)
def test_a_file_that_says_something_else(toml: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        rankings.read_settings(toml(text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml cannot be read"):
        rankings.read_settings(tmp_path / "nowhere.toml")
