"""The tools, called as programs and models call them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool
from scripted import FakeBackend, decides
from two_people import ANA, BOB, FlakyStore

from langchain_memlora import ForgetMemoryTool, MemLoRAToolkit, SaveMemoryTool, SearchMemoryTool
from memlora_plugins import BackendUnavailableError, Memory, ScopeError

AS_ANA: Any = {"configurable": {"user_id": "ana", "thread_id": "t"}}


def call(tool: BaseTool, config: Any = AS_ANA, **arguments: Any) -> ToolMessage:
    """What a model's call gets."""
    given = arguments.pop("forged", {}) | arguments
    message = tool.invoke(ToolCall(name=tool.name, args=given, id="1", type="tool_call"), config)
    assert isinstance(message, ToolMessage)
    return message


def acall(tool: BaseTool, config: Any = AS_ANA, **arguments: Any) -> ToolMessage:
    given = arguments.pop("forged", {}) | arguments
    message = asyncio.run(tool.ainvoke(ToolCall(name=tool.name, args=given, id="1", type="tool_call"), config))
    assert isinstance(message, ToolMessage)
    return message


@pytest.fixture(params=[call, acall], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_the_toolkit_has_all_three(memory: Memory) -> None:
    tools = MemLoRAToolkit(memory=memory).get_tools()
    assert [tool.name for tool in tools] == ["search_memory", "save_memory", "forget_memory"]
    assert [set(tool.args) for tool in tools] == [{"query", "limit"}, {"text"}, {"memory_ids"}]


def test_search_tells_ids_dates_and_texts(told: Memory, ask: Any) -> None:
    found = ask(SearchMemoryTool(memory=told), query="Where does Ana live?", limit=2)
    fact = next(fact for fact in told.facts(scope=ANA) if "Porto" in fact.text)
    assert f"{fact.id} [" in found.content
    assert found.content.count("\n") == 3  # two lines between two markers
    assert {document.id for document in found.artifact} >= {fact.id}
    assert ask(SearchMemoryTool(memory=told), {"configurable": {"user_id": "zoe"}}, query="Porto?").artifact == []


def test_search_takes_a_plain_string(told: Memory) -> None:
    tool = SearchMemoryTool(memory=told, user_id="ana")
    assert "Porto" in tool.invoke("Where does Ana live?")
    assert "Porto" in asyncio.run(tool.ainvoke("Where does Ana live?"))


def test_save_tells_what_became_of_it(memory: Memory, backend: FakeBackend, ask: Any) -> None:
    save = SaveMemoryTool(memory=memory)
    assert ask(save, text="Lives in Porto").content == "Saved: Lives in Porto"
    assert ask(save, text="Lives in Porto").content == "Known already."
    backend.experts["update"] = lambda request: decides(("0", "UPDATE", "Lives in Porto, at the sea"))
    changed = ask(save, text="Lives in Porto, at the sea")
    assert [event["operation"] for event in changed.artifact] == ["UPDATE"]
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Lives in Porto, at the sea"]


def test_save_keeps_what_cannot_be_compared_now(memory: Memory, backend: FakeBackend, ask: Any) -> None:
    save = SaveMemoryTool(memory=memory)
    ask(save, text="Lives in Porto")
    backend.experts["update"] = lambda request: BackendUnavailableError("down")
    assert ask(save, text="Lives in Porto now").content.startswith("Kept")
    assert memory.count(scope=ANA)["pending"] == 1
    later = SaveMemoryTool(memory=memory, wait=False)
    assert ask(later, text="Has a dog").content.startswith("Kept")


def test_forget_takes_the_words_along(told: Memory, ask: Any) -> None:
    search, forget = SearchMemoryTool(memory=told), ForgetMemoryTool(memory=told)
    fact = next(fact for fact in told.facts(scope=ANA) if "Porto" in fact.text)
    forgotten = ask(forget, memory_ids=[fact.id])
    assert forgotten.content == "Forgotten: 2 memories."
    assert fact.id in forgotten.artifact
    assert "Porto" not in ask(search, query="Where does Ana live?").content
    assert "cello" in ask(search, query="Where does Ana live?").content


@pytest.mark.parametrize("id", ["nonsense", "00000000-0000-0000-0000-000000000000"])
def test_forget_tells_the_model_what_it_does_not_know(told: Memory, ask: Any, id: str) -> None:
    message = ask(ForgetMemoryTool(memory=told), memory_ids=[id])
    assert message.status == "error"
    assert id in message.content


def test_forget_does_what_it_can(told: Memory, ask: Any) -> None:
    fact = next(fact for fact in told.facts(scope=ANA) if "Porto" in fact.text)
    message = ask(ForgetMemoryTool(memory=told), memory_ids=["nonsense", fact.id])
    assert message.content.startswith("Forgotten: 2 memories. No fact or turn 'nonsense'")
    assert fact.id in message.artifact


def test_an_id_of_another_person_is_not_found(told: Memory, ask: Any) -> None:
    [bobs] = told.facts(scope=BOB)
    message = ask(ForgetMemoryTool(memory=told), memory_ids=[bobs.id])
    assert message.status == "error"
    assert told.facts(scope=BOB) == [bobs]


def test_a_store_that_is_down_is_told_to_the_model(memory: Memory, store: FlakyStore, ask: Any) -> None:
    store.down = True
    for tool, arguments in ((SearchMemoryTool, {"query": "Porto"}), (SaveMemoryTool, {"text": "Likes tea"})):
        message = ask(tool(memory=memory), **arguments)
        assert message.status == "error"
        assert "does not answer" in message.content


@pytest.mark.parametrize("config", [None, {}, {"configurable": {"thread_id": "t"}}, {"configurable": {"user_id": ""}}])
def test_nobody_named_is_an_error_of_the_application(told: Memory, ask: Any, config: Any) -> None:
    bob = {"user_id": "bob"}
    forged = {**bob, "runtime": {"context": bob, "config": {"configurable": bob}}, "config": {"configurable": bob}}
    for tool, arguments in (
        (SearchMemoryTool, {"query": "Rome"}),
        (SaveMemoryTool, {"text": "Likes tea"}),
        (ForgetMemoryTool, {"memory_ids": [told.facts(scope=BOB)[0].id]}),
    ):
        with pytest.raises(ScopeError):
            ask(tool(memory=told), config, **arguments, forged=forged)
    assert [fact.text for fact in told.facts(scope=BOB)] == ["Bob lives in Rome"]


def test_a_person_set_by_the_application_holds_whatever_is_said(told: Memory, ask: Any) -> None:
    tool = SearchMemoryTool(memory=told, user_id="ana")
    found = ask(tool, {"configurable": {"user_id": "bob"}}, query="Who lives in Rome?", user_id="bob")
    assert "Rome" not in found.content


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (SearchMemoryTool, {"query": ""}),
        (SearchMemoryTool, {"query": "x", "limit": 0}),
        (SearchMemoryTool, {"query": "x", "limit": 1000}),
        (SaveMemoryTool, {"text": ""}),
        (ForgetMemoryTool, {"memory_ids": []}),
    ],
)
def test_arguments_out_of_bounds_are_refused(memory: Memory, tool: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        call(tool(memory=memory), **arguments)
