"""`MemLoRAMemoryBlock` inside of the framework's own `Memory`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import Memory as ChatMemory
from llama_index.core.utils import get_tokenizer
from scripted import FakeBackend
from two_people import ANA, FlakyStore

from llama_index.memory.memlora import MemLoRAMemoryBlock
from memlora_plugins import Memory, Scope, ScopeError
from memlora_plugins.experts import MEMORY_BEGIN, MEMORY_END


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


Chat = Callable[..., ChatMemory]


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    """Makes a `Memory` of the framework with blocks; its database is closed in the end."""
    made: list[ChatMemory] = []

    def make(*blocks: MemLoRAMemoryBlock, token_limit: int = 200) -> ChatMemory:
        chat = ChatMemory.from_defaults(session_id="monday", token_limit=token_limit, memory_blocks=list(blocks))
        made.append(chat)
        return chat

    yield make
    for chat in made:
        if engine := chat.sql_store._async_engine:
            await engine.dispose()


async def test_it_recalls_what_is_remembered(told: Memory, chat: Chat) -> None:
    ours = chat(MemLoRAMemoryBlock(memory=told, user_id="ana"), token_limit=30_000)
    await ours.aput(user("Where does Ana live?"))
    [system, said] = await ours.aget()
    assert "<LongTermMemory>" in str(system.content)
    assert "] Ana lives in Porto\n" in str(system.content)
    assert said.content == "Where does Ana live?"
    assert "Rome" not in str(system.content)
    [nothing] = await chat(MemLoRAMemoryBlock(memory=told, user_id="zoe")).aget("Where does Ana live?") or [None]
    assert nothing is None


async def test_it_remembers_what_the_queue_ejects(memory: Memory, backend: FakeBackend, chat: Chat) -> None:
    ours = chat(MemLoRAMemoryBlock(memory=memory, user_id="ana", wait=True))
    for number in range(10):
        await ours.aput(user(f"This happened. «fact {number}» " + "word " * 10))
        await ours.aput(ChatMessage(role="assistant", content="I see."))
    kept = [fact.text for fact in memory.facts(scope=ANA)]
    assert 0 < len(kept) < 10
    assert kept == [f"fact {number}" for number in range(len(kept))]
    assert len(backend.asked("extraction")) == len(kept)
    turns = memory.turns(scope=Scope("ana", session_id="monday"))
    assert len(turns) == 2 * len(kept)
    assert not any(turn.metadata for turn in turns)


async def test_what_the_store_cannot_take_waits(memory: Memory, store: FlakyStore) -> None:
    block = MemLoRAMemoryBlock(memory=memory, user_id="ana", wait=True)
    store.down = True
    await block.aput([user("I moved. «Ana lives in Porto»")], session_id="monday")
    assert await block.aget([user("Where?")]) == ""
    store.down = False
    await block.aput([user("I sing. «Ana sings»")], session_id="tuesday")
    assert {fact.text for fact in memory.facts(scope=ANA)} == {"Ana lives in Porto", "Ana sings"}
    assert {turn.scope.session_id for turn in memory.turns(scope=ANA)} == {"monday", "tuesday"}


async def test_it_is_asked_about_the_last_words_of_the_person(told: Memory) -> None:
    block = MemLoRAMemoryBlock(memory=told, user_id="ana", limit=1)
    said = [user("Does Ana play the cello?"), ChatMessage(role="assistant", content=None), user(""), user("Thanks")]
    assert "cello" in await block.aget(said[:-1])
    assert await block.aget([]) == await block.aget() == await block.aget([user(" ")]) == ""


async def test_its_size_is_bounded(memory: Memory) -> None:
    for number in range(20):
        memory.note(f"Ana has seen the film number {number}", scope=ANA)
    found = await MemLoRAMemoryBlock(memory=memory, user_id="ana", token_budget=60).aget([user("Which films?")])
    assert 1 <= found.count("film number") <= 4


@pytest.mark.parametrize("surplus", [1, 20, 60, 100, 10_000])
async def test_it_is_truncated_line_by_line(memory: Memory, surplus: int) -> None:
    for number in range(10):
        memory.note(f"Ana has seen the film number {number}", scope=ANA)
    block = MemLoRAMemoryBlock(memory=memory, user_id="ana")
    content = await block.aget([user("Which films has Ana seen?")])
    cut = await block.atruncate(content, surplus)
    if surplus == 10_000:
        assert cut is None
        return
    assert cut is not None
    count = get_tokenizer()
    assert len(count(content)) - len(count(cut)) >= surplus
    lines = cut.splitlines()
    assert (lines[0], lines[-1]) == (MEMORY_BEGIN, MEMORY_END)
    assert content.splitlines()[-len(lines[2:]) :] == lines[2:]


async def test_a_full_memory_truncates_it(memory: Memory, chat: Chat) -> None:
    for number in range(10):
        memory.note(f"Ana has seen the film number {number}", scope=ANA)
    ours = chat(MemLoRAMemoryBlock(memory=memory, user_id="ana"), token_limit=200)
    await ours.aput(user("Which films has Ana seen? " + "word " * 50))
    shown = "\n".join(str(message.content) for message in await ours.aget())
    assert 0 < shown.count("film number") < 10


@pytest.mark.parametrize("user_id", [None, "", 7])
def test_nobody_named_is_an_error(memory: Memory, user_id: object) -> None:
    with pytest.raises(ScopeError):
        MemLoRAMemoryBlock(memory=memory, user_id=user_id)
    with pytest.raises(ScopeError):
        MemLoRAMemoryBlock(memory=memory)
