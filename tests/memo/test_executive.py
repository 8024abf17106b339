"""A model behind an endpoint as the Executive."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from typing import Any

import pytest
from fake_server import FakeModelServer, Fault, Reply

from memlora_plugins import (
    BackendUnavailableError,
    EndpointExecutive,
    Executive,
    MemoryAnswer,
    OpenAIBackend,
    PromptTooLongError,
    Protocol,
    SettingsError,
    Usage,
)
from memlora_plugins.memo.executive import ExecutiveReply

SCHEMA = {"type": "object", "properties": {"final_answer": {"type": "string"}}}
CHAT = [{"role": "user", "content": "Who was first?"}]


class Knowing:
    """A Memory model that knows one thing."""

    def ask(self, questions: Any, *, temperature: float = 0.0) -> list[MemoryAnswer]:
        return [MemoryAnswer(question, "Porto", usage=Usage(1, 5, 1)) for question in questions]

    async def aask(self, questions: Any, *, temperature: float = 0.0) -> list[MemoryAnswer]:
        return self.ask(questions)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, fake_server: FakeModelServer) -> Any:
    """Asks the Executive at the server, in the one world or the other."""

    def ask(**options: Any) -> str:
        backend = OpenAIBackend(fake_server.base_url, "base", backoff=0.001, api_key="s3cret")
        executive = EndpointExecutive(backend, **options)
        assert isinstance(executive, Executive)
        assert "base at" in repr(executive)
        assert "s3cret" not in repr(executive)

        async def asynchronously() -> str:
            try:
                return await executive.acomplete(CHAT, schema=SCHEMA, temperature=0.4)
            finally:
                await backend.aclose()

        if request.param == "async":
            return asyncio.run(asynchronously())
        try:
            return executive.complete(CHAT, schema=SCHEMA, temperature=0.4)
        finally:
            backend.close()

    return ask


def test_a_reply_tells_the_tokens_that_it_took(fake_server: FakeModelServer, ask: Any) -> None:
    fake_server.reply("executive", '{"final_answer": "Porto"}')
    reply = ask(max_tokens=99)
    assert reply == '{"final_answer": "Porto"}'
    assert reply.usage == Usage(1, 3, 2)
    [body] = fake_server.requests
    assert body == {
        "model": "base",
        "messages": CHAT,
        "temperature": 0.4,
        "max_tokens": 99,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "executive", "schema": SCHEMA, "strict": True},
        },
    }


def test_a_reply_that_is_cut_off_is_returned(fake_server: FakeModelServer, ask: Any) -> None:
    fake_server.reply("executive", Reply('{"final_answer": "Por', finish_reason="length"))
    assert ask() == '{"final_answer": "Por'


def test_an_executive_that_is_down_or_refuses_is_an_error(fake_server: FakeModelServer, ask: Any) -> None:
    fake_server.fail(Fault(400, "the context length is exceeded"))
    with pytest.raises(PromptTooLongError):
        ask()
    fake_server.fail(*[Fault(drop=True)] * 9)
    with pytest.raises(BackendUnavailableError):
        ask()


def test_a_limit_of_nothing_is_refused(fake_server: FakeModelServer) -> None:
    with pytest.raises(SettingsError):
        EndpointExecutive(OpenAIBackend(fake_server.base_url, "base"), max_tokens=0)


def test_the_protocol_counts_its_tokens(fake_server: FakeModelServer) -> None:
    fake_server.reply(
        "executive",
        json.dumps({"sub_questions": [{"question": "Where?"}]}),
        json.dumps({"final_answer": "Porto", "justification": "It said so."}),
    )
    backend = OpenAIBackend(fake_server.base_url, "base")
    result = Protocol(executive=EndpointExecutive(backend), memory_model=Knowing(), method="single_turn").run(
        "Where is it?"
    )
    backend.close()
    assert result.answer == "Porto"
    assert result.usage.calls == 3
    assert [body["temperature"] for body in fake_server.requests] == [0.4, 0.3]


def test_a_reply_can_be_copied() -> None:
    reply = ExecutiveReply("yes", Usage(1, 2, 3))
    for other in (copy.copy(reply), pickle.loads(pickle.dumps(reply))):
        assert other == reply
        assert other.usage == reply.usage
