"""A whole memory over real parts: vLLM with three experts, Qdrant Edge, MiniLM.

The experts have random weights, so what they say is nonsense in the right form: what is tested is that every person's
words are kept, found and accounted for, whatever a model says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_model import TinyModel

from memlora_plugins import Answer, Memory, Message, Scope, Stage, Token
from memlora_plugins.serving.server import VLLMServer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

EXPERTS = ("extraction", "update", "generation")


@pytest.fixture
def memory(vllm_server: VLLMServer, tiny_model: TinyModel, tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(
        path=tmp_path / "memory",
        base_url=vllm_server.base_url,
        model=vllm_server.model,
        adapters={expert: str(tiny_model.adapters[expert]) for expert in EXPERTS},
    ) as memory:
        yield memory


async def test_many_people_at_once_each_keep_their_own(memory: Memory) -> None:
    people = [Scope(f"person-{n}") for n in range(12)]
    said = ["I live in Lisbon with my cat.", "I moved to Porto in May.", "Yes, I still like tea."]

    async def talk(person: Scope) -> None:
        for line in said:
            result = await memory.aio.add(
                [Message("user", line), Message("assistant", "Tell me more?")], scope=person, wait=True
            )
            assert all(failure.turn_ids for failure in result.errors)  # whatever failed says for which turn
            assert {turn.id for turn in result.pending} <= {turn.id for turn in result.turns}

    await asyncio.gather(*(talk(person) for person in people))
    for person in people:
        turns = await memory.aio.turns(scope=person)
        assert [turn.text for turn in turns if turn.role == "user"] == said
        messages = {turn.message_id for turn in turns}
        for fact in await memory.aio.facts(scope=person, retired=True):
            assert set(fact.sources) <= messages
        hits = await memory.aio.search("Which city does she live in?", scope=person, limit=20)
        assert any("Porto" in hit.text for hit in hits)
    rows = [row async for row in memory.aio.export(scope=people[0])]
    json.dumps(rows)
    await memory.aio.close()


def test_an_answer_streams_from_the_generation_expert(memory: Memory) -> None:
    person = Scope("ana")
    memory.add([Message("user", "I live in Lisbon.")], scope=person, distil=False)
    items = list(memory.stream("Where do I live?", scope=person))
    assert [item.name for item in items if isinstance(item, Stage)] == ["recall", "generation"]
    answer = items[-1]
    assert isinstance(answer, Answer)
    assert "".join(item.text for item in items if isinstance(item, Token)).strip().startswith(answer.text[:3])
    assert answer.usage.input_tokens > 0
    assert [hit.text for hit in answer.hits] == ["I live in Lisbon."]


def test_the_background_distils_what_was_left(memory: Memory) -> None:
    person = Scope("bob")
    result = memory.add([Message("user", "I play the violin.")], scope=person, wait=False)
    assert len(result.pending) == 1
    flushed = memory.flush()
    assert memory.count(scope=person)["pending"] == len(flushed.pending)
