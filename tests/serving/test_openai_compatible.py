"""A plain endpoint as a backend: what is sent, how replies are read, and every fault a server can have."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from fake_server import FakeModelServer, Fault, Reply
from pydantic import SecretStr

from memlora_plugins.errors import (
    BackendRequestError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    PromptTooLongError,
    SettingsError,
)
from memlora_plugins.serving import http
from memlora_plugins.serving.base import Backend, Completion, Request
from memlora_plugins.serving.openai_compatible import OpenAIBackend
from memlora_plugins.types import Usage

SCHEMA = {"type": "object", "properties": {"facts": {"type": "array"}}}
ASK = Request("extraction", [{"role": "user", "content": "I moved to Lisbon"}], schema=SCHEMA, max_tokens=99)
SAY = Request("generation", [{"role": "user", "content": "Where do I live?"}])


@pytest.fixture
def backend(fake_server: FakeModelServer, world) -> OpenAIBackend:
    return world.open(OpenAIBackend(fake_server.base_url, "base", api_key="s3cret", read_timeout=0.5, backoff=0.001))


def test_is_a_backend(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base", models={"update": "other"})
    assert isinstance(backend, Backend)
    assert backend.prompt_style("extraction") == "full"
    assert "other" in backend.describe()
    backend.close()
    backend.close()


# What is sent and read ----------------------------------------------------------------------------------------------


async def test_reply_carries_text_usage_and_model(fake_server, backend, world):
    fake_server.reply("extraction", '{"facts": ["moved to Lisbon"]}')
    reply = await world.complete(backend, ASK)
    assert reply == Completion('{"facts": ["moved to Lisbon"]}', "stop", Usage(1, 4, 4), "base")


async def test_request_is_in_the_openai_form(fake_server, backend, world):
    await world.complete(backend, ASK)
    assert fake_server.requests == [
        {
            "model": "base",
            "messages": [{"role": "user", "content": "I moved to Lisbon"}],
            "temperature": 0.0,
            "max_tokens": 99,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "extraction", "schema": SCHEMA, "strict": True},
            },
        }
    ]
    assert fake_server.headers["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize(("mode", "sent"), [("json_object", {"type": "json_object"}), ("none", None)])
async def test_structured_output_modes(fake_server, world, mode, sent):
    backend = world.open(OpenAIBackend(fake_server.base_url, "base", structured_output=mode))
    await world.complete(backend, ASK)
    assert fake_server.requests[0].get("response_format") == sent


async def test_plain_text_asks_for_no_format(fake_server, backend, world):
    await world.complete(backend, SAY)
    assert "response_format" not in fake_server.requests[0]


async def test_each_expert_may_have_a_model_of_its_own(fake_server, world):
    fake_server.adapters["big"] = "/big"
    backend = world.open(OpenAIBackend(fake_server.base_url, "base", models={"extraction": "big"}))
    assert (await world.complete(backend, ASK)).model == "big"
    assert (await world.complete(backend, SAY)).model == "base"


async def test_extra_body_adds_and_removes_fields(fake_server, world):
    extra = {"max_tokens": None, "max_completion_tokens": 7}
    backend = world.open(OpenAIBackend(fake_server.base_url, "base", extra_body=extra))
    await world.complete(backend, SAY)
    assert "max_tokens" not in fake_server.requests[0]
    assert fake_server.requests[0]["max_completion_tokens"] == 7


async def test_images_pass_through(fake_server, backend, world):
    content = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    ]
    await world.complete(backend, Request("vision", [{"role": "user", "content": content}]))
    assert fake_server.requests[0]["messages"][0]["content"] == content


async def test_lone_surrogates_are_replaced(fake_server, backend, world):
    await world.complete(backend, Request("generation", [{"role": "user", "content": "broken \ud83d"}]))
    assert fake_server.requests[0]["messages"][0]["content"] == "broken \ufffd"


async def test_it_tells_how_likely_its_tokens_were(fake_server, backend, world):
    fake_server.reply("generation", Reply("Porto", logprobs=(-0.5, 0.0, -2.25)))
    sure = replace(SAY, logprobs=True)
    assert (await world.complete(backend, sure)).logprobs == (-0.5, 0.0, -2.25)
    assert (await world.stream(backend, sure))[-1].logprobs == (-0.5, 0.0, -2.25)
    assert [body["logprobs"] for body in fake_server.requests] == [True, True]
    assert (await world.complete(backend, SAY)).logprobs is None
    assert "logprobs" not in fake_server.requests[-1]


@pytest.mark.parametrize(
    "odd",
    [
        None,
        {},
        "none",
        {"content": None},
        {"content": ["a"]},
        {"content": [{"token": "a"}]},
        {"content": [{"logprob": "-1"}]},
        {"content": [{"logprob": float("nan")}]},
        {"token_logprobs": [-1]},
    ],
)
async def test_a_server_that_does_not_tell_how_likely_they_were(fake_server, backend, world, odd):
    fake_server.reply("generation", Reply("Porto", odd_logprobs=odd))
    sure = replace(SAY, logprobs=True)
    assert (await world.complete(backend, sure)).logprobs is None
    assert (await world.stream(backend, sure))[-1].logprobs is None


async def test_truncation_is_visible(fake_server, backend, world):
    fake_server.reply("generation", Reply("and then", "length"))
    assert (await world.complete(backend, SAY)).finish_reason == "length"
    assert (await world.stream(backend, SAY))[-1].finish_reason == "length"


async def test_null_content_is_empty_text(fake_server, backend, world):
    fake_server.fail(Fault(raw='{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}'))
    assert await world.complete(backend, SAY) == Completion("", "stop", Usage(1), "base")


# Streams ------------------------------------------------------------------------------------------------------------


async def test_stream_yields_pieces_then_the_whole(fake_server, backend, world):
    fake_server.reply("generation", Reply("In Lisbon since May", pieces=("In Lisbon", " since", " May")))
    *pieces, last = await world.stream(backend, SAY)
    assert pieces == ["In Lisbon", " since", " May"]
    assert last == Completion("In Lisbon since May", "stop", Usage(1, 4, 4), "base")
    assert fake_server.requests[0]["stream_options"] == {"include_usage": True}


async def test_stream_keeps_unicode_line_separators(fake_server, backend, world):
    fake_server.reply("generation", Reply("a\u2028b\x85c\x1ed", pieces=("a\u2028b\x85", "c\x1ed")))
    assert (await world.stream(backend, SAY))[-1].text == "a\u2028b\x85c\x1ed"


async def test_stream_broken_off(fake_server, backend, world):
    fake_server.fail(Fault(cut=True))
    with pytest.raises(BackendUnavailableError, match="broke off in the middle"):
        await world.stream(backend, SAY)
    assert len(fake_server.requests) == 1  # what was said already cannot be taken back, so no second try


async def test_stream_without_finish_reason(fake_server, backend, world):
    fake_server.reply("generation", Reply("half", finish_reason=None))
    with pytest.raises(BackendUnavailableError, match="finish reason"):
        await world.stream(backend, SAY)


@pytest.mark.parametrize("raw", ["data: {", "data: []\n"])
async def test_stream_of_something_else(fake_server, backend, world, raw):
    fake_server.fail(Fault(raw=raw))
    with pytest.raises(BackendRequestError, match="not an OpenAI-style"):
        await world.stream(backend, SAY)


@pytest.mark.parametrize("raw", ['data: {"error": {"message": "engine died"}}\n', 'data: {"error": "engine died"}'])
async def test_error_inside_a_stream(fake_server, backend, world, raw):
    fake_server.fail(Fault(raw=raw))
    with pytest.raises(BackendUnavailableError, match="engine died"):
        await world.stream(backend, SAY)


async def test_stream_is_opened_again_after_503(fake_server, backend, world):
    fake_server.fail(Fault(503), Fault(drop=True))
    assert (await world.stream(backend, SAY))[-1].text == "I do not know."


def test_a_stream_may_be_left_early(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base")
    fake_server.reply("generation", Reply("abc" * 100))
    pieces = backend.stream(SAY)
    assert next(pieces) == "abca"
    pieces.close()
    assert backend.complete(SAY).text == "abc" * 100
    backend.close()


async def test_an_async_stream_may_be_left_early_or_cancelled(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base")
    pieces = backend.astream(SAY)
    assert await anext(pieces) == "I do"
    await pieces.aclose()
    fake_server.fail(Fault(delay=5))
    task = asyncio.ensure_future(anext(backend.astream(SAY)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await backend.acomplete(SAY)).text == "I do not know."
    await backend.aclose()


# Faults -------------------------------------------------------------------------------------------------------------


async def test_nobody_there(world):
    with FakeModelServer() as gone:
        url = gone.base_url
    backend = world.open(OpenAIBackend(url, "base", backoff=0.001))
    with pytest.raises(BackendUnavailableError, match=url):
        await world.complete(backend, SAY)


@pytest.mark.parametrize("fault", [Fault(503), Fault(502), Fault(drop=True), Fault(cut=True), Fault(429)])
async def test_passing_faults_are_retried_three_times(fake_server, backend, world, fault):
    fake_server.fail(fault, fault, fault)
    assert (await world.complete(backend, SAY)).text == "I do not know."
    fake_server.fail(fault, fault, fault, fault)
    with pytest.raises(BackendUnavailableError):
        await world.complete(backend, SAY)
    assert len(fake_server.requests) == 8


async def test_500_is_retried_once_if_the_server_is_healthy(fake_server, backend, world):
    fake_server.fail(Fault(500))
    assert (await world.complete(backend, SAY)).text == "I do not know."
    fake_server.fail(Fault(500), Fault(500))
    with pytest.raises(BackendUnavailableError, match=r"answered 500: something broke\. See its log"):
        await world.complete(backend, SAY)
    assert len(fake_server.requests) == 4


async def test_500_is_not_retried_on_a_dead_engine(fake_server, backend, world):
    fake_server.health = 503
    fake_server.fail(Fault(500))
    with pytest.raises(BackendUnavailableError):
        await world.complete(backend, SAY)
    assert len(fake_server.requests) == 1


async def test_500_of_a_server_that_then_dies(fake_server, backend, world):
    fake_server.health = 0
    fake_server.fail(Fault(500))
    with pytest.raises(BackendUnavailableError, match="answered 500"):
        await world.complete(backend, SAY)
    assert len(fake_server.requests) == 1


async def test_an_address_that_swallows_connections(world):
    """A listening socket whose backlog is full lets further connections wait for ever."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        backend = world.open(OpenAIBackend(url, "base", connect_timeout=0.05, backoff=0.001))
        with pytest.raises(BackendUnavailableError, match="ConnectTimeout"):
            await world.complete(backend, SAY)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_4xx_is_never_retried(fake_server, backend, world, status):
    fake_server.fail(Fault(status, "no"))
    with pytest.raises(BackendRequestError) as caught:
        await world.complete(backend, SAY)
    assert caught.value.status == status
    assert len(fake_server.requests) == 1


