"""Adapters on a server: loaded on first use, again after a restart, swapped in flight, never replaced by the base."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from adapter_files import write_adapter
from fake_server import FakeModelServer, Fault, Reply

from memlora_plugins.errors import (
    AdapterInvalidError,
    AdapterNotLoadedError,
    BackendRequestError,
    BackendUnavailableError,
)
from memlora_plugins.serving.base import Backend, Request
from memlora_plugins.serving.vllm import VLLMBackend

EXTRACT = Request("extraction", [{"role": "user", "content": "I moved to Lisbon"}], schema={"type": "object"})
SAY = Request("generation", [{"role": "user", "content": "Where do I live?"}])


@pytest.fixture
def folder(tmp_path):
    return write_adapter(tmp_path / "extraction")


@pytest.fixture
def backend(fake_server, world, folder) -> VLLMBackend:
    return world.open(VLLMBackend(fake_server.base_url, "base", {"extraction": folder}, backoff=0.001))


def loads(server: FakeModelServer) -> int:
    return server.paths.count("/v1/load_lora_adapter")


async def test_a_plain_reply_is_asked_for_by_its_pattern(fake_server, backend, world):
    await world.complete(backend, replace(SAY, pattern="Porto|Rome"))
    await world.complete(backend, replace(EXTRACT, pattern="Porto|Rome"))  # a schema says more
    held, free = fake_server.requests
    assert held["structured_outputs"] == {"regex": "Porto|Rome"}
    assert "structured_outputs" not in free


async def test_an_adapter_is_loaded_when_first_used(fake_server, backend, world, folder):
    name = backend.adapters["extraction"]
    assert isinstance(backend, Backend)
    assert (backend.prompt_style("extraction"), backend.prompt_style("update")) == ("short", "full")
    assert name in backend.describe()
    assert (await world.complete(backend, EXTRACT)).model == name
    assert (await world.stream(backend, EXTRACT))[-1].model == name
    assert fake_server.adapters == {name: str(folder)}
    assert loads(fake_server) == 1


async def test_an_expert_without_an_adapter_is_the_base_model(fake_server, backend, world):
    assert (await world.complete(backend, SAY)).model == "base"
    assert loads(fake_server) == 0


async def test_an_adapter_the_server_already_has_is_used(fake_server, world, folder):
    fake_server.adapters["memo-7"] = "/anywhere"
    backend = world.open(VLLMBackend(fake_server.base_url, "base", {"extraction": "memo-7"}))
    assert (await world.complete(backend, EXTRACT)).model == "memo-7"
    assert loads(fake_server) == 0


async def test_two_backends_may_load_the_same(fake_server, world, folder):
    for _ in range(2):
        backend = world.open(VLLMBackend(fake_server.base_url, "base", {"extraction": folder}))
        await world.complete(backend, EXTRACT)
    assert loads(fake_server) == 1


async def test_already_loaded_is_fine(fake_server, backend, world):
    name = backend.adapters["extraction"]
    fake_server.adapters[name] = "/x"
    fake_server.lists_models = {"data": []}  # another process loads it between the look and the load
    assert (await world.complete(backend, EXTRACT)).model == name


@pytest.mark.parametrize("streaming", [False, True])
async def test_adapters_come_back_after_a_restart(fake_server, backend, world, streaming):
    ask = world.stream if streaming else world.complete
    await ask(backend, EXTRACT)
    fake_server.restart()
    await ask(backend, EXTRACT)
    await ask(backend, EXTRACT)
    assert loads(fake_server) == 2


async def test_many_callers_reload_once(fake_server, backend, world):
    await world.complete(backend, EXTRACT)
    fake_server.restart()
    if world.asynchronous:
        await asyncio.gather(*(backend.acomplete(EXTRACT) for _ in range(16)))
    else:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(backend.complete, [EXTRACT] * 16))
    assert loads(fake_server) == 2


async def test_sync_and_async_callers_meet_on_one_loop(fake_server, folder):
    """A sync call on the loop's own thread must not wait for a task of that loop that is loading the same adapter."""
    backend = VLLMBackend(fake_server.base_url, "base", {"extraction": folder})
    task = asyncio.ensure_future(backend.acomplete(EXTRACT))
    await asyncio.sleep(0)  # the task starts, and takes its loop's lock
    assert backend.complete(EXTRACT).model == backend.adapters["extraction"]
    assert (await task).model == backend.adapters["extraction"]
    await backend.aclose()


