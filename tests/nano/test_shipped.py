"""The nano in the package, with the real MiniLM: what a person gets from `Memory.open()` and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlora_plugins import AsyncMemory, Memory, Message, Scope, nano
from memlora_plugins.nano.recipe.card import card
from memlora_plugins.nano.recipe.make import SCORES, NanoScores, Recipe
from memlora_plugins.nano.recipe.relations import RELATIONS
from memlora_plugins.serving.adapters import check_base, preflight

ANA = Scope("ana")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MEMLORA_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    """One for all tests of this module; each takes a person of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MEMLORA_")]:
            patch.delenv(name)
        with Memory.open(path=tmp_path_factory.mktemp("nano")) as memory:
            yield memory


def tell(memory: Memory, scope: Scope, text: str) -> list[tuple[str, str]]:
    result = memory.add([Message("user", text)], scope=scope)
    assert (result.errors, result.pending) == ((), ())
    return [(event.operation, event.fact.text) for event in result.events]


def test_a_move_is_an_update_and_the_answer_is_the_new_city(memory: Memory) -> None:
    assert tell(memory, ANA, "I moved to Porto.") == [("ADD", "The user lives in Porto")]
    assert memory.answer("Where do I live?", scope=ANA).text == "Porto"
    assert tell(memory, ANA, "Guess what! I moved to Lisbon.") == [("UPDATE", "The user lives in Lisbon")]
    assert memory.answer("Where do I live?", scope=ANA).text == "Lisbon"
    [fact] = memory.facts(scope=ANA)
    chain = memory.history(fact.id, scope=ANA)
    assert [(one.text, one.retired_by) for one in chain] == [
        ("The user lives in Porto", "UPDATE"),
        ("The user lives in Lisbon", None),
    ]


def test_what_it_does_not_know_it_says(memory: Memory) -> None:
    ben = Scope("ben")
    assert memory.answer("Where do I live?", scope=ben).text == "I do not know."
    assert tell(memory, ben, "I have a dog called Biscuit.") == [("ADD", "The user has a dog called Biscuit")]
    assert memory.answer("What is the name of my dog?", scope=ben).text == "Biscuit"
    assert memory.answer("Where do I live?", scope=ben).text == "I do not know."


def test_small_talk_is_no_fact(memory: Memory) -> None:
    for text in ("Hello!", "Thank you, that was helpful.", "How are you today?"):
        assert tell(memory, Scope("chloe"), text) == []


@pytest.mark.timeout(300)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1, max_size=300).filter(str.strip))
def test_whatever_is_said_it_stays_in_form(memory: Memory, text: str) -> None:
    """Any text ends as facts or as none; nothing is left pending, nothing fails."""
    tell(memory, Scope("anybody"), text)


def test_a_long_message_is_read_in_parts_it_can_take(memory: Memory) -> None:
    talk = "I was at the station today and nothing much happened there. " * 60
    events = tell(memory, Scope("dora"), f"{talk}I moved to Lisbon.")
    assert memory.count(scope=Scope("dora"))["pending"] == 0
    assert all(len(text) < 300 for _, text in events)


async def test_many_people_at_once_stay_apart(tmp_path: Path) -> None:
    cities = {f"person-{number}": city for number, city in enumerate(("Lisbon", "Oslo", "Lyon", "Kyoto") * 3)}
    async with await AsyncMemory.open(path=tmp_path) as memory:
        await asyncio.gather(
            *(memory.add([Message("user", f"I live in {city}.")], scope=Scope(who)) for who, city in cities.items())
        )
        answers = await asyncio.gather(*(memory.answer("Where do I live?", scope=Scope(who)) for who in cities))
    assert [answer.text for answer in answers] == list(cities.values())


def test_what_ships_is_whole_and_small() -> None:
    files = [file for file in nano.FOLDER.rglob("*") if file.is_file() and "recipe" not in file.parts]
    assert sum(file.stat().st_size for file in files if "__pycache__" not in file.parts) <= 20_000_000
    for expert, folder in nano.ADAPTERS.items():
        check_base(preflight(expert, Path(folder)), nano.BASE)
        assert json.loads((Path(folder) / "memlora.json").read_bytes())["base_sha256"]


def test_the_scores_it_ships_with_reach_what_was_asked_of_them() -> None:
    scores = NanoScores.model_validate_json((nano.FOLDER / SCORES).read_text())
    experts, base = scores.tasks["experts"], scores.tasks["base"]
    assert experts.extraction_values.f1 >= 0.90
    assert experts.extraction_phrasings.f1 >= 0.75
    assert experts.update.accuracy >= 0.85
    for better, worse in (
        (experts.extraction_values.f1, base.extraction_values.f1),
        (experts.extraction_phrasings.f1, base.extraction_phrasings.f1),
        (experts.update.accuracy, base.update.accuracy),
        (experts.generation.accuracy, base.generation.accuracy),
    ):
        assert better >= worse + 0.05


def test_the_card_is_the_one_of_these_scores() -> None:
    scores = NanoScores.model_validate_json((nano.FOLDER / SCORES).read_text())
    assert (nano.FOLDER / "CARD.md").read_text() == card(scores, Recipe(), len(RELATIONS))
