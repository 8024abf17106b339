"""A whole memory in one process: the tiny model with its three experts, Qdrant Edge, MiniLM; no server at all.

Random weights say nonsense in the right form: what is tested is the wiring, and that every word is accounted for.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_model import TinyModel

from memlora_plugins import AdapterError, Answer, Memory, Message, Scope, Token

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def memory(tiny_model: TinyModel, tmp_path: Path) -> Iterator[Memory]:
    adapters = {expert: str(folder) for expert, folder in tiny_model.adapters.items()}
    with Memory.open(path=tmp_path / "memory", model=str(tiny_model.path), adapters=adapters) as memory:
        yield memory


def test_every_turn_is_distilled_or_explained(memory: Memory) -> None:
    ana = Scope("ana")
    for line in ("I live in Lisbon with my cat.", "I moved to Porto in May."):
        result = memory.add([Message("user", line)], scope=ana)
        explained = {id for failure in result.errors for id in failure.turn_ids}
        assert {turn.id for turn in result.pending} <= explained
        assert result.usage.input_tokens > 0
    assert [turn.text for turn in memory.turns(scope=ana)] == [
        "I live in Lisbon with my cat.",
        "I moved to Porto in May.",
    ]
    assert any("Porto" in hit.text for hit in memory.search("Which city?", scope=ana))


async def test_people_are_batched_on_one_model_and_stay_apart(memory: Memory) -> None:
    people = [Scope(f"person-{n}") for n in range(6)]
    said = [Message("user", f"I own cat number {n}.") for n in range(6)]
    results = await asyncio.gather(*(memory.aio.add([m], scope=p) for m, p in zip(said, people, strict=True)))
    assert all(result.usage.calls >= 1 for result in results)
    for message, person in zip(said, people, strict=True):
        assert [turn.text for turn in await memory.aio.turns(scope=person)] == [message.text]
        assert all(fact.sources == (message.id,) for fact in await memory.aio.facts(scope=person))


def test_an_answer_streams_and_the_memory_travels(memory: Memory) -> None:
    ana = Scope("ana")
    memory.add([Message("user", "I live in Lisbon.")], scope=ana, distil=False)
    items = list(memory.stream("Where do I live?", scope=ana))
    assert isinstance(items[-1], Answer)
    assert any(isinstance(item, Token) for item in items)
    with pickle.loads(pickle.dumps(memory)) as copied:
        assert copied.answer("Where do I live?", scope=ana).text == memory.answer("Where do I live?", scope=ana).text


def test_an_adapter_that_is_not_there_is_named_at_open(tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no-such-adapter"):
        Memory.open(
            path=tmp_path / "memory",
            model=str(tiny_model.path),
            adapters={"extraction": str(tmp_path / "no-such-adapter")},
        )
    Memory.open(path=tmp_path / "memory", model="none").close()  # the failed open left no lock behind