async def test_unknown_model_is_told(fake_server, world):
    backend = world.open(OpenAIBackend(fake_server.base_url, "nope"))
    with pytest.raises(BackendRequestError, match="`nope` does not exist"):
        await world.complete(backend, SAY)


@pytest.mark.parametrize("after", ["0.3", "date"])
async def test_retry_after_is_honoured(fake_server, backend, world, after):
    if after == "date":
        after = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    fake_server.fail(Fault(429, headers={"Retry-After": after}))
    started = time.monotonic()
    await world.complete(backend, SAY)
    assert time.monotonic() - started >= 0.29


async def test_unreadable_retry_after_is_ignored(fake_server, backend, world):
    fake_server.fail(Fault(429, headers={"Retry-After": "soon"}))
    assert (await world.complete(backend, SAY)).text == "I do not know."


async def test_too_long_a_retry_after_is_an_error(fake_server, backend, world):
    fake_server.fail(Fault(429, headers={"Retry-After": "3600"}))
    with pytest.raises(BackendUnavailableError, match="429"):
        await world.complete(backend, SAY)
    assert len(fake_server.requests) == 1


async def test_slow_server(fake_server, backend, world):
    fake_server.fail(Fault(delay=2))
    with pytest.raises(BackendTimeoutError, match="read_timeout"):
        await world.complete(backend, SAY)
    assert len(fake_server.requests) == 1


