"""A LlamaIndex LLM as the Executive: what it is asked, and what its replies carry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, ThinkingBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from pydantic import PrivateAttr
from scripted_llm import Told, saying
from scripted_memo import DONE, FINAL, ScriptedMemory, confirm, ground, seek

from llama_index.memory.memlora import LLMExecutive
from memlora_plugins import Usage
from memlora_plugins.memo.executive import Executive
from memlora_plugins.memo.protocol import Protocol

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
Complete = Callable[..., Any]


def complete(executive: LLMExecutive, **more: Any) -> Any:
    return executive.complete(ASKED, **{"schema": SCHEMA, "temperature": 0.4, **more})


def acomplete(executive: LLMExecutive, **more: Any) -> Any:
    return asyncio.run(executive.acomplete(ASKED, **{"schema": SCHEMA, "temperature": 0.4, **more}))


both = pytest.mark.parametrize("ask", [complete, acomplete], ids=["sync", "async"])


class Recording(MockFunctionCallingLLM):
    """Records what a call of its has beside messages; replies with `said`, in a response with `more`."""

    temperature: float = 0.1
    schemas: bool | None = None
    _asked: list[dict[str, Any]] = PrivateAttr(default_factory=list)
    _messages: list[Sequence[ChatMessage]] = PrivateAttr(default_factory=list)
    _response: ChatResponse = PrivateAttr(default_factory=lambda: ChatResponse(message=ChatMessage("Porto")))

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        self._asked.append(kwargs)
        self._messages.append(messages)
        return self._response

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return Recording.chat(self, messages, **kwargs)


class LikeOpenAI(Recording):
    """Says of itself whether its model keeps to schemas, as the LLMs of llama-index-llms-openai do."""

    def _should_use_structure_outputs(self) -> bool | None:
        return self.schemas


def responding(**response: Any) -> Recording:
    llm = Recording()
    llm._response = ChatResponse(**{"message": ChatMessage("Porto", role="assistant"), **response})
    return llm


def test_it_is_an_executive() -> None:
    assert isinstance(LLMExecutive(MockLLM()), Executive)


@both
def test_the_llm_is_shown_the_messages(ask: Complete) -> None:
    llm = Recording()
    assert ask(LLMExecutive(llm)) == "Porto"
    [messages] = llm._messages
    assert [(message.role, message.content) for message in messages] == [
        (MessageRole.SYSTEM, "Be brief."),
        (MessageRole.USER, "Where?"),
    ]


@both
def test_each_call_has_its_temperature_where_the_llm_takes_one(ask: Complete) -> None:
    llm = Recording()
    ask(LLMExecutive(llm), temperature=0.4)
    ask(LLMExecutive(llm), temperature=0.0)
    ask(LLMExecutive(llm, temperatures=False))
    assert llm._asked == [{"temperature": 0.4}, {"temperature": 0.0}, {}]
    assert llm.temperature == 0.1
    assert LLMExecutive(MockFunctionCallingLLM()).temperatures is False
    assert LLMExecutive(MockFunctionCallingLLM(), temperatures=True).temperatures is True


@both
@pytest.mark.parametrize(
    ("llm", "structured", "held"),
    [
        (LikeOpenAI(schemas=True), None, True),
        (LikeOpenAI(schemas=False), None, False),
        (LikeOpenAI(schemas=True), False, False),
        (LikeOpenAI(schemas=False), True, True),
        (Recording(), None, False),
        (Recording(), True, True),
    ],
)
def test_replies_are_held_to_the_schema_where_the_llm_can(
    ask: Complete, llm: Recording, structured: bool | None, held: bool
) -> None:
    ask(LLMExecutive(llm, structured=structured, temperatures=False))
    named = {"name": "reply", "schema": SCHEMA, "strict": True}
    expected = {"response_format": {"type": "json_schema", "json_schema": named}} if held else {}
    assert llm._asked[-1] == expected


OPENAI = SimpleNamespace(usage=SimpleNamespace(prompt_tokens=7, completion_tokens=3))
GEMINI = SimpleNamespace(usage_metadata=SimpleNamespace(prompt_token_count=7, candidates_token_count=3))


@both
@pytest.mark.parametrize(
    ("response", "usage"),
    [
        ({"raw": OPENAI}, Usage(1, 7, 3)),
        ({"raw": {"usage": {"input_tokens": 7, "output_tokens": 3}}}, Usage(1, 7, 3)),
        ({"raw": {"usage": SimpleNamespace(input_tokens=7, output_tokens=3)}}, Usage(1, 7, 3)),
        ({"raw": GEMINI}, Usage(1, 7, 3)),
        ({"additional_kwargs": {"prompt_tokens": 7, "completion_tokens": 3}}, Usage(1, 7, 3)),
        ({"additional_kwargs": {"usage": {"input_tokens": 7, "output_tokens": 3}}}, Usage(1, 7, 3)),
        ({"raw": {"usage": None}, "additional_kwargs": {"prompt_tokens": 7}}, Usage(1, 7, 0)),
        ({"raw": {"usage": {"prompt_tokens": None, "input_tokens": 7}}}, Usage(1, 7, 0)),
        ({"raw": {"usage": {"prompt_tokens": "many"}}}, Usage(1)),
        ({"raw": "text"}, Usage(1)),
        ({}, Usage(1)),
    ],
)
def test_replies_carry_the_tokens_that_the_llm_tells(ask: Complete, response: Mapping[str, Any], usage: Usage) -> None:
    assert ask(LLMExecutive(responding(**response))).usage == usage


@both
def test_a_reply_is_the_text_alone(ask: Complete) -> None:
    thought = ChatMessage([ThinkingBlock(content="Hm."), *ChatMessage("Porto").blocks], role="assistant")
    assert ask(LLMExecutive(responding(message=thought))) == "Porto"
    assert ask(LLMExecutive(responding(message=ChatMessage(role="assistant", blocks=[])))) == ""


@both
def test_an_llm_that_fails_is_told(ask: Complete) -> None:
    def script(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        raise ConnectionError("no route")

    with pytest.raises(ConnectionError, match="no route"):
        ask(LLMExecutive(MockFunctionCallingLLM(response_generator=script)))


@pytest.mark.parametrize("way", ["run", "arun"])
def test_it_leads_the_protocol_under_the_eyes_of_the_framework(
    way: str, told_events: Told, spans: SimpleSpanHandler
) -> None:
    llm = saying([ground("Who founded it?"), confirm("Ada"), seek("Where was Ada born?"), DONE, FINAL])
    counter = TokenCountingHandler(tokenizer=str.split)
    llm.callback_manager = CallbackManager([counter])
    memory = ScriptedMemory({"Who founded it?": "Ada.", "Where was Ada born?": "In Porto."})
    protocol = Protocol(executive=LLMExecutive(llm), memory_model=memory)
    question = "Where was the founder born?"
    result = protocol.run(question) if way == "run" else asyncio.run(protocol.arun(question))
    assert (result.answer, result.entity, result.confirmed) == ("Porto", "Ada", True)
    assert memory.rounds == [("Who founded it?",), ("Where was Ada born?",)]
    assert result.usage.calls == 5 + 2
    for kind in (LLMChatStartEvent, LLMChatEndEvent):
        shown = {event.messages[0].content for event in told_events.of(kind)}  # its `achat` is a `chat`, told twice
        assert len(shown) == 5
    assert counter.llm_token_counts
    assert spans.completed_spans
    assert not spans.open_spans
