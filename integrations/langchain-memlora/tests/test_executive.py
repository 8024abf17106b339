"""A LangChain chat model as the Executive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from brain import ScriptedChatModel
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import Field
from scripted_memo import FINAL, ScriptedMemory, confirm, ground, seek

from langchain_memlora import ChatModelExecutive
from memlora_plugins import Usage
from memlora_plugins.memo.executive import Executive
from memlora_plugins.memo.prompts import GROUNDING_SCHEMA
from memlora_plugins.memo.protocol import Protocol

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
COUNTED: Any = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}


class Model(ScriptedChatModel):
    """A chat model that can be held to a form, and has a temperature. `used` is what it was called with."""

    temperature: float | None = None
    used: list[dict[str, Any]] = Field(default_factory=list)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=tools, tool_choice=kwargs["tool_choice"])

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.used.append({**kwargs, "temperature": self.temperature})
        return super()._generate(messages)


def model_saying(*replies: AIMessage | str, **more: Any) -> Model:
    left = list(replies)
    return Model(script=lambda messages: left.pop(0) if len(left) > 1 else left[0], **more)


def complete(executive: ChatModelExecutive, temperature: float = 0.4) -> Any:
    return executive.complete(ASKED, schema=GROUNDING_SCHEMA, temperature=temperature)


def acomplete(executive: ChatModelExecutive, temperature: float = 0.4) -> Any:
    return asyncio.run(executive.acomplete(ASKED, schema=GROUNDING_SCHEMA, temperature=temperature))


@pytest.fixture(params=[complete, acomplete], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_is_an_executive() -> None:
    assert isinstance(ChatModelExecutive(model_saying("?")), Executive)


def test_asks_in_langchains_messages_and_counts_tokens(ask: Any) -> None:
    model = model_saying(AIMessage("Ana.", usage_metadata=COUNTED))
    reply = ask(ChatModelExecutive(model, structured=False))
    assert reply == "Ana."
    assert reply.usage == Usage(1, 3, 4)
    assert [(message.type, message.text) for message in model.seen[0]] == [("system", "Be brief."), ("human", "Who?")]
    assert ask(ChatModelExecutive(model_saying("Ana."))).usage == Usage(1)


def test_holds_the_model_to_the_form(ask: Any) -> None:
    model = model_saying(AIMessage("", tool_calls=[{"name": "reply", "args": ground("Wo?"), "id": "1"}]))
    assert json.loads(ask(ChatModelExecutive(model))) == ground("Wo?")
    [form] = model.used[0]["tools"]
    assert form["properties"] == GROUNDING_SCHEMA["properties"]
    assert form["title"] == "reply"
    assert model.used[0]["tool_choice"] == "any"


def test_gives_a_call_that_langchain_cannot_read_as_it_stands(ask: Any) -> None:
    broken = '{"sub_questions": [{"question": "Wo?"'
    call = invalid_tool_call(name="reply", args=broken, id="1", error="no JSON")
    assert ask(ChatModelExecutive(model_saying(AIMessage("", invalid_tool_calls=[call])))) == broken
    call["args"] = None
    assert ask(ChatModelExecutive(model_saying(AIMessage("", invalid_tool_calls=[call])))) == ""


def test_gives_what_a_model_says_in_place_of_the_form(ask: Any) -> None:
    assert ask(ChatModelExecutive(model_saying("I would rather not."))) == "I would rather not."


def test_asks_in_words_alone_where_there_are_no_forms(ask: Any) -> None:
    assert ask(ChatModelExecutive(GenericFakeChatModel(messages=iter([AIMessage("Ana.")])))) == "Ana."
    model = model_saying("Ana.")
    ask(ChatModelExecutive(model, structured=False))
    assert "tools" not in model.used[0]


def test_asks_in_words_alone_where_a_form_is_made_in_another_way(ask: Any) -> None:
    class Other(Model):
        def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[Any, Any]:
            return RunnableLambda(lambda _: {"parsed": True})

    assert ask(ChatModelExecutive(Other(script=lambda _: "Ana."))) == "Ana."


@pytest.mark.parametrize("structured", [True, False])
def test_each_call_has_its_temperature(ask: Any, structured: bool) -> None:
    model = model_saying("Ana.")
    executive = ChatModelExecutive(model, structured=structured)
    ask(executive, 0.4)
    ask(executive, 1.0)
    assert [used["temperature"] for used in model.used] == [0.4, 1.0]
    assert model.temperature is None


def test_a_model_that_takes_no_temperature_keeps_its_own(ask: Any) -> None:
    said_by_its_profile = model_saying("Ana.", temperature=1.0, profile={"temperature": False})
    ask(ChatModelExecutive(said_by_its_profile))
    said_by_its_user = model_saying("Ana.", temperature=1.0)
    ask(ChatModelExecutive(said_by_its_user, temperatures=False))
    assert [model.used[0]["temperature"] for model in (said_by_its_profile, said_by_its_user)] == [1.0, 1.0]
    assert ask(ChatModelExecutive(ScriptedChatModel(script=lambda _: "Ana."))) == "Ana."


def test_what_the_model_raises_is_raised(ask: Any) -> None:
    def script(messages: Any) -> str:
        raise ConnectionError("no")

    with pytest.raises(ConnectionError, match="no"):
        ask(ChatModelExecutive(Model(script=script)))


@pytest.mark.parametrize("structured", [True, False])
def test_leads_the_protocol(structured: bool) -> None:
    replies = [ground("q1"), confirm("Ada"), seek("q2"), seek(decision="answer"), FINAL]
    said = [AIMessage(json.dumps(reply), usage_metadata=COUNTED) for reply in replies]
    memory = ScriptedMemory({"q1": "a1", "q2": "a2"})
    model = model_saying(*said)
    protocol = Protocol(executive=ChatModelExecutive(model, structured=structured), memory_model=memory)
    result = protocol.run("Where?")
    assert (result.answer, result.entity, result.confirmed) == ("Porto", "Ada", True)
    assert result.usage == Usage(7, 25, 24)
    assert [used["temperature"] for used in model.used] == [0.4, 0.4, 1.0, 1.0, 0.3]
