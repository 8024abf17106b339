"""A Memory model as a tool, called as programs and as LlamaIndex's agents call it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import FunctionTool, ToolMetadata, ToolOutput
from scripted_llm import Told, saying
from scripted_memo import DONE, FINAL, ScriptedMemory, confirm, ground, seek

from llama_index.memory.memlora import ExpertEndEvent, LLMExecutive, MeMoStageEvent, MeMoToolSpec
from memlora_plugins import (
    BackendUnavailableError,
    ClosedError,
    InvalidInputError,
    MemloraError,
    SettingsError,
)
from memlora_plugins.memo.protocol import Protocol
from memlora_plugins.plugs.memo import MEMO_TOOL_NAME, MOST_QUESTIONS, PROTOCOL_TOOL_NAME

WHO, BORN = "Who founded the lighthouse museum?", "Where was Ada Lume born?"
KNOWN = {WHO: "Ada Lume did.", BORN: "In Porto."}
SECRET = "http://10.1.2.3:8000/v1 key sk-123"
Ask = Callable[..., ToolOutput]


def call(tool: FunctionTool, **arguments: Any) -> ToolOutput:
    return tool.call(**arguments)


def acall(tool: FunctionTool, **arguments: Any) -> ToolOutput:
    return asyncio.run(tool.acall(**arguments))


@pytest.fixture(params=[call, acall], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    return request.param


def protocol_of(memory: Any, replies: Sequence[Any] = ()) -> Protocol:
    replies = replies or [ground(WHO), confirm("Ada Lume"), seek(BORN), DONE, FINAL]
    return Protocol(executive=LLMExecutive(saying(replies)), memory_model=memory)


def tools_of(memory: Any, **more: Any) -> dict[str, FunctionTool]:
    return {str(tool.metadata.name): tool for tool in MeMoToolSpec(memory_model=memory, **more).to_tool_list()}


def calling(name: str, **arguments: Any) -> MockFunctionCallingLLM:
    """A model that calls one tool, and then says what it heard."""

    def script(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        if messages[-1].role == "tool":
            return ChatMessage(f"Heard: {messages[-1].content}", role="assistant")
        called = ToolCallBlock(tool_call_id="1", tool_name=name, tool_kwargs=arguments)
        return ChatMessage(role="assistant", blocks=[called])

    return MockFunctionCallingLLM(response_generator=script, is_chat_model=True)


async def run(tools: dict[str, FunctionTool], name: str, **arguments: Any) -> tuple[str, ToolOutput]:
    """What an agent said in the end, and what its tool gave it."""
    agent = FunctionAgent(tools=list(tools.values()), llm=calling(name, **arguments))  # type: ignore[arg-type]
    result = await agent.run("Where was the founder born?")
    [called] = result.tool_calls
    return str(result), called.tool_output


def test_the_model_is_shown_what_the_tools_take() -> None:
    memory = ScriptedMemory(KNOWN)
    assert list(tools_of(memory)) == [MEMO_TOOL_NAME]
    shown = [
        tool.metadata.to_openai_tool()["function"] for tool in tools_of(memory, protocol=protocol_of(memory)).values()
    ]
    assert [tool["name"] for tool in shown] == [MEMO_TOOL_NAME, PROTOCOL_TOOL_NAME]
    assert all(len(tool["description"]) > 60 for tool in shown)
    assert [list(tool["parameters"]["properties"]) for tool in shown] == [["questions"], ["question"]]
    assert [tool["parameters"]["required"] for tool in shown] == [["questions"], ["question"]]
    assert shown[0]["parameters"]["properties"]["questions"]["maxItems"] == MOST_QUESTIONS


def test_another_description_can_be_given() -> None:
    own = ToolMetadata(name="museum", description="Knows all about the lighthouse museum.")
    for name in ("ask_memory_model", "aask_memory_model"):
        [tool] = MeMoToolSpec(memory_model=ScriptedMemory()).to_tool_list(func_to_metadata_mapping={name: own})
        assert tool.metadata is own


def test_several_questions_are_asked_at_once(ask: Ask) -> None:
    memory = ScriptedMemory(KNOWN)
    output = ask(tools_of(memory)[MEMO_TOOL_NAME], questions=[WHO, "Who is who?", BORN])
    assert memory.rounds == [(WHO, "Who is who?", BORN)]
    assert output.content == (f"1. {WHO} -> Ada Lume did.\n2. Who is who? -> I don't know.\n3. {BORN} -> In Porto.")


def test_a_whole_question_is_researched(ask: Ask) -> None:
    memory = ScriptedMemory(KNOWN)
    output = ask(tools_of(memory, protocol=protocol_of(memory))[PROTOCOL_TOOL_NAME], question="Where?")
    assert output.content.splitlines()[0] == "Answer: Porto"
    assert memory.rounds == [(WHO,), (BORN,)]


def test_what_it_took_is_told(ask: Ask, told_events: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    monkeypatch.setattr(Settings, "_callback_manager", CallbackManager([counter]))
    memory = ScriptedMemory(KNOWN)
    tools = tools_of(memory, protocol=protocol_of(memory))
    ask(tools[MEMO_TOOL_NAME], questions=[WHO, BORN])
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (10, 4)
    ask(tools[PROTOCOL_TOOL_NAME], question="Where?")
    assert [event.calls for event in told_events.of(ExpertEndEvent)] == [2, 1, 1]
    assert [event.stage for event in told_events.of(MeMoStageEvent)] == ["grounding", "entity", "answer", "synthesis"]


def test_arguments_that_cannot_be_used_are_refused(ask: Ask) -> None:
    memory = ScriptedMemory(KNOWN)
    tools = tools_of(memory, protocol=protocol_of(memory))
    for questions in ([], [" "], [WHO, ""], None, {"a": 1}, [WHO] * (MOST_QUESTIONS + 1)):
        with pytest.raises(InvalidInputError):
            ask(tools[MEMO_TOOL_NAME], questions=questions)
    for arguments in ({}, {"question": " "}, {"question": [WHO, BORN]}):
        with pytest.raises(InvalidInputError):
            ask(tools[PROTOCOL_TOOL_NAME], **arguments)
    assert memory.rounds == []


def test_there_is_no_research_without_a_protocol() -> None:
    spec = MeMoToolSpec(memory_model=ScriptedMemory(KNOWN))
    [tool] = spec.to_tool_list(["research_with_memory_model"])
    with pytest.raises(SettingsError, match="protocol="):
        tool.call(question="Where?")


async def test_an_agent_asks_two_sub_questions() -> None:
    memory = ScriptedMemory(KNOWN)
    said, output = await run(tools_of(memory), MEMO_TOOL_NAME, questions=[WHO, BORN])
    assert said == f"Heard: 1. {WHO} -> Ada Lume did.\n2. {BORN} -> In Porto."
    assert not output.is_error
    assert memory.rounds == [(WHO, BORN)]


async def test_an_agent_has_a_question_researched() -> None:
    memory = ScriptedMemory(KNOWN)
    tools = tools_of(memory, protocol=protocol_of(memory))
    said, _ = await run(tools, PROTOCOL_TOOL_NAME, question="Where was the founder born?")
    assert said.startswith("Heard: Answer: Porto")


@pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning")  # by `ReActAgent`
async def test_an_agent_that_reasons_in_words_asks_it() -> None:
    steps = [
        f'Thought: I need to ask.\nAction: {MEMO_TOOL_NAME}\nAction Input: {{"questions": ["{WHO}"]}}',
        "Thought: I can answer without using any more tools.\nAnswer: Ada Lume.",
    ]
    memory = ScriptedMemory(KNOWN)
    agent = ReActAgent(tools=list(tools_of(memory).values()), llm=saying(steps), streaming=False)  # type: ignore[arg-type]
    assert str(await agent.run("Who founded it?")) == "Ada Lume."
    assert memory.rounds == [(WHO,)]


async def test_what_a_model_makes_up_changes_nothing() -> None:
    memory, other = ScriptedMemory(KNOWN), ScriptedMemory({WHO: "Bo did."})
    made_up = {"memory_model": other, "temperature": 2.0, "partial_params": {"memory_model": other}, "asked": {}}
    said, _ = await run(tools_of(memory), MEMO_TOOL_NAME, questions=[WHO], **made_up)
    assert "Ada Lume did." in said
    assert (memory.temperatures, other.rounds) == ([0.0], [])
    _, output = await run(tools_of(memory), MEMO_TOOL_NAME, questions=[WHO], self=other)
    assert output.is_error
    assert other.rounds == []


async def test_a_memory_model_that_is_down_is_told_in_words_for_a_model(caplog: pytest.LogCaptureFixture) -> None:
    down = ScriptedMemory(failing=BackendUnavailableError(f"No server answers at {SECRET}."))
    said, output = await run(tools_of(down), MEMO_TOOL_NAME, questions=[WHO])
    assert output.is_error
    assert "out of reach" in said
    assert SECRET not in f"{said} {output.model_dump_json()}"
    assert SECRET in caplog.text
    nothing = {"final_answer": "It does not tell.", "justification": ""}
    tools = tools_of(down, protocol=protocol_of(down, [ground(WHO), confirm("Ada"), DONE, nothing]))
    said, output = await run(tools, PROTOCOL_TOOL_NAME, question="Where?")
    assert not output.is_error
    assert "Answer: It does not tell." in said
    assert "1 of 1 questions" in said
    assert SECRET not in f"{said} {output.model_dump_json()}"


class DownExecutive:
    """A model server that is out of reach."""

    def complete(self, *_: Any, **__: Any) -> str:
        raise BackendUnavailableError(f"No server answers at {SECRET}.")

    async def acomplete(self, *_: Any, **__: Any) -> str:
        raise BackendUnavailableError(f"No server answers at {SECRET}.")


def test_an_executive_that_is_down_is_told_in_words_for_a_model(ask: Ask) -> None:
    memory = ScriptedMemory(KNOWN)
    tools = tools_of(memory, protocol=Protocol(executive=DownExecutive(), memory_model=memory))
    with pytest.raises(MemloraError, match="out of reach") as raised:
        ask(tools[PROTOCOL_TOOL_NAME], question="Where?")
    assert SECRET not in str(raised.value)
    assert SECRET in str(raised.value.__cause__)


def test_what_only_the_application_can_mend_is_told_as_it_is(ask: Ask) -> None:
    with pytest.raises(ClosedError, match="closed before"):
        ask(tools_of(ScriptedMemory(failing=ClosedError("It was closed before.")))[MEMO_TOOL_NAME], questions=[WHO])
