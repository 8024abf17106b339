"""A model server that fails in every way: each gives a typed, explained failure and a pending turn, and loses nothing.

The server is a fake on loopback; the backend, the store and the doors are the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fake_server import FakeModelServer, Fault, Reply
from scripted import WordEmbedder, decides, says

from memlora_plugins import (
    AdapterError,
    AddResult,
    BackendError,
    BackendUnavailableError,
    EdgeFactStore,
    MemloraError,
    Memory,
    Message,
    ReplyError,
    Scope,
    VLLMBackend,
)
from memlora_plugins.errors import AdapterNotLoadedError, BackendRequestError, BackendTimeoutError

ANA = Scope("ana")
EXPERTS = ("extraction", "update", "generation")
FENCED = '<think>Perhaps {"facts": ["no"]}?</think>\n```json\n{"facts": ["Ana lives in Porto"]}\n```'


@pytest.fixture
def server() -> Iterator[FakeModelServer]:
    with FakeModelServer(adapters={expert: f"/{expert}" for expert in EXPERTS}) as server:
        server.reply("extraction", says("Ana lives in Porto"))
        yield server


@pytest.fixture
async def memory(server: FakeModelServer, tmp_path: Path) -> AsyncIterator[Memory]:
    adapters = {expert: expert for expert in EXPERTS}
    backend = VLLMBackend(server.base_url, "base", adapters, read_timeout=0.3, backoff=0.001)
    memory = Memory(backend=backend, store=EdgeFactStore(tmp_path), embedder=WordEmbedder())
    yield memory
    await memory.aio.close()


@pytest.fixture(params=["sync", "async"])
def add(request: pytest.FixtureRequest, memory: Memory):
    async def add(text: str) -> AddResult:
        if request.param == "sync":
            return await asyncio.to_thread(memory.add, [Message("user", text)], scope=ANA)
        return await memory.aio.add([Message("user", text)], scope=ANA)

    return add


HTTP_FAULTS = {
    "not found": ([Fault(404)], BackendRequestError, "memlora serve"),
    "unknown model": ([Fault(404, param="model")] * 2, AdapterNotLoadedError, "does not answer with it"),
    "refused key": ([Fault(401)], BackendRequestError, "Check api_key"),
    "too many": ([Fault(429)] * 4, BackendUnavailableError, "try again later"),
    "too many for an hour": ([Fault(429, headers={"Retry-After": "3600"})], BackendUnavailableError, "again later"),
    "broken": ([Fault(500)] * 2, BackendUnavailableError, "See its log"),
    "overloaded": ([Fault(503)] * 4, BackendUnavailableError, "See its log"),
    "slow": ([Fault(delay=0.6)], BackendTimeoutError, "read_timeout"),
    "dropped": ([Fault(drop=True)] * 4, BackendUnavailableError, "memlora serve"),
    "broken off": ([Fault(cut=True)] * 4, BackendUnavailableError, "memlora serve"),
    "another kind of server": ([Fault(raw="<html>")], BackendRequestError, "not JSON"),
}


@pytest.mark.parametrize("name", HTTP_FAULTS)
async def test_a_failing_server_leaves_the_turn_pending_until_it_is_back(server, memory, add, name) -> None:
    faults, kind, remedy = HTTP_FAULTS[name]
    server.fail(*faults)
    result = await add("I live in Porto.")
    [failure] = result.errors
    assert type(failure.error) is kind
    assert remedy in str(failure.error)
    assert failure.turn_ids == (result.pending[0].id,)
    assert [hit.text for hit in memory.search("Porto", scope=ANA)] == ["I live in Porto."]
    assert memory.flush().pending == ()
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Ana lives in Porto"]
    assert memory.count(scope=ANA)["turns"] == 1


REPLIES: dict[str, str | Reply] = {
    "prose": "Sure! Ana lives in Porto.",
    "nothing": "",
    "a thought without an end": '<think>{"facts": ["Ana lives in Porto"]}',
    "cut before the first fact": Reply('{"facts": ["Ana li', "length"),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_an_unreadable_reply_leaves_the_turn_pending(server, memory, add, name) -> None:
    server.reply("extraction", REPLIES[name], REPLIES[name], says("Ana lives in Porto"))
    result = await add("I live in Porto.")
    assert isinstance(result.errors[0].error, ReplyError)
    assert len(result.pending) == 1
    assert len(server.requests) == 2  # asked once more, not for ever
    assert memory.flush().pending == ()
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Ana lives in Porto"]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ('["Ana lives in Porto"]', False),
        (FENCED, False),
        ('{"facts": ["Ana lives in Porto", "Ana has a d', True),
        (Reply('{"facts": ["Ana lives in Porto", "Ana has a d', "length"), True),
    ],
)
async def test_what_can_be_read_of_a_reply_is_kept_and_a_loss_is_told(server, memory, add, reply, told) -> None:
    server.reply("extraction", reply)
    result = await add("I live in Porto.")
    assert [event.fact.text for event in result.events] == ["Ana lives in Porto"]
    assert result.pending == ()
    assert bool(result.errors) is told


@pytest.mark.parametrize(
    ("reply", "known"),
    [
        (decides(("77", "UPDATE", "Ana lives in Lisbon")), {"Ana lives in Porto", "Ana lives in Lisbon"}),
        (decides(("0", "DELETE", "Ana lives in Porto")), {"Ana lives in Lisbon"}),
        ('{"memory": []}', {"Ana lives in Porto", "Ana lives in Lisbon"}),
    ],
    ids=["an unknown id", "a delete without its replacement", "nothing decided"],
)
async def test_no_decision_loses_the_new_fact(server, memory, add, reply, known) -> None:
    server.reply("extraction", says("Ana lives in Porto"), says("Ana lives in Lisbon"))
    server.reply("update", reply)
    await add("I live in Porto.")
    assert (await add("I live in Lisbon.")).pending == ()
    assert {fact.text for fact in memory.facts(scope=ANA)} == known


async def test_a_server_that_is_killed_in_the_middle_of_an_add(server, memory, add) -> None:
    server.reply("extraction", lambda body: server.fail(*[Fault(drop=True)] * 100) or says("Ana lives in Porto"))
    first = await add("I live in Porto.")
    assert (len(first.events), first.pending) == (1, ())
    second = await add("I have a cat.")
    assert isinstance(second.errors[0].error, BackendUnavailableError)
    with pytest.raises(BackendUnavailableError):
        memory.answer("Where?", scope=ANA)
    assert memory.count(scope=ANA) == {"facts": 1, "retired": 0, "turns": 2, "pending": 1}


async def test_a_restart_without_the_adapters_is_told_and_never_answered_by_the_base_model(server, memory, add) -> None:
    server.restart()  # these adapters are known by name only, so they cannot be loaded again
    result = await add("I live in Porto.")
    assert isinstance(result.errors[0].error, AdapterError)
    assert all(body["model"] != "base" for body in server.requests)
    server.adapters |= {expert: f"/{expert}" for expert in EXPERTS}
    assert memory.flush().pending == ()


async def test_answers_fail_typed_and_streams_do_not_pretend_to_be_whole(server, memory) -> None:
    memory.add([Message("user", "I live in Porto.")], scope=ANA, distil=False)
    server.fail(Fault(400))
    with pytest.raises(BackendError):
        memory.answer("Where?", scope=ANA)
    server.fail(Fault(cut=True))
    with pytest.raises(BackendUnavailableError, match="broke off"):
        list(memory.stream("Where?", scope=ANA))
    server.reply("generation", "")
    with pytest.raises(MemloraError, match="said nothing"):
        memory.answer("Where?", scope=ANA)