@pytest.mark.parametrize("raw", ["<html>", "[]", '{"choices": []}', '{"choices": [{"message": "hi"}]}'])
async def test_not_an_openai_server(fake_server, backend, world, raw):
    fake_server.fail(Fault(raw=raw))
    with pytest.raises(BackendRequestError, match="base_url"):
        await world.complete(backend, SAY)


async def test_redirects_are_not_followed(fake_server, backend, world):
    fake_server.fail(Fault(307, headers={"Location": "http://elsewhere/v1"}))
    with pytest.raises(BackendRequestError, match="http://elsewhere/v1"):
        await world.complete(backend, SAY)


@pytest.mark.parametrize(
    ("reason", "error"),
    [("content_filter", BackendRequestError), ("abort", BackendUnavailableError), ("error", BackendUnavailableError)],
)
async def test_replies_that_are_none(fake_server, backend, world, reason, error):
    fake_server.reply("generation", Reply("half", reason))
    with pytest.raises(error):
        await world.complete(backend, SAY)


@pytest.mark.parametrize("raw", ['{"error": "flat"}', "[1]", "<html>", '{"object": "error", "message": "flat"}'])
async def test_odd_error_bodies_are_readable(fake_server, backend, world, raw):
    fake_server.fail(Fault(418, raw=raw))
    with pytest.raises(BackendRequestError, match=r"418: (flat|I'm a Teapot)"):
        await world.complete(backend, SAY)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."),
        Fault(400, "The decoder prompt (length 4100) is longer than the maximum model length of 4096 tokens."),
        Fault(400, "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it"),
        Fault(413, "Input is too long for requested model."),
        Fault(422, "x" * 400 + " The messages have too many tokens."),
        Fault(400, raw='{"error": {"message": "No.", "code": "context_length_exceeded"}}'),
        Fault(400, raw='{"error": {"message": "No.", "type": "exceed_context_size_error", "code": 400}}'),
    ],
)
async def test_a_prompt_beyond_the_context_window_has_its_own_error(fake_server, backend, world, fault):
    fake_server.fail(fault)
    with pytest.raises(PromptTooLongError, match="lower max_tokens"):
        await world.complete(backend, SAY)


