"""What a memory runs and how where no model is named: nano, with the limits that it needs, if its weights are there."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from scripted import FakeBackend, WordEmbedder, says
from tiny_model import TinyModel

from memlora_plugins import (
    AsyncMemory,
    BackendNotConfiguredError,
    EdgeFactStore,
    Memory,
    Message,
    Scope,
    Settings,
    nano,
)
from memlora_plugins.core import fitted
from memlora_plugins.serving.base import Completion
from memlora_plugins.serving.local import LocalBackend
from memlora_plugins.settings import load_settings

ANA = Scope("ana")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in nano.SETTINGS:
        monkeypatch.delenv(f"MEMLORA_{name.upper()}", raising=False)
    monkeypatch.delenv("MEMLORA_MODEL", raising=False)


def limits(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in nano.SETTINGS}


ORDINARY = limits(Settings())


def test_nano_runs_with_its_own_limits(tmp_path: Path, tiny_nano: TinyModel) -> None:
    with Memory.open(path=tmp_path) as memory:
        assert str(tiny_nano.path) in repr(memory)
        for expert in nano.ADAPTERS:
            assert f"{expert}={expert}@" in repr(memory)
        assert limits(memory.settings) == nano.SETTINGS != ORDINARY
        memory.add([Message("user", "I live in Lisbon.")], scope=ANA, distil=False)
        assert memory.answer("Where do I live?", scope=ANA).usage.input_tokens > 0


@pytest.mark.usefixtures("no_nano")
def test_without_its_weights_turns_are_kept_and_nothing_is_said_of_nano(tmp_path: Path) -> None:
    with Memory.open(path=tmp_path) as memory:
        assert "no model" in repr(memory)
        assert limits(memory.settings) == ORDINARY
        message = Message("user", "I live in Lisbon.")
        assert len(memory.add([message], scope=ANA).pending) == 1
        with pytest.raises(BackendNotConfiguredError, match="memlora serve"):
            memory.answer("Where do I live?", scope=ANA)


def test_what_was_kept_without_it_is_distilled_once_it_is_there(
    tmp_path: Path, tiny_nano: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Memory.open(path=tmp_path, model="none") as memory:
        memory.add([Message("user", "I live in Lisbon.")], scope=ANA)
    monkeypatch.setattr(LocalBackend, "complete", lambda self, request: Completion(says("I live in Lisbon.")))
    with Memory.open(path=tmp_path) as memory:
        memory.flush()
        assert [fact.text for fact in memory.facts(scope=ANA)] == ["The user: I live in Lisbon."]


async def test_the_asynchronous_door_runs_it_too(tmp_path: Path, tiny_nano: TinyModel) -> None:
    async with await AsyncMemory.open(path=tmp_path) as memory:
        assert str(tiny_nano.path) in repr(memory)
        assert limits(memory.settings) == nano.SETTINGS


@pytest.mark.usefixtures("tiny_nano")
def test_what_is_said_wins_over_its_limits_and_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMLORA_EXCHANGE_CHARS", "300")
    said = {
        **nano.SETTINGS,
        "neighbours_per_fact": Settings().neighbours_per_fact,
        "exchange_chars": 300,
    }
    with Memory.open(path=tmp_path, neighbours_per_fact=said["neighbours_per_fact"]) as memory:
        assert limits(memory.settings) == said
        stored = pickle.dumps(memory)
    monkeypatch.delenv("MEMLORA_EXCHANGE_CHARS")
    with pickle.loads(stored) as reopened:
        assert limits(reopened.settings) == said


@pytest.mark.parametrize(
    "other",
    [
        {"model": "none"},
        {"model": "some/folder"},
        {"model": "base", "base_url": "http://127.0.0.1:9"},
        {"model": "base", "base_url": "http://127.0.0.1:9", "api": "openai"},
    ],
)
def test_any_other_model_keeps_the_ordinary_limits(other: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(**other)
    assert fitted(settings) is settings
    assert limits(settings) == ORDINARY
    monkeypatch.setenv("MEMLORA_MODEL", other["model"])
    assert limits(fitted(load_settings(**{**other, "model": None}))) == ORDINARY


@pytest.mark.parametrize(
    "served",
    [{"model": "some/folder"}, {"model": "nano", "base_url": "http://127.0.0.1:9"}],
    ids=["here", "by a server"],
)
def test_its_adapters_bring_its_limits_whoever_runs_them(
    served: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    extraction, generation = (nano.ADAPTERS[expert] for expert in ("extraction", "generation"))
    assert limits(fitted(load_settings(**served, adapters=nano.ADAPTERS))) == nano.SETTINGS
    answers = {name: nano.SETTINGS[name] for name in nano.OF_GENERATION}
    free = {**nano.SETTINGS, **{name: ORDINARY[name] for name in answers}}  # somebody else's expert answers
    assert limits(fitted(load_settings(**served, adapters={"extraction": extraction}))) == free
    held = {**ORDINARY, **answers}
    assert limits(fitted(load_settings(**served, adapters={"generation": generation}))) == held
    beside = tmp_path / "link"
    beside.symlink_to(nano.FOLDER)
    settings = load_settings(**served, adapters={"extraction": str(beside / "extraction")}, exchange_chars=300)
    assert limits(fitted(settings)) == {**free, "exchange_chars": 300}
    others = load_settings(**served, adapters={"extraction": str(tmp_path), "update": nano.ADAPTERS["update"]})
    assert limits(fitted(others)) == ORDINARY


def test_a_memory_of_ready_made_parts_keeps_the_ordinary_limits(tmp_path: Path) -> None:
    with Memory(backend=FakeBackend(), store=EdgeFactStore(tmp_path), embedder=WordEmbedder()) as memory:
        assert limits(memory.settings) == ORDINARY


def test_every_limit_is_a_setting_that_it_may_have() -> None:
    assert limits(Settings(**nano.SETTINGS)) == nano.SETTINGS