async def test_a_name_the_server_does_not_know(fake_server, world):
    fake_server.adapters["other"] = "/other"
    backend = world.open(VLLMBackend(fake_server.base_url, "base", {"extraction": "nope"}))
    with pytest.raises(AdapterNotLoadedError, match=r"'nope' \(it has: other\)"):
        await world.complete(backend, EXTRACT)
    assert fake_server.requests == []


async def test_a_base_model_is_no_adapter(fake_server, world):
    with pytest.raises(AdapterInvalidError, match="base model's name"):
        VLLMBackend(fake_server.base_url, "base", {"extraction": "base"})
    fake_server.lists_models = {"data": [{"id": "base", "parent": None}, {"id": "alias", "parent": None}]}
    backend = world.open(VLLMBackend(fake_server.base_url, "base", {"extraction": "alias"}))
    with pytest.raises(AdapterNotLoadedError, match="alias is a base model"):
        await world.complete(backend, EXTRACT)
    assert fake_server.requests == []


async def test_an_answer_of_another_model_is_dropped(fake_server, backend, world):
    fake_server.reply("extraction", Reply("{}", model="base"))
    with pytest.raises(AdapterNotLoadedError, match="answered with base"):
        await world.complete(backend, EXTRACT)
    with pytest.raises(AdapterNotLoadedError, match="answered with base"):
        await world.stream(backend, EXTRACT)


async def test_listed_but_not_answering(fake_server, backend, world):
    fake_server.fail(*[Fault(404, "does not exist", param="model")] * 2)
    with pytest.raises(AdapterNotLoadedError, match="lists adapter"):
        await world.complete(backend, EXTRACT)
    assert len(fake_server.requests) == 2


async def test_an_unknown_base_model(fake_server, world, folder):
    backend = world.open(VLLMBackend(fake_server.base_url, "nope", {"extraction": folder}))
    with pytest.raises(BackendRequestError, match="`nope` does not exist"):
        await world.complete(backend, SAY)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ((500, "LoRA rank 64 is greater than max_lora_rank 16."), "rank 64"),
        ((404, "No adapter found for /x"), "cannot see the folder"),
        ((400, "conflicts with a served base model"), "conflicts"),
        ((500, ""), "status 500"),
    ],
)
async def test_the_server_refuses_the_adapter(fake_server, backend, world, answer, what):
    fake_server.load_answer = answer
    with pytest.raises(AdapterNotLoadedError, match=what):
        await world.complete(backend, EXTRACT)
    assert loads(fake_server) == 1
    assert fake_server.requests == []


