"""The backend on the real vLLM server: three random-weight experts over the tiny model.

The last tests kill and restart the server; they share one restart, so their order matters.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest
from tiny_model import make_adapter

from memlora_plugins import Hit, Memory, Message, Scope
from memlora_plugins.errors import (
    AdapterInvalidError,
    AdapterNotLoadedError,
    BackendRequestError,
    BackendTimeoutError,
    BackendUnavailableError,
    PromptTooLongError,
    ReplyError,
)
from memlora_plugins.experts import clauses, spans
from memlora_plugins.experts.extraction import Exchange
from memlora_plugins.serving.base import Completion, Request
from memlora_plugins.serving.vllm import VLLMBackend

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

EXPERTS = ("extraction", "update", "generation")
FACTS = {
    "type": "object",
    "properties": {"facts": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 40}}},
    "required": ["facts"],
    "additionalProperties": False,
}
ANA = Scope("ana")
EVENT = {"type": "string", "enum": ["ADD", "UPDATE", "DELETE", "NONE"]}
OPERATIONS = {
    "type": "object",
    "properties": {
        "memory": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"id": {"type": "string", "maxLength": 3}, "event": EVENT},
                "required": ["id", "event"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["memory"],
    "additionalProperties": False,
}


def ask(expert: str, text: str = "I moved to Lisbon in May.", **options) -> Request:
    return Request(expert, [{"role": "user", "content": text}], **{"max_tokens": 24} | options)


def served(server) -> dict[str, str | None]:
    cards = httpx.get(f"{server.base_url}/v1/models", trust_env=False).json()["data"]
    return {card["id"]: card["parent"] for card in cards}


@pytest.fixture
def backend(vllm_server, tiny_model):
    """Adapters by folder: loaded at run time under content-hash names."""
    backend = VLLMBackend(vllm_server.base_url, vllm_server.model, tiny_model.adapters)
    yield backend
    backend.close()


def test_every_expert_answers_with_its_own_adapter(vllm_server, backend):
    replies = {expert: backend.complete(ask(expert)) for expert in (*EXPERTS, "vision")}
    assert {expert: reply.model for expert, reply in replies.items()} == {**backend.adapters, "vision": "tiny"}
    assert len({reply.text for reply in replies.values()}) == 4
    assert all(reply.usage.input_tokens > 5 and reply.usage.output_tokens > 0 for reply in replies.values())
    assert all(served(vllm_server)[name] == "tiny" for name in backend.adapters.values())


def test_adapters_named_at_the_start_are_the_same_adapters(vllm_server, backend):
    named = VLLMBackend(vllm_server.base_url, vllm_server.model, {expert: expert for expert in EXPERTS})
    for expert in EXPERTS:
        assert named.complete(ask(expert)).text == backend.complete(ask(expert)).text
    named.close()


@pytest.mark.parametrize("expert", ["extraction", "vision"])
@pytest.mark.parametrize("text", ["I moved to Lisbon.", "Hi", "My sister has two cats and paints."])
def test_structured_output_follows_its_schema(backend, expert, text):
    reply = backend.complete(ask(expert, text, schema=FACTS, max_tokens=600))
    assert reply.finish_reason == "stop"
    facts = json.loads(reply.text)
    assert list(facts) == ["facts"]
    assert len(facts["facts"]) <= 3
    assert all(isinstance(fact, str) and len(fact) <= 40 for fact in facts["facts"])


def test_structured_output_of_operations(backend):
    reply = backend.complete(ask("update", schema=OPERATIONS, max_tokens=300))
    assert all(set(item) == {"id", "event"} for item in json.loads(reply.text)["memory"])
    assert not any(space in reply.text.replace('" ', "").partition("[")[0] for space in " \n\t")


@pytest.mark.parametrize(
    "text",
    [
        "Well, I moved to Porto two days ago, and my sister Ana is a nurse!",
        'I say "hello {x} (y) [z] a\\b" to my dog.\nMy name is José – I code in C++ | C#.',
        "I live in Porto with my dog. Sorry, I meant Lisbon, not Porto.",
        "I and you " * 30,
    ],
    ids=["a day", "signs", "a correction", "a long clause"],
)
def test_facts_are_held_to_the_clauses_of_the_message(backend, text):
    schema = clauses.schema(Exchange(text, date=datetime(2025, 6, 15, tzinfo=UTC)))
    facts = {**schema["properties"]["facts"], "minItems": 1, "maxItems": 1}
    asked = ask("extraction", text, schema={**schema, "properties": {"facts": facts}}, max_tokens=900)
    reply = backend.complete(asked)
    assert reply.finish_reason == "stop"
    [fact] = json.loads(reply.text)["facts"]
    assert re.search(facts["items"]["pattern"], fact)


def test_a_message_without_a_clause_tells_no_fact(backend):
    reply = backend.complete(ask("extraction", schema=clauses.schema(Exchange("Where do I live?")), max_tokens=60))
    assert json.loads(reply.text) == {"facts": []}


@pytest.mark.parametrize("said", ["I moved to Porto, by bus, with C++ and a dog (Rex).", "", "Ana & Éric: 5% $^*"])
def test_a_plain_reply_is_held_to_words_of_the_memories(backend, said):
    hit = Hit(kind="turn", text=said, score=1.0, id="1", created_at=datetime(2025, 6, 15, tzinfo=UTC), role="user")
    pattern = spans.pattern([hit])
    reply = backend.complete(ask("generation", said or "Hello", pattern=pattern, max_tokens=200))
    assert reply.finish_reason == "stop"
    assert re.fullmatch(pattern, reply.text)


def test_truncation_is_told(backend):
    reply = backend.complete(ask("extraction", schema=FACTS, max_tokens=6))
    assert (reply.finish_reason, reply.usage.output_tokens) == ("length", 6)


async def test_streams_end_with_the_whole_reply(backend):
    request = ask("generation", max_tokens=64)
    *pieces, last = list(backend.stream(request))
    assert len(pieces) > 5
    assert "".join(pieces) == last.text
    assert last == backend.complete(request)
    assert [piece async for piece in backend.astream(request)][-1] == last
    await backend.aclose()


async def test_32_clients_over_mixed_adapters(backend):
    """Each of 32 concurrent requests is answered by its own adapter, in its own schema."""
    schemas = {"extraction": FACTS, "update": OPERATIONS, "generation": None}
    requests = [ask(EXPERTS[i % 3], f"Fact number {i}.", schema=schemas[EXPERTS[i % 3]]) for i in range(32)]
    replies = await asyncio.gather(*(backend.acomplete(request) for request in requests))
    assert [reply.model for reply in replies] == [backend.adapters[request.expert] for request in requests]
    assert {reply.text[:9] for reply in replies[0::3]} == {'{"facts":'}
    assert {reply.text[:10] for reply in replies[1::3]} == {'{"memory":'}
    with ThreadPoolExecutor(32) as pool:
        assert [reply.model for reply in pool.map(backend.complete, requests)] == [reply.model for reply in replies]
    await backend.aclose()


def test_requests_the_server_refuses(backend):
    with pytest.raises(BackendRequestError, match=r"400.*max_tokens"):
        backend.complete(ask("extraction", max_tokens=99_999))
    with pytest.raises(BackendRequestError, match=r"400.*context length"):
        backend.complete(ask("extraction", "word " * 9_000))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(BackendRequestError, match="multimodal"):
        backend.complete(Request("vision", [{"role": "user", "content": [image]}]))


def test_a_reply_that_takes_too_long(vllm_server):
    hasty = VLLMBackend(vllm_server.base_url, vllm_server.model, read_timeout=0.5)
    os.killpg(vllm_server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(BackendTimeoutError):
            hasty.complete(ask("generation"))
    finally:
        os.killpg(vllm_server.pid, signal.SIGCONT)
        hasty.close()


def test_adapters_that_cannot_be_loaded(vllm_server, tiny_model, tmp_path):
    url, model = vllm_server.base_url, vllm_server.model
    big = make_adapter(tiny_model.path, tmp_path / "big", rank=64)
    for adapter, what in ((big, "rank 64"), ("nope", "does not serve")):
        backend = VLLMBackend(url, model, {"extraction": adapter})
        with pytest.raises(AdapterNotLoadedError, match=what):
            backend.complete(ask("extraction"))
        assert backend.complete(ask("generation")).model == model  # the server is none the worse
        backend.close()
    with pytest.raises(AdapterInvalidError, match="larger --max-lora-rank"):
        VLLMBackend(url, model, {"extraction": big}, max_lora_rank=8)


def test_swapping_an_adapter_under_load(vllm_server, tiny_model, tmp_path):
    old_folder = shutil.copytree(tiny_model.adapters["extraction"], tmp_path / "old")
    new_folder = make_adapter(tiny_model.path, tmp_path / "new", seed=99)
    backend = VLLMBackend(vllm_server.base_url, vllm_server.model, {"extraction": old_folder})
    # Another seed of its own, so that unloading does not take it from the other tests.
    make_adapter(tiny_model.path, old_folder, seed=98)
    backend.swap_adapter("extraction", old_folder)
    old = backend.complete(ask("extraction"))
    done = threading.Event()

    def keep_asking() -> list[Completion]:
        replies = []
        while not done.is_set():
            replies.append(backend.complete(ask("extraction")))
        return [*replies, backend.complete(ask("extraction"))]

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking) for _ in range(4)]
        name = backend.swap_adapter("extraction", new_folder)
        shutil.rmtree(old_folder)
        done.set()
        replies = [reply for future in asking for reply in future.result()]
    assert {reply.model for reply in replies} <= {old.model, name}
    assert {future.result()[-1].model for future in asking} == {name}
    assert backend.complete(ask("extraction")).text != old.text
    assert name in served(vllm_server)
    assert old.model not in served(vllm_server)
    backend.close()


# From here on the server is killed, and started again once ------------------------------------------------------------


@pytest.fixture(scope="module")
def open_memory(vllm_server, tiny_model, tmp_path_factory):
    """Opens the same memory again and again."""
    folder = tmp_path_factory.mktemp("memory")
    adapters = {expert: str(path) for expert, path in tiny_model.adapters.items()}
    options = {"base_url": vllm_server.base_url, "model": vllm_server.model, "adapters": adapters, "resume": False}
    return lambda: Memory.open(path=folder, **options)


async def test_killed_in_the_middle_of_calls(vllm_server, tiny_model, open_memory):
    memory = open_memory()
    said = [Message("user", f"I have {n} cats and I live in Lisbon.") for n in range(24)]
    backend = VLLMBackend(vllm_server.base_url, vllm_server.model, tiny_model.adapters, extra_body={"ignore_eos": True})
    streamed, whole = await frozen_in_the_middle(backend, vllm_server.pid)
    adding = asyncio.ensure_future(asyncio.to_thread(memory.add, said, scope=ANA))
    await asyncio.sleep(0.5)
    os.killpg(vllm_server.pid, signal.SIGKILL)
    result = await adding
    assert {type(failure.error) for failure in result.errors} == {BackendUnavailableError}
    assert (len(result.turns), memory.count(scope=ANA)["turns"]) == (24, 24)
    assert len(result.pending) == memory.count(scope=ANA)["pending"] == 24
    await memory.aio.close()
    with pytest.raises(BackendUnavailableError, match="broke off in the middle"):
        await streamed
    with pytest.raises(BackendUnavailableError, match="memlora serve"):
        await whole
    assert not vllm_server.running
    await backend.aclose()


async def frozen_in_the_middle(backend, pid):
    """A streamed and a whole reply under way, and the server's processes stopped so that neither can end."""
    long = ask("generation", max_tokens=3_500, temperature=1.0)  # greedy, it may repeat half a character for ever
    for _ in range(10):
        begun = asyncio.Event()
        streamed = asyncio.ensure_future(read_all(backend.astream(long), begun))
        whole = asyncio.ensure_future(backend.acomplete(long))
        await begun.wait()
        os.killpg(pid, signal.SIGSTOP)
        await asyncio.sleep(0.5)  # what was sent before has arrived now
        if not (streamed.done() or whole.done()):
            return streamed, whole
        os.killpg(pid, signal.SIGCONT)  # too late: one of them had been answered to its end
        await asyncio.gather(streamed, whole)
    pytest.fail("no reply could be stopped before its end")


async def read_all(stream, begun):
    try:
        async for _ in stream:
            begun.set()
    finally:
        begun.set()


async def test_restarted_without_its_dynamic_adapters(vllm_server, tiny_model):
    backend = VLLMBackend(vllm_server.base_url, vllm_server.model, tiny_model.adapters)
    vllm_server.start()
    assert not set(backend.adapters.values()) & set(served(vllm_server))
    requests = [ask(EXPERTS[i % 3], f"Fact number {i}.") for i in range(12)]
    replies = await asyncio.gather(*(backend.acomplete(request) for request in requests))
    assert [reply.model for reply in replies] == [backend.adapters[request.expert] for request in requests]
    await backend.aclose()


async def test_what_the_killed_server_left_is_distilled(vllm_server, open_memory):
    memory = open_memory()
    flushed = await memory.aio.flush()
    counts = memory.count(scope=ANA)
    # Random weights may not come to an end, or note facts that are too long to be compared.
    assert {type(failure.error) for failure in flushed.errors} <= {ReplyError, PromptTooLongError}
    assert (counts["turns"], counts["pending"]) == (24, len(flushed.pending))
    assert counts["pending"] < 24
    await memory.aio.close()
