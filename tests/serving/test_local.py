"""The model in process: real torch, transformers, peft and llguidance over the tiny random model."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_model import TinyModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from memlora_plugins.errors import (
    BackendRequestError,
    BackendUnavailableError,
    ClosedError,
    ForkedError,
    MemloraError,
)
from memlora_plugins.serving.base import Backend, Completion, Request
from memlora_plugins.serving.local import LocalBackend

FACTS = {
    "type": "object",
    "properties": {"facts": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3}},
    "required": ["facts"],
    "additionalProperties": False,
}
ANSWER = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no", "café"]}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
EXPERTS = ("extraction", "update", "generation", "executive")  # the last one has no adapter
LONG = 3000
"""Tokens of a reply that is still running when a test has long done its work."""


def ask(
    expert: str = "generation",
    text: str = "I moved to Lisbon in May.",
    *,
    schema: dict[str, Any] | None = None,
    max_tokens: int = 24,
    temperature: float = 0.0,
) -> Request:
    return Request(expert, [{"role": "user", "content": text}], schema, max_tokens, temperature)


def mixture() -> list[Request]:
    """32 requests of all experts and the base model, of many lengths, with and without a schema."""
    return [
        ask(expert, f"{place} Ana moved to Lisbon. " * (1 + place % 5), schema=schema, max_tokens=3 + 7 * (place % 6))
        for place in range(8)
        for expert, schema in zip(EXPERTS, (FACTS, None, ANSWER if place % 2 else None, FACTS), strict=True)
    ]


@pytest.fixture(scope="module")
def backend(tiny_model: TinyModel) -> Iterator[LocalBackend]:
    backend = LocalBackend(tiny_model.path, tiny_model.adapters)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def one_by_one(backend: LocalBackend) -> list[Completion]:
    return [backend.complete(request) for request in mixture()]


def endless(backend: LocalBackend) -> Iterator[str | Completion]:
    """A started stream of a long reply."""
    for text in ("a", "b", "c", "d", "e", "f", "g", "h"):
        stream = backend.stream(ask(text=text, max_tokens=LONG))
        if isinstance(next(stream), str):
            return stream
    raise AssertionError("every reply ended at once")


# What is answered -------------------------------------------------------------------------------------------------


def test_is_a_backend(backend: LocalBackend) -> None:
    assert isinstance(backend, Backend)


@pytest.mark.parametrize("expert", EXPERTS)
def test_each_expert_answers_as_transformers_would(backend: LocalBackend, tiny_model: TinyModel, expert: str) -> None:
    from peft import PeftModel

    request = ask(expert, max_tokens=20)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model.path)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model.path)
    if expert in tiny_model.adapters:
        model = PeftModel.from_pretrained(model, tiny_model.adapters[expert])
    prompt = tokenizer.apply_chat_template(
        list(request.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    tokens = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]

    completion = backend.complete(request)

    assert completion.text == tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd")
    assert completion.usage.input_tokens == prompt["input_ids"].shape[1]
    assert completion.usage.output_tokens == len(tokens)
    assert completion.usage.calls == 1
    assert completion.finish_reason == ("stop" if tokens[-1] == tokenizer.eos_token_id else "length")


@pytest.mark.parametrize("expert", EXPERTS)
def test_it_tells_how_likely_its_tokens_were(backend: LocalBackend, tiny_model: TinyModel, expert: str) -> None:
    from peft import PeftModel

    request = replace(ask(expert, max_tokens=20), logprobs=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model.path)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model.path)
    if expert in tiny_model.adapters:
        model = PeftModel.from_pretrained(model, tiny_model.adapters[expert])
    prompt = tokenizer.apply_chat_template(
        list(request.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(
        **prompt, max_new_tokens=20, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    said = made.sequences[0, prompt["input_ids"].shape[1] :]
    expected = [float(step[0].log_softmax(-1)[token]) for step, token in zip(made.logits, said, strict=True)]

    completion = backend.complete(request)

    assert completion.logprobs == pytest.approx(expected, abs=1e-3)
    assert len(completion.logprobs or ()) == completion.usage.output_tokens
    assert backend.complete(ask(expert, max_tokens=20)).logprobs is None
    assert completion == replace(backend.complete(ask(expert, max_tokens=20)), logprobs=completion.logprobs)


async def test_how_likely_tokens_were_does_not_depend_on_who_else_is_asked(backend: LocalBackend) -> None:
    requests = [replace(one, logprobs=place % 2 == 0) for place, one in enumerate(mixture())]
    alone = [backend.complete(one).logprobs for one in requests]
    together = [reply.logprobs for reply in await asyncio.gather(*map(backend.acomplete, requests))]
    for one, other in zip(alone, together, strict=True):
        assert one is None or other == pytest.approx(one, abs=1e-3)
        assert (one is None) == (other is None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_does_not_make_tokens_likelier(backend: LocalBackend, temperature: float) -> None:
    """What the model would rather have said is not forgotten because it was not allowed to."""
    free = replace(ask("executive", max_tokens=8, temperature=temperature), logprobs=True)
    held = replace(free, pattern="(café|CAFÉ) [0-9]{3}")
    told = backend.complete(held).logprobs
    assert told
    assert all(value <= 1e-5 for value in told)
    assert min(told) < -2  # a random model would hardly say this by itself


def test_the_experts_differ(backend: LocalBackend) -> None:
    replies = {backend.complete(ask(expert, max_tokens=30)).text for expert in EXPERTS}
    assert len(replies) == len(EXPERTS)


def test_a_completion_names_who_answered(backend: LocalBackend, tiny_model: TinyModel) -> None:
    assert backend.complete(ask("update", max_tokens=1)).model == backend.adapters["update"]
    assert backend.adapters["update"].startswith("update@")
    assert backend.complete(ask("executive", max_tokens=1)).model == str(tiny_model.path)


def test_prompts_are_short_for_trained_experts_only(backend: LocalBackend) -> None:
    assert [backend.prompt_style(expert) for expert in ("extraction", "vision")] == ["short", "full"]
    assert "extraction@" in repr(backend)


@pytest.mark.parametrize("expert", EXPERTS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_follow_their_schema(backend: LocalBackend, expert: str, temperature: float) -> None:
    for schema in (FACTS, ANSWER):
        completion = backend.complete(ask(expert, schema=schema, max_tokens=400, temperature=temperature))
        reply = json.loads(completion.text)
        assert completion.finish_reason == "stop"
        assert list(reply) == schema["required"]
        if schema is ANSWER:
            assert reply["answer"] in ("yes", "no", "café")
            assert completion.text == json.dumps(reply, separators=(",", ":"), ensure_ascii=False)
        else:
            assert completion.text.startswith('{"facts":[')
            assert all(isinstance(fact, str) and len(fact) <= 12 for fact in reply["facts"])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_plain_reply_follows_its_pattern(backend: LocalBackend, temperature: float) -> None:
    pattern = r" ?(?:Porto(?: in May)?|I do not know\.)"
    request = replace(ask("generation", max_tokens=60, temperature=temperature), pattern=pattern)
    completion = backend.complete(request)
    assert completion.finish_reason == "stop"
    assert re.fullmatch(pattern, completion.text)
    pieces = list(backend.stream(replace(request, temperature=0.0)))
    assert re.fullmatch(pattern, "".join(str(piece) for piece in pieces[:-1]))


def test_a_pattern_that_cannot_be_used_is_refused(backend: LocalBackend) -> None:
    with pytest.raises(BackendRequestError, match="pattern"):
        backend.complete(replace(ask("generation"), pattern="(Porto"))


def test_a_truncated_reply_is_the_beginning_of_the_whole_one(backend: LocalBackend) -> None:
    whole = backend.complete(ask("update", schema=FACTS, max_tokens=400))
    for most in range(1, whole.usage.output_tokens):
        part = backend.complete(ask("update", schema=FACTS, max_tokens=most))
        assert part.finish_reason == "length"
        assert part.usage.output_tokens == most
        assert whole.text.startswith(part.text)


def test_a_reply_that_is_complete_at_the_last_token_is_not_called_truncated(backend: LocalBackend) -> None:
    whole = backend.complete(ask(schema=ANSWER, max_tokens=100))
    assert backend.complete(ask(schema=ANSWER, max_tokens=whole.usage.output_tokens)) == whole


def test_temperature_samples_and_leaves_greedy_batch_mates_alone(backend: LocalBackend) -> None:
    calm = ask(max_tokens=40)
    with ThreadPoolExecutor(9) as pool:
        warm = [pool.submit(backend.complete, ask(max_tokens=40, temperature=1.0)) for _ in range(8)]
        greedy = pool.submit(backend.complete, calm)
    assert len({future.result().text for future in warm}) > 1
    assert greedy.result() == backend.complete(calm)


def test_text_parts_and_broken_unicode_are_read(backend: LocalBackend) -> None:
    parts = [{"type": "text", "text": "I moved"}, {"type": "text", "text": "to Lisbon."}]
    in_parts = Request("generation", [{"role": "user", "content": parts}], max_tokens=12)
    assert backend.complete(in_parts) == backend.complete(ask(text="I moved\nto Lisbon.", max_tokens=12))
    assert backend.complete(ask(text="half \ud83d", max_tokens=3)).usage.output_tokens
    assert backend.complete(Request("update", [{"role": "user", "content": None}], max_tokens=3)).usage.output_tokens


# Batches -----------------------------------------------------------------------------------------------------------


def test_16_threads_get_what_each_would_get_alone(backend: LocalBackend, one_by_one: list[Completion]) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(backend.complete, mixture())) == one_by_one


async def test_32_tasks_get_what_each_would_get_alone(backend: LocalBackend, one_by_one: list[Completion]) -> None:
    assert await asyncio.gather(*[backend.acomplete(request) for request in mixture()]) == one_by_one


@pytest.mark.parametrize("limits", [{"max_batch": 3}, {"max_batch_tokens": 300}, {"max_batch_tokens": 1}])
async def test_replies_do_not_depend_on_who_joins_and_leaves(
    tiny_model: TinyModel, one_by_one: list[Completion], limits: dict[str, int]
) -> None:
    backend = LocalBackend(tiny_model.path, tiny_model.adapters, **limits)
    assert await asyncio.gather(*[backend.acomplete(request) for request in mixture()]) == one_by_one
    await backend.aclose()


async def test_long_prompts_are_read_in_several_passes(backend: LocalBackend) -> None:
    requests = [ask(expert, "Lisbon " * 1500, max_tokens=4) for expert in EXPERTS]
    together = await asyncio.gather(*[backend.acomplete(request) for request in requests])
    assert together == [backend.complete(request) for request in requests]


async def test_a_short_reply_does_not_wait_for_a_long_one(backend: LocalBackend) -> None:
    stream = endless(backend)
    assert await backend.acomplete(ask("update", max_tokens=5)) == backend.complete(ask("update", max_tokens=5))
    assert isinstance(next(stream), str)
    stream.close()


async def test_a_bad_request_does_not_harm_its_batch_mates(backend: LocalBackend, one_by_one: list[Completion]) -> None:
    bad = ask("extraction", schema={"type": "nonsense"})
    tasks = [backend.acomplete(request) for request in (*mixture(), bad)]
    *good, error = await asyncio.gather(*tasks, return_exceptions=True)
    assert good == one_by_one
    assert isinstance(error, BackendRequestError)


async def test_a_failing_step_is_told_to_those_in_it_and_to_nobody_after(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LocalBackend(tiny_model.path, max_batch=4)
    backend.load()
    before = backend.complete(ask())

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    engine: Any = backend._engine
    embeddings = engine._checkpoint._model.get_input_embeddings()
    monkeypatch.setattr(embeddings, "forward", fail)
    errors = await asyncio.gather(*[backend.acomplete(ask()) for _ in range(6)], return_exceptions=True)
    assert all(isinstance(error, BackendUnavailableError) and "max_batch" in str(error) for error in errors)
    monkeypatch.undo()
    stream = endless(backend)
    monkeypatch.setattr(embeddings, "forward", fail)
    with pytest.raises(BackendUnavailableError, match="no memory left"):
        list(stream)
    monkeypatch.undo()
    assert backend.complete(ask()) == before
    backend.close()


# Streams and cancelling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [None, FACTS])
@pytest.mark.parametrize("expert", EXPERTS)
async def test_a_stream_says_what_complete_says(
    backend: LocalBackend, expert: str, schema: dict[str, Any] | None
) -> None:
    request = ask(expert, schema=schema, max_tokens=60)
    whole = backend.complete(request)
    for pieces in (list(backend.stream(request)), [piece async for piece in backend.astream(request)]):
        assert pieces[-1] == whole
        assert "".join(pieces[:-1]) == whole.text
        assert all(pieces[:-1])


async def test_streams_raise_what_complete_raises(backend: LocalBackend) -> None:
    with pytest.raises(BackendRequestError):
        list(backend.stream(ask(max_tokens=0)))
    with pytest.raises(BackendRequestError):
        [piece async for piece in backend.astream(ask(max_tokens=0))]


async def test_abandoned_requests_make_room(tiny_model: TinyModel) -> None:
    backend = LocalBackend(tiny_model.path, tiny_model.adapters, max_batch=1)
    endless(backend).close()
    astream = backend.astream(ask(max_tokens=LONG))
    await anext(astream)
    await astream.aclose()
    running = endless(backend)
    waiting = asyncio.create_task(backend.acomplete(ask(max_tokens=LONG)))
    await asyncio.sleep(0.05)
    waiting.cancel()
    running.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await backend.acomplete(ask(max_tokens=2))).usage.output_tokens <= 2
    assert not backend._engine._running
    assert not backend._engine._waiting
    await backend.aclose()


async def test_cancelling_one_task_leaves_the_others(backend: LocalBackend, one_by_one: list[Completion]) -> None:
    doomed = [asyncio.create_task(backend.acomplete(ask(text=str(n), max_tokens=LONG))) for n in range(4)]
    kept = [asyncio.create_task(backend.acomplete(request)) for request in mixture()]
    await asyncio.sleep(0.02)
    for task in doomed:
        task.cancel()
    assert await asyncio.gather(*kept) == one_by_one
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*doomed, return_exceptions=True))


def test_a_stream_ends_with_its_event_loop(backend: LocalBackend) -> None:
    async def begin() -> Any:
        stream = backend.astream(ask(max_tokens=LONG))
        await anext(stream)
        return stream

    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(begin())
    loop.close()
    assert backend.complete(ask(max_tokens=3)).usage.output_tokens
    assert not backend._engine._running
    asyncio.run(stream.aclose())


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (ask(text="Lisbon " * 5000), "context window is 4096 tokens; the prompt has"),
        (ask(max_tokens=4096), "reply may take 4096"),
        (ask(max_tokens=0), "max_tokens"),
        (ask(temperature=-1.0), "temperature"),
        (ask(temperature=float("nan")), "temperature"),
        (ask(schema={"type": "array", "minItems": 3, "maxItems": 1}), "minItems"),
        (ask(schema={"enum": [{1, 2}]}), "schema"),
        (Request("vision", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]), "image_url"),
        (Request("vision", [{"role": "user", "content": [7]}]), "int"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_requests_are_refused(backend: LocalBackend, request_: Request, says: str) -> None:
    with pytest.raises(BackendRequestError, match=says) as refused:
        backend.complete(request_)
    assert refused.value.status == 400


# Opening, sharing and closing --------------------------------------------------------------------------------------


def test_opening_is_cheap_and_nothing_is_connected_to(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with_limits = LocalBackend(tiny_model.path, tiny_model.adapters, max_batch=2, threads=1)
    assert with_limits.complete(ask(max_tokens=2)).usage.output_tokens
    with_limits.close()
    script = (
        "import sys; from memlora_plugins.serving.local import LocalBackend\n"
        f"LocalBackend({str(tiny_model.path)!r}, { ({'update': str(tiny_model.adapters['update'])})!r}).close()\n"
        "assert not {'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})


def test_the_process_ends_in_the_middle_of_a_reply(tiny_model: TinyModel) -> None:
    script = (
        "from memlora_plugins.serving.local import LocalBackend; from memlora_plugins.serving.base import Request\n"
        f"backend = LocalBackend({str(tiny_model.path)!r})\n"
        "for _ in range(4): backend._submit(Request('x', [{'role': 'user', 'content': 'hi'}], max_tokens=4000))\n"
        "next(backend.stream(Request('x', [{'role': 'user', 'content': 'hi'}], max_tokens=4000)))\n"
        "print('answering')"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "answering\n", "")


def test_the_same_model_is_loaded_once(tiny_model: TinyModel) -> None:
    first = LocalBackend(str(tiny_model.path), tiny_model.adapters, max_batch=5)
    second = LocalBackend(tiny_model.path, {k: str(v) for k, v in tiny_model.adapters.items()}, max_batch=5)
    other = LocalBackend(tiny_model.path, max_batch=5)
    assert first._engine is second._engine
    assert first._engine is not other._engine
    first.close()
    first.close()
    with pytest.raises(ClosedError):
        first.complete(ask())
    assert second.complete(ask(max_tokens=2)).usage.output_tokens
    engine = second._engine
    second.close()
    again = LocalBackend(tiny_model.path, tiny_model.adapters, max_batch=5)
    assert again._engine is not engine
    assert again.complete(ask(max_tokens=2)).usage.output_tokens
    again.close()
    other.close()


def test_a_forgotten_backend_is_closed(tiny_model: TinyModel) -> None:
    backend = LocalBackend(tiny_model.path, max_batch=6)
    engine = backend._engine
    del backend
    gc.collect()
    with pytest.raises(ClosedError):
        engine.load()


async def test_closing_fails_what_runs_and_what_waits(tiny_model: TinyModel) -> None:
    backend = LocalBackend(tiny_model.path, max_batch=1)
    await asyncio.to_thread(backend.load)
    stream = endless(backend)
    waiting = asyncio.create_task(backend.acomplete(ask(max_tokens=LONG)))
    await asyncio.sleep(0)
    await backend.aclose()
    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(ClosedError):
        list(stream)
    with pytest.raises(ClosedError):
        await backend.acomplete(ask())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_must_open_its_own(backend: LocalBackend, tiny_model: TinyModel) -> None:
    backend.load()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            backend.complete(ask())
        except ForkedError:
            own = LocalBackend(tiny_model.path, tiny_model.adapters)
            code = 2 if own._engine is backend._engine else 0
            own.close()
            backend.close()
        except MemloraError:
            code = 3
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.complete(ask(max_tokens=2)).usage.output_tokens
