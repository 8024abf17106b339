"""nano as it ships: what its card claims, and that a memory remembers with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tiny_model import TinyModel

from memlora_plugins import AdapterError, AsyncMemory, Memory, Message, Scope, nano
from memlora_plugins.nano.recipe.dialogue import Author
from memlora_plugins.nano.recipe.make import NanoScores
from memlora_plugins.nano.recipe.measure import measure_extraction
from memlora_plugins.nano.recipe.relations import RELATIONS, pools
from memlora_plugins.serving.local import LocalBackend

ANA = Scope("ana")
STORY = ("I live in Porto.", "I work as a nurse.", "I moved to Madrid.")


@pytest.fixture(scope="module")
def scores() -> NanoScores:
    return NanoScores.model_validate_json((nano.FOLDER / "scores.json").read_text(encoding="utf-8"))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(path=tmp_path / "memory") as memory:
        yield memory


def told(line: str) -> list[Message]:
    return [Message("user", line)]


def test_its_scores_are_above_their_bars_and_above_the_base(scores: NanoScores) -> None:
    base, experts = scores.tasks["base"], scores.tasks["experts"]
    assert experts.extraction_values.f1 >= 0.90
    assert experts.extraction_phrasings.f1 >= 0.75
    assert experts.update.accuracy >= 0.85
    assert experts.generation.accuracy >= 0.6
    for mine, others in (
        (experts.extraction_values.f1, base.extraction_values.f1),
        (experts.extraction_phrasings.f1, base.extraction_phrasings.f1),
        (experts.update.accuracy, base.update.accuracy),
        (experts.generation.accuracy, base.generation.accuracy),
    ):
        assert mine >= others + 0.05


def test_its_card_states_them(scores: NanoScores) -> None:
    card = (nano.FOLDER / "CARD.md").read_text(encoding="utf-8")
    experts = scores.tasks["experts"]
    for score in (
        experts.extraction_values.f1,
        experts.extraction_phrasings.f1,
        experts.update.accuracy,
        experts.generation.accuracy,
        experts.generation_phrasings.accuracy,
    ):
        assert f"{score:.3f}" in card
    for row in scores.pipeline:
        assert row in card


def test_the_weights_score_as_their_card_says(scores: NanoScores) -> None:
    author = Author(RELATIONS, pools(), 1234, "values")  # other text than that of the card
    with closing(LocalBackend(nano.BASE, nano.ADAPTERS)) as backend:
        found = measure_extraction(backend, [author.scene() for _ in range(60)])
    assert found.f1 == pytest.approx(scores.tasks["experts"].extraction_values.f1, abs=0.08)


def test_all_of_it_is_small() -> None:
    weights = (nano.BASE, *map(Path, nano.ADAPTERS.values()))
    size = sum(file.stat().st_size for folder in weights for file in folder.rglob("*") if file.is_file())
    assert size <= 20e6


def test_who_moves_is_known_to_live_there_and_the_move_is_in_the_history(memory: Memory) -> None:
    results = [memory.add(told(line), scope=ANA) for line in STORY]
    assert [[event.operation for event in result.events] for result in results] == [["ADD"], ["ADD"], ["UPDATE"]]
    assert "Madrid" in memory.answer("Where do I live?", scope=ANA).text
    assert "nurse" in memory.answer("What do I do for a living?", scope=ANA).text
    [home] = [fact for fact in memory.facts(scope=ANA) if "Madrid" in fact.text]
    before, now = memory.history(home.id, scope=ANA)
    assert ("Porto" in before.text, before.retired_by) == (True, "UPDATE")
    assert ("Madrid" in now.text, now.retired_by) == (True, None)


def test_of_what_was_never_told_it_says_that_it_does_not_know(memory: Memory) -> None:
    memory.add(told(STORY[1]), scope=ANA)
    assert memory.answer("Which film do I like best?", scope=ANA).text == "I do not know."


def test_people_stay_apart(memory: Memory) -> None:
    memory.add(told(STORY[0]), scope=ANA)
    assert memory.search("Where do I live?", scope=Scope("ben")) == []
    assert "Porto" not in memory.answer("Where do I live?", scope=Scope("ben")).text


async def test_the_asynchronous_door_remembers_the_same(tmp_path: Path) -> None:
    async with await AsyncMemory.open(path=tmp_path / "memory") as memory:
        people = [Scope(f"person-{number}") for number in range(4)]
        for line in STORY:
            await asyncio.gather(*(memory.add(told(line), scope=person) for person in people))
        for person in people:
            facts = [fact.text for fact in await memory.facts(scope=person)]
            assert sorted(facts) == ["The user: I moved to Madrid.", "The user: I work as a nurse."]


def test_its_experts_are_refused_on_another_base(tiny_model: TinyModel) -> None:
    with pytest.raises(AdapterError, match="base"):
        LocalBackend(tiny_model.path, nano.ADAPTERS)
