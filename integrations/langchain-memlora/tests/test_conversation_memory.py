"""The memory of classic chains."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest
from brain import ScriptedChatModel
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from two_people import ANA

from memlora_plugins import InvalidInputError, Memory, Message, Scope, ScopeError
from memlora_plugins.flows.recall import tokens

pytest.importorskip("langchain_classic")

from langchain_memlora import MemLoRAConversationMemory


def of(memory: Memory, session: str | None = "now", **more: Any) -> MemLoRAConversationMemory:
    return MemLoRAConversationMemory(memory=memory, user_id="ana", session_id=session, **{"wait": True, **more})


def buffer() -> Any:
    from langchain_classic.memory import ConversationBufferMemory

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)
        return ConversationBufferMemory


def talk(memory: Any) -> None:
    memory.save_context({"input": "Hello"}, {"output": "Hi!"})
    memory.save_context({"input": "How are you?"}, {"output": "Fine."})


@pytest.mark.parametrize("settings", [{}, {"human_prefix": "Ana", "ai_prefix": "Bot"}, {"memory_key": "chat"}])
def test_is_the_buffer_memory_where_nothing_else_is_known(memory: Memory, settings: dict[str, Any]) -> None:
    ours = of(memory, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)
        theirs = buffer()(**settings)
    for one in (ours, theirs):
        talk(one)
    assert ours.memory_variables == theirs.memory_variables
    assert ours.load_memory_variables({"input": "Hello?"}) == theirs.load_memory_variables({"input": "Hello?"})
    assert ours.buffer == theirs.buffer


def test_gives_messages_where_they_are_wanted(memory: Memory) -> None:
    one = of(memory, return_messages=True)
    talk(one)
    messages = one.load_memory_variables({"input": "?"})["history"]
    assert [(message.type, message.content) for message in messages] == [
        ("human", "Hello"),
        ("ai", "Hi!"),
        ("human", "How are you?"),
        ("ai", "Fine."),
    ]


def test_knows_what_other_conversations_told(told: Memory) -> None:
    one = of(told)
    talk(one)
    text = one.load_memory_variables({"input": "Where does Ana live?"})["history"]
    before, _, after = text.partition("</memlora-memories>")
    assert "Ana lives in Porto" in before
    assert "Rome" not in text
    assert after.strip() == "Human: Hello\nAI: Hi!\nHuman: How are you?\nAI: Fine."
    assert "Hello" not in before  # what is shown as a turn is not shown again
    messages = of(told, return_messages=True).load_memory_variables({"input": "Where does Ana live?"})["history"]
    assert isinstance(messages[0], SystemMessage)
    assert "Ana lives in Porto" in str(messages[0].text)


def test_keeps_within_its_budget(memory: Memory) -> None:
    for number in range(60):
        line = f"Song number {number} is my favourite: «Likes song {number}»"
        memory.add([Message("user", line), Message("assistant", "A fine song.")], scope=Scope("ana", session_id="now"))
    for budget in (16, 100, 400):
        text = of(memory, token_budget=budget).load_memory_variables({"input": "Which song do I like?"})["history"]
        assert tokens(text) <= budget
        assert text.endswith("AI: A fine song.")
    assert "<memlora-memories>" in text
    assert "Human: Song number 59" in text


def test_shows_the_end_of_a_turn_that_is_too_long(memory: Memory) -> None:
    one = of(memory)
    one.save_context({"input": "Tell me a story"}, {"output": "Once upon a time. " * 300 + "The end."})
    text = one.load_memory_variables({"input": "Make it shorter"})["history"]
    assert text.endswith("The end.")
    assert tokens(text) <= 800


def test_reading_writes_nothing(memory: Memory) -> None:
    of(memory).load_memory_variables({"input": "What do I like?"})
    of(memory).load_memory_variables({})
    assert memory.count(scope=ANA)["turns"] == 0


def test_distils_what_was_said_and_not_what_was_recalled(told: Memory) -> None:
    one = of(told)
    history = one.load_memory_variables({"input": "Where does Ana live?"})["history"]
    one.save_context({"input": "«Ana asks»", "history": history}, {"response": "In «Porto»."})
    assert "Ana asks" in [fact.text for fact in told.facts(scope=ANA)]
    assert [turn.text for turn in told.turns(scope=Scope("ana", session_id="now"))] == ["«Ana asks»", "In «Porto»."]


def test_takes_messages_for_input_and_output(memory: Memory) -> None:
    one = of(memory, return_messages=True)
    one.save_context({"input": HumanMessage("One", id="1")}, {"output": AIMessage("Two", id="2")})  # type: ignore[dict-item]
    one.save_context({"input": [HumanMessage("Three", id="3")]}, {"output": None})  # type: ignore[dict-item]
    one.save_context({"input": 4}, {"output": ""})
    texts = [message.content for message in one.load_memory_variables({})["history"]]
    assert texts == ["One", "Two", "Three", "4"]


def test_needs_to_know_which_key_is_meant(memory: Memory) -> None:
    with pytest.raises(InvalidInputError, match="input_key"):
        of(memory).save_context({"question": "a", "style": "b"}, {"output": "c"})
    with pytest.raises(InvalidInputError, match="output_key"):
        of(memory).save_context({"question": "a"}, {"text": "b", "sources": "c"})
    one = of(memory, input_key="question", output_key="text")
    one.save_context({"question": "a", "style": "b"}, {"text": "b", "sources": "c"})
    assert one.buffer == "Human: a\nAI: b"


def test_can_span_all_conversations_of_a_person(told: Memory) -> None:
    assert of(told, session=None).buffer == "Human: I moved. «Ana lives in Porto»\nHuman: I play. «Ana plays the cello»"
    with pytest.raises(ScopeError, match="session_id"):
        _ = of(told, session=None).chat_memory


def test_shares_its_turns_with_a_chat_history(memory: Memory) -> None:
    one = of(memory)
    one.chat_memory.add_user_message("Hello")
    assert one.buffer == "Human: Hello"
    assert [message.content for message in one.chat_memory.messages] == ["Hello"]


def test_clearing_erases_the_session_or_the_person(told: Memory) -> None:
    one = of(told)
    talk(one)
    one.clear()
    assert one.buffer == ""
    assert len(told.facts(scope=ANA)) == 2
    asyncio.run(of(told, session=None).aclear())
    assert told.facts(scope=ANA) == []
    assert len(told.facts(scope=Scope("bob"))) == 1


async def test_does_the_same_on_an_event_loop(told: Memory) -> None:
    one = of(told)
    await one.asave_context({"input": "Hello"}, {"output": "Hi!"})
    asked = {"input": "Where does Ana live?"}
    assert await one.aload_memory_variables(asked) == one.load_memory_variables(asked)


@pytest.mark.parametrize("user", ["", None, 7])
def test_needs_a_person(memory: Memory, user: Any) -> None:
    with pytest.raises(ValueError, match="user_id"):
        MemLoRAConversationMemory(memory=memory, user_id=user)


def test_serves_a_conversation_chain(told: Memory) -> None:
    from langchain_classic.chains import ConversationChain

    model = ScriptedChatModel(script=lambda messages: "I see.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)
        chain = ConversationChain(llm=model, memory=of(told))
        chain.invoke({"input": "«Has a dog»"})
        asyncio.run(chain.ainvoke({"input": "Where does Ana live?"}))
    prompt = str(model.seen[-1][0].text)
    assert "Ana lives in Porto" in prompt
    assert "Human: «Has a dog»\nAI: I see." in prompt
    assert "Has a dog" in [fact.text for fact in told.facts(scope=ANA)]
