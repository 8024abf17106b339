"""A whole memory without any server: three experts of the tiny model in this process, Qdrant Edge, MiniLM."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tiny_model import TinyModel

from memlora_plugins import Answer, Memory, Message, Scope, SettingsError

SAID = ["I live in Lisbon with my cat.", "I moved to Porto in May.", "a\ud800b\x00 \x1b[2J 猫"]


def test_everything_said_is_kept_accounted_for_and_answered_from(tiny_model: TinyModel, tmp_path: Path) -> None:
    people = [Scope(f"person-{n}") for n in range(4)]
    adapters = {expert: str(folder) for expert, folder in tiny_model.adapters.items()}

    async def talk(memory: Memory, person: Scope) -> None:
        for line in SAID:
            result = await memory.aio.add([Message("user", line)], scope=person)
            assert {turn.id for turn in result.pending} <= {turn.id for turn in result.turns}
            assert all(failure.turn_ids for failure in result.errors)

    async def everybody(memory: Memory) -> None:
        await asyncio.gather(*(talk(memory, person) for person in people))

    with Memory.open(path=tmp_path, model=str(tiny_model.path), adapters=adapters) as memory:
        assert "in process" in repr(memory)
        asyncio.run(everybody(memory))
        for person in people:
            turns = memory.turns(scope=person)
            assert [turn.text for turn in turns] == [line.replace("\ud800", "\ufffd") for line in SAID]
            ids = {turn.message_id for turn in turns}
            assert all(set(fact.sources) <= ids for fact in memory.facts(scope=person, retired=True))
        *_, answer = memory.stream("Where do I live?", scope=people[0])
        assert isinstance(answer, Answer)
        assert answer.text


def test_a_model_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no model folder.*hf download"):
        Memory.open(path=tmp_path / "memory", model=str(tmp_path / "nope"))
    Memory.open(path=tmp_path / "memory").close()  # nothing was left locked