@pytest.mark.parametrize(
    "said",
    [
        "max_tokens is too large: 5000. This model supports at most 4096 completion tokens.",
        "Invalid 'user': string too long. Expected a string with maximum length 64.",
    ],
)
async def test_other_limits_are_no_matter_of_the_prompt(fake_server, backend, world, said):
    fake_server.fail(Fault(400, said))
    with pytest.raises(BackendRequestError) as caught:
        await world.complete(backend, SAY)
    assert not isinstance(caught.value, PromptTooLongError)


# Secrets ------------------------------------------------------------------------------------------------------------


async def test_the_key_stays_secret(fake_server, backend, world, caplog):
    caplog.set_level(logging.DEBUG)
    fake_server.fail(Fault(401, "Incorrect API key provided: s3cret. " + "x" * 999))
    with pytest.raises(BackendRequestError, match=r"\*\*\*.*Check api_key") as caught:
        await world.complete(backend, SAY)
    assert len(str(caught.value)) < 500
    fake_server.fail(Fault(503))
    await world.complete(backend, SAY)
    for place in (str(caught.value), repr(backend), repr(backend._transport), backend.describe(), caplog.text):
        assert "s3cret" not in place


def test_secret_strings_are_unwrapped_only_for_the_header(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base", api_key=SecretStr("s3cret"))
    backend.complete(SAY)
    assert fake_server.headers["authorization"] == "Bearer s3cret"
    backend.close()


@pytest.mark.parametrize("key", ["s3cret\n", "s3cret\r", "s3crét", SecretStr("s3cret\n")])
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(key):
    with pytest.raises(SettingsError, match="api_key") as caught:
        OpenAIBackend("http://127.0.0.1:9", "base", api_key=key)
    assert "s3cr" not in str(caught.value)


ADDRESSES = ["", "localhost:8000", "ftp://host", "http://", "http://h:port", None]
ADDRESSES += ["http://ana:pw@host", "ftp://ana:pw@host", "ana:pw@host", "http://ana:pw@h:port"]


@pytest.mark.parametrize("url", ADDRESSES)
def test_unusable_addresses(url):
    with pytest.raises(SettingsError, match="base_url") as caught:
        OpenAIBackend(url, "base")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("https://h/api/v3?x=1", "https://h/api/v3"),
    ],
)
def test_addresses_with_and_without_a_path(url, api):
    assert OpenAIBackend(url, "base")._transport.api_url == api


