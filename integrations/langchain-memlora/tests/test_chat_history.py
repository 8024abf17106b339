"""A history of messages over the memory, alone and under `RunnableWithMessageHistory`."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest
from brain import ScriptedChatModel
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from scripted import FakeBackend
from two_people import ANA

from langchain_memlora import MemLoRAChatMessageHistory
from memlora_plugins import BackendUnavailableError, Memory, MessageError, Scope, ScopeError

CONVERSATION = [
    SystemMessage("Be kind.", id="0"),
    HumanMessage("«Lives in Porto»", id="1"),
    AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Porto"}, "id": "c", "type": "tool_call"}], id="2"),
    ToolMessage("Sunny", tool_call_id="c", id="3"),
    AIMessage("It is sunny.", id="4"),
]


def history(memory: Memory, session: str = "one", **more: Any) -> MemLoRAChatMessageHistory:
    return MemLoRAChatMessageHistory(memory=memory, user_id="ana", session_id=session, **{"wait": True, **more})


def test_gives_back_what_was_added_and_distils_what_the_person_said(memory: Memory) -> None:
    history(memory).add_messages(CONVERSATION)
    assert history(memory).messages == CONVERSATION
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Lives in Porto"]
    assert history(memory, "two").messages == []


async def test_does_the_same_on_an_event_loop(memory: Memory) -> None:
    one = history(memory)
    await one.aadd_messages(CONVERSATION)
    assert await one.aget_messages() == CONVERSATION
    await one.aclear()
    assert await one.aget_messages() == []


def test_adds_a_message_once(memory: Memory) -> None:
    one = history(memory)
    one.add_messages(CONVERSATION)
    one.add_messages(CONVERSATION)
    one.add_user_message("«Lives in Porto»")
    one.add_ai_message("I know.")
    assert [message.type for message in one.messages] == ["system", "human", "ai", "tool", "ai", "human", "ai"]


def test_leaves_out_what_is_blank(memory: Memory) -> None:
    one = history(memory)
    one.add_messages([HumanMessage(""), AIMessage("  "), HumanMessage("Hello", id="1")])
    one.add_messages([])
    assert one.messages == [HumanMessage("Hello", id="1")]


def test_clearing_erases_the_session_and_what_only_it_told(memory: Memory) -> None:
    history(memory).add_messages(CONVERSATION)
    history(memory, "two").add_messages([HumanMessage("«Has a dog»", id="1")])
    history(memory).clear()
    assert history(memory).messages == []
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Has a dog"]
    assert len(history(memory, "two").messages) == 1


def test_holds_no_notes_of_an_agent(memory: Memory) -> None:
    memory.note("Lives in Porto", scope=Scope("ana", session_id="one"))
    assert history(memory).messages == []


def test_a_model_that_is_down_is_logged_and_loses_nothing(
    memory: Memory, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.experts["extraction"] = lambda request: BackendUnavailableError("down")
    history(memory).add_messages(CONVERSATION)
    assert history(memory).messages == CONVERSATION
    assert "extraction (BackendUnavailableError)" in caplog.text
    assert memory.count(scope=ANA)["pending"] == 1


def test_does_not_wait_unless_told_to(memory: Memory, backend: FakeBackend) -> None:
    backend.delay = 0.3
    one = MemLoRAChatMessageHistory(memory=memory, user_id="ana", session_id="one")
    one.add_messages(CONVERSATION)
    assert memory.facts(scope=ANA) == []
    memory.flush()
    assert len(memory.facts(scope=ANA)) == 1


@pytest.mark.parametrize(("user", "session"), [(None, "one"), ("", "one"), ("ana", None), ("ana", " ")])
def test_needs_a_person_and_a_session(memory: Memory, user: Any, session: Any) -> None:
    with pytest.raises(ScopeError):
        MemLoRAChatMessageHistory(memory=memory, user_id=user, session_id=session)


def test_refuses_what_is_no_message(memory: Memory) -> None:
    with pytest.raises(MessageError):
        history(memory).add_messages(["Hello"])  # type: ignore[list-item]
    assert history(memory).messages == []


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream"])
def test_serves_a_runnable_with_message_history(memory: Memory, way: str) -> None:
    from langchain_core.runnables.history import RunnableWithMessageHistory

    model = ScriptedChatModel(script=lambda messages: f"You said: {messages[-1].text}")
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Be kind."), MessagesPlaceholder("past"), ("human", "{said}")]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)
        chain: Any = RunnableWithMessageHistory(
            prompt | model,
            lambda session_id: history(memory, session_id),
            input_messages_key="said",
            history_messages_key="past",
        )
    config = {"configurable": {"session_id": "monday"}}

    def say(line: str) -> None:
        if way == "invoke":
            chain.invoke({"said": line}, config)
        elif way == "ainvoke":
            asyncio.run(chain.ainvoke({"said": line}, config))
        else:
            assert len(list(chain.stream({"said": line}, config))) > 1

    say("«One»")
    say("«Two»")
    assert [str(message.text) for message in model.seen[-1]] == ["Be kind.", "«One»", "You said: «One»", "«Two»"]
    assert len(history(memory, "monday").messages) == 4
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["One", "Two"]