async def test_run_time_loading_is_off(fake_server, backend, world):
    fake_server.runtime_loading = False
    with pytest.raises(AdapterNotLoadedError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        await world.complete(backend, EXTRACT)


async def test_no_list_of_models(fake_server, backend, world):
    fake_server.lists_models = ["base"]
    with pytest.raises(BackendRequestError, match="no list of models"):
        await world.complete(backend, EXTRACT)


async def test_files_changed_before_the_load(fake_server, backend, world, folder):
    write_adapter(folder, seed=5)
    with pytest.raises(AdapterInvalidError, match="changed"):
        await world.complete(backend, EXTRACT)
    assert loads(fake_server) == 0


def test_bad_adapters_are_refused_at_once(tmp_path, folder):
    with pytest.raises(AdapterInvalidError, match="no adapter folder"):
        VLLMBackend("http://127.0.0.1:1", "base", {"extraction": tmp_path / "nope"})
    write_adapter(folder, r=32)
    with pytest.raises(AdapterInvalidError, match="rank 32"):
        VLLMBackend("http://127.0.0.1:1", "base", {"extraction": folder}, max_lora_rank=16)


def test_another_base_models_name_is_warned_of(folder, caplog):
    VLLMBackend("http://127.0.0.1:1", "org/other", {"extraction": folder})
    assert "trained on org/base, the server runs org/other" in caplog.text


async def test_vllm_is_absent(world, folder):
    with FakeModelServer() as gone:
        url = gone.base_url
    backend = world.open(VLLMBackend(url, "base", {"extraction": folder}, backoff=0.001))
    with pytest.raises(BackendUnavailableError, match=rf"{url}.*memlora serve"):
        await world.complete(backend, EXTRACT)


# Swapping -----------------------------------------------------------------------------------------------------------


async def test_swap_loads_switches_and_unloads(fake_server, backend, world, tmp_path):
    await world.complete(backend, EXTRACT)
    old = backend.adapters["extraction"]
    new = await world.swap(backend, "extraction", write_adapter(tmp_path / "new", seed=2))
    assert new != old
    assert (await world.complete(backend, EXTRACT)).model == new
    assert list(fake_server.adapters) == [new]


def test_swap_waits_for_requests_in_flight(fake_server, folder, tmp_path):
    backend = VLLMBackend(fake_server.base_url, "base", {"extraction": folder})
    old = backend.complete(EXTRACT).model
    asked, released = threading.Event(), threading.Event()

    def slow(body):
        asked.set()
        released.wait(5)
        return "{}"

    fake_server.reply("extraction", slow)
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(backend.complete, EXTRACT)
        asked.wait(5)
        swapping = pool.submit(backend.swap_adapter, "extraction", write_adapter(tmp_path / "new", seed=2))
        while backend.adapters["extraction"] == old:
            time.sleep(0.01)
        assert old in fake_server.adapters
        released.set()
        assert asking.result().model == old
        assert swapping.result() == backend.adapters["extraction"]
    assert old not in fake_server.adapters
    backend.close()


async def test_swapping_back_while_draining_keeps_the_first(fake_server, folder, tmp_path):
    backend = VLLMBackend(fake_server.base_url, "base", {"extraction": folder})
    old = (await backend.acomplete(EXTRACT)).model
    with backend._lease("extraction"):
        new = write_adapter(tmp_path / "new", seed=2)
        swapping = asyncio.ensure_future(backend.aswap_adapter("extraction", new))
        await asyncio.sleep(0.2)  # it waits for the lease
        await backend.aswap_adapter("extraction", folder)
    await swapping
    assert list(fake_server.adapters) == [old]
    assert (await backend.acomplete(EXTRACT)).model == old
    await backend.aclose()


async def test_swap_gives_up_waiting(fake_server, world, folder, tmp_path, caplog):
    backend = world.open(VLLMBackend(fake_server.base_url, "base", {"extraction": folder}, read_timeout=0.1))
    await world.complete(backend, EXTRACT)
    old = backend.adapters["extraction"]
    with backend._lease("extraction"), caplog.at_level(logging.WARNING):
        await world.swap(backend, "extraction", write_adapter(tmp_path / "new", seed=2))
    assert old in fake_server.adapters
    assert "still in use" in caplog.text


async def test_a_failed_swap_changes_nothing(fake_server, backend, world, tmp_path):
    await world.complete(backend, EXTRACT)
    before = backend.adapters
    with pytest.raises(AdapterInvalidError):
        await world.swap(backend, "extraction", tmp_path / "nope")
    fake_server.load_answer = (500, "no")
    with pytest.raises(AdapterNotLoadedError):
        await world.swap(backend, "extraction", write_adapter(tmp_path / "new", seed=2))
    assert backend.adapters == before
    assert (await world.complete(backend, EXTRACT)).model == before["extraction"]


async def test_swapping_to_the_same_contents_keeps_it(fake_server, backend, world, tmp_path):
    await world.complete(backend, EXTRACT)
    name = await world.swap(backend, "extraction", write_adapter(tmp_path / "copy"))
    assert list(fake_server.adapters) == [name]


async def test_an_expert_gets_its_first_adapter(fake_server, backend, world, tmp_path):
    name = await world.swap(backend, "update", write_adapter(tmp_path / "update"))
    assert backend.prompt_style("update") == "short"
    assert name in fake_server.adapters


async def test_adapters_of_the_server_are_not_unloaded(fake_server, world, folder):
    fake_server.adapters["static"] = "/static"
    backend = world.open(VLLMBackend(fake_server.base_url, "base", {"extraction": "static"}))
    await world.swap(backend, "extraction", folder)
    assert "static" in fake_server.adapters