def test_unusable_settings():
    with pytest.raises(SettingsError, match="blank"):
        OpenAIBackend("http://h", " ")
    with pytest.raises(SettingsError, match="blank"):
        OpenAIBackend("http://h", "base", models={"update": ""})
    with pytest.raises(SettingsError, match="structured_output"):
        OpenAIBackend("http://h", "base", structured_output="xml")


def test_proxies_of_the_environment_are_not_used_on_loopback(fake_server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    backend = OpenAIBackend(fake_server.base_url, "base", backoff=0.001)
    assert backend.complete(SAY).text == "I do not know."
    backend.close()


# Clients and loops --------------------------------------------------------------------------------------------------


async def test_closed_backends_say_so(fake_server, world):
    backend = OpenAIBackend(fake_server.base_url, "base")
    await world.complete(backend, SAY)
    await backend.aclose()
    with pytest.raises(ClosedError):
        await world.complete(backend, SAY)


def test_one_backend_serves_many_loops(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base")

    async def ask_twice() -> None:
        await asyncio.gather(backend.acomplete(SAY), backend.acomplete(SAY))
        client = backend._transport.async_client()
        assert client is backend._transport.async_client()
        await client.aclose()  # else the dead loop's sockets are left to the garbage collector, which warns

    asyncio.run(ask_twice())
    asyncio.run(ask_twice())
    backend.close()
    assert len(fake_server.requests) == 4


async def test_many_requests_at_once_share_few_connections_each_and_all_are_closed(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base")
    fake_server.latency = 0.2
    await asyncio.gather(*(backend.acomplete(SAY) for _ in range(20)))
    await backend.acomplete(SAY)
    clients = [pool.client for pools in backend._transport._pools.values() for pool in pools]
    assert len(clients) == 5
    assert len(fake_server.requests) == 21
    await backend.aclose()
    assert all(client.is_closed for client in clients)


def test_close_reaches_a_loop_that_runs_elsewhere(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(backend.acomplete(SAY), loop).result()
    client = asyncio.run_coroutine_threadsafe(_client_of(backend), loop).result()
    backend.close()
    assert client.is_closed
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def test_aclose_reaches_a_loop_that_runs_elsewhere(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base")
    backend.complete(SAY)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(backend.acomplete(SAY), loop))
    client = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_client_of(backend), loop))
    await backend.aclose()
    assert client.is_closed
    loop.call_soon_threadsafe(loop.stop)
    await asyncio.to_thread(thread.join)
    loop.close()


async def _client_of(backend: OpenAIBackend):
    return backend._transport.async_client()


async def test_close_inside_the_loop_closes_its_client(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base")
    await backend.acomplete(SAY)
    client = backend._transport.async_client()
    backend.close()
    await asyncio.sleep(0.01)
    assert client.is_closed


async def test_a_dead_loop_is_left_alone(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base")
    loop = asyncio.new_event_loop()
    client = await asyncio.to_thread(loop.run_until_complete, _client_of(backend))
    loop.close()
    await backend.aclose()
    assert not client.is_closed


async def _others_end() -> None:
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


def test_a_loop_that_ends_or_hangs_does_not_keep_close_waiting(fake_server, monkeypatch, caplog):
    monkeypatch.setattr(http, "_CLOSE_SECONDS", 0.05)
    backend = OpenAIBackend(fake_server.base_url, "base")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    client = asyncio.run_coroutine_threadsafe(_client_of(backend), loop).result()
    release = threading.Event()
    loop.call_soon_threadsafe(release.wait, 5)
    backend.close()
    assert "did not close" in caplog.text
    release.set()
    asyncio.run_coroutine_threadsafe(_others_end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    http._close_elsewhere(loop, client)  # it ended between the look and the call


def test_connections_are_kept(fake_server):
    backend = OpenAIBackend(fake_server.base_url, "base")
    backend.complete(SAY)
    client = backend._transport.client()
    backend.complete(SAY)
    assert backend._transport.client() is client
    backend.close()


async def test_32_callers_at_once(fake_server):
    fake_server.latency = 0.5
    backend = OpenAIBackend(fake_server.base_url, "base")
    await asyncio.gather(*(backend.acomplete(SAY) for _ in range(32)))
    assert fake_server.most_concurrent > 16
    await backend.aclose()
