"""The tools, called as programs and as LlamaIndex's agents call them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import Settings
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.async_utils import asyncio_run
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import FunctionTool, ToolMetadata, ToolOutput
from llama_index.core.workflow import Context
from scripted import FakeBackend, decides
from two_people import ANA, BOB, FlakyStore

from llama_index.memory.memlora import MemLoRAToolSpec
from memlora_plugins import (
    AsyncMemory,
    BackendUnavailableError,
    ClosedError,
    InvalidInputError,
    MemloraError,
    Memory,
    Scope,
    ScopeError,
)

QUESTION = "Where does Ana live?"
NAMES = ("search_memory", "save_memory", "forget_memory")
Ask = Callable[..., ToolOutput]


def call(tool: FunctionTool, ctx: Any = None, **arguments: Any) -> ToolOutput:
    return tool.call(ctx=ctx, **arguments)


def acall(tool: FunctionTool, ctx: Any = None, **arguments: Any) -> ToolOutput:
    return asyncio.run(tool.acall(ctx=ctx, **arguments))


@pytest.fixture(params=[call, acall], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    return request.param


def tools_of(memory: Memory, **more: Any) -> dict[str, FunctionTool]:
    return {str(tool.metadata.name): tool for tool in MemLoRAToolSpec(memory=memory, **more).to_tool_list()}


def context(user_id: Any = "ana") -> Any:
    """The context of a workflow in which the application says who it is; None: it says nothing."""
    ctx: Any = Context(FunctionAgent(llm=MockFunctionCallingLLM()))
    if user_id is not None:
        asyncio_run(ctx.store.set("user_id", user_id))
    return ctx


def fact_about(memory: Memory, scope: Scope, word: str) -> str:
    """The id of a fact."""
    return next(fact.id for fact in memory.facts(scope=scope) if word in fact.text)


def everything(memory: Memory, scope: Scope) -> list[Any]:
    return list(memory.export(scope=scope))


def agent(memory: Memory, name: str, arguments: dict[str, Any], **spec: Any) -> FunctionAgent:
    """An agent whose model calls one tool, and then says what it heard."""

    def script(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        if messages[-1].role == "tool":
            return ChatMessage(f"Heard: {messages[-1].content}", role="assistant")
        return ChatMessage(
            role="assistant", blocks=[ToolCallBlock(tool_call_id="1", tool_name=name, tool_kwargs=arguments)]
        )

    tools: Any = MemLoRAToolSpec(memory=memory, **spec).to_tool_list()
    return FunctionAgent(tools=tools, llm=MockFunctionCallingLLM(response_generator=script, is_chat_model=True))


async def run(agent: Any, user_id: str | None = None) -> tuple[str, ToolOutput]:
    """What the agent said in the end, and what its tool gave it."""
    ctx: Any = Context(agent)
    if user_id is not None:
        await ctx.store.set("user_id", user_id)
    result = await agent.run("Please.", ctx=ctx)
    [called] = result.tool_calls
    return str(result), called.tool_output


def test_the_model_is_shown_three_tools_and_no_place_for_a_person(memory: Memory) -> None:
    tools = MemLoRAToolSpec(memory=memory).to_tool_list()
    shown = [tool.metadata.to_openai_tool()["function"] for tool in tools]
    assert [tool["name"] for tool in shown] == list(NAMES)
    assert all(len(tool["description"]) > 60 for tool in shown)
    properties = [tool["parameters"]["properties"] for tool in shown]
    assert [set(found) for found in properties] == [{"query", "limit"}, {"text"}, {"memory_ids"}]
    assert [tool["parameters"]["required"] for tool in shown] == [["query"], ["text"], ["memory_ids"]]
    assert all(field["description"] for found in properties for field in found.values())
    assert (properties[0]["limit"]["minimum"], properties[0]["limit"]["maximum"]) == (1, 50)


def test_search_tells_ids_dates_and_texts(told: Memory, ask: Ask) -> None:
    output = ask(tools_of(told, user_id="ana")["search_memory"], query=QUESTION, limit=2)
    fact = told.get(fact_about(told, ANA, "Porto"), scope=ANA)
    assert f"{fact.id} [" in output.content
    assert f"{fact.recorded_at.date()}] Ana lives in Porto" in output.content
    assert output.content.count("\n") == 3  # two lines between two markers
    nothing = ask(tools_of(told, user_id="zoe")["search_memory"], query=QUESTION)
    assert nothing.content == "Nothing is remembered about that."


def test_save_tells_what_became_of_it(memory: Memory, backend: FakeBackend, ask: Ask) -> None:
    save = tools_of(memory, user_id="ana")["save_memory"]
    assert ask(save, text="Lives in Porto").content == "Saved: Lives in Porto"
    assert ask(save, text="Lives in Porto").content == "Known already."
    backend.experts["update"] = lambda request: decides(("0", "UPDATE", "Lives in Porto, at the sea"))
    assert ask(save, text="Lives in Porto, at the sea").content == "Saved: Lives in Porto, at the sea"
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Lives in Porto, at the sea"]


def test_save_keeps_what_cannot_be_compared_now(memory: Memory, backend: FakeBackend, ask: Ask) -> None:
    ask(tools_of(memory, user_id="ana")["save_memory"], text="Lives in Porto")
    backend.experts["update"] = lambda request: BackendUnavailableError("down")
    assert ask(tools_of(memory, user_id="ana")["save_memory"], text="Lives in Porto now").content.startswith("Kept")
    assert memory.count(scope=ANA)["pending"] == 1


def test_save_need_not_wait(memory: Memory, ask: Ask) -> None:
    save = tools_of(memory, user_id="ana", wait=False)["save_memory"]
    assert ask(save, text="Has a dog").content == "Kept; it will be found a little later."
    memory.flush()
    assert fact_about(memory, ANA, "dog")


def test_what_one_agent_saves_is_its_own(memory: Memory, ask: Ask) -> None:
    coach, other = tools_of(memory, user_id="ana", agent_id="coach"), tools_of(memory, user_id="ana", agent_id="cook")
    ask(coach["save_memory"], text="Runs ten miles")
    assert "ten miles" in ask(coach["search_memory"], query="miles").content
    assert "ten miles" not in ask(other["search_memory"], query="miles").content
    assert "ten miles" in ask(tools_of(memory, user_id="ana")["search_memory"], query="miles").content


def test_forget_takes_the_words_along(told: Memory, ask: Ask) -> None:
    tools = tools_of(told, user_id="ana")
    forgotten = ask(tools["forget_memory"], memory_ids=["nonsense", fact_about(told, ANA, "Porto")])
    assert forgotten.content.startswith("Forgotten: 2 memories. No fact or turn 'nonsense'")
    left = ask(tools["search_memory"], query=QUESTION).content
    assert "Porto" not in left
    assert "cello" in left


@pytest.mark.parametrize("named_by", ["constructor", "context"])
def test_an_id_of_another_person_is_not_found(told: Memory, ask: Ask, named_by: str) -> None:
    forget = tools_of(told, user_id="ana" if named_by == "constructor" else None)["forget_memory"]
    ids, before = [item.id for item in (*told.facts(scope=BOB), *told.turns(scope=BOB))], everything(told, BOB)
    with pytest.raises(MemloraError, match="No fact or turn"):
        ask(forget, None if named_by == "constructor" else context("ana"), memory_ids=ids)
    assert everything(told, BOB) == before


def test_the_context_says_whose_memory_it_is(told: Memory, ask: Ask) -> None:
    tools = tools_of(told)
    assert "Rome" in ask(tools["search_memory"], context("bob"), query="Who lives where?").content
    assert "Porto" not in ask(tools["search_memory"], context("bob"), query="Who lives where?").content
    ask(tools["save_memory"], context("ana"), text="Has a dog")
    ask(tools["forget_memory"], context("ana"), memory_ids=[fact_about(told, ANA, "cello")])
    assert {fact.text for fact in told.facts(scope=ANA)} == {"Ana lives in Porto", "Has a dog"}
    assert [fact.text for fact in told.facts(scope=BOB)] == ["Bob lives in Rome"]


def test_the_person_of_the_constructor_holds_whatever_the_context_says(told: Memory, ask: Ask) -> None:
    found = ask(tools_of(told, user_id="ana")["search_memory"], context("bob"), query="Who lives where?").content
    assert "Porto" in found
    assert "Rome" not in found


def test_nobody_named_is_an_error_of_the_application(told: Memory, ask: Ask) -> None:
    tools, before = tools_of(told), everything(told, BOB)
    given = ({"query": "Rome"}, {"text": "Likes tea"}, {"memory_ids": [before[-1]["id"]]})
    for ctx in (None, {}, {"user_id": "bob"}, "bob", {"store": {"user_id": "bob"}}, BOB, context(None)):
        for name, arguments in zip(NAMES, given, strict=True):
            with pytest.raises(ScopeError, match="Whose memory"):
                ask(tools[name], ctx, **arguments, user_id="bob", scope="bob")
    assert everything(told, BOB) == before


def test_a_person_without_a_name_is_refused(told: Memory, ask: Ask) -> None:
    for user_id in ("", " ", 7):
        with pytest.raises(ScopeError, match="user_id"):
            MemLoRAToolSpec(memory=told, user_id=user_id)  # type: ignore[arg-type]
        with pytest.raises(ScopeError, match="user_id"):
            ask(tools_of(told)["search_memory"], context(user_id), query=QUESTION)


FORGED: dict[str, Any] = {
    "user_id": "bob",
    "user": "bob",
    "agent_id": "coach",
    "scope": {"user_id": "bob"},
    "partial_params": {"user_id": "bob"},
    "memory": {"user_id": "bob"},
    "asked": {"query": "Rome", "user_id": "bob"},
    "kwargs": {"user_id": "bob"},
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "search_memory": {"query": "Who lives in Rome? bob"},
    "save_memory": {"text": "Likes tea"},
    "forget_memory": {"memory_ids": []},
}


async def in_agent(memory: Memory, name: str, named_by: str, forged: dict[str, Any]) -> ToolOutput:
    """What a model gets that makes up arguments while Ana is served."""
    bobs = [item.id for item in (*memory.facts(scope=BOB), *memory.turns(scope=BOB))]
    arguments = ARGUMENTS[name] | ({"memory_ids": bobs} if name == "forget_memory" else {}) | forged
    if named_by == "constructor":
        return (await run(agent(memory, name, arguments, user_id="ana")))[1]
    return (await run(agent(memory, name, arguments), "ana"))[1]


@pytest.mark.parametrize("named_by", ["constructor", "context"])
@pytest.mark.parametrize("name", NAMES)
async def test_a_model_cannot_name_the_person(told: Memory, name: str, named_by: str) -> None:
    before = everything(told, BOB)
    for ctx in ({"user_id": "bob"}, {"store": {"user_id": "bob"}}, "bob", None):
        output = await in_agent(told, name, named_by, FORGED | {"ctx": ctx})
        assert output.is_error is (name == "forget_memory")
        assert "Rome" not in output.content
    saved = {"Likes tea"} if name == "save_memory" else set()
    assert {fact.text for fact in told.facts(scope=ANA)} == {"Ana lives in Porto", "Ana plays the cello"} | saved
    assert (await in_agent(told, name, named_by, {"self": {"user_id": "bob"}})).is_error
    assert everything(told, BOB) == before


_words = st.sampled_from(["bob", "user_id", "*", "", "ana' OR '1'='1"]) | st.text(max_size=8)
_names = st.sampled_from([*FORGED, "self", "ctx", "query", "limit", "text", "memory_ids", "wait", "fn"]) | _words
_scalars = st.none() | st.booleans() | st.integers() | _words | st.just(BOB)
_values = _scalars | st.lists(_scalars, max_size=3) | st.dictionaries(_names, _scalars, max_size=3)


@pytest.mark.parametrize("named_by", ["constructor", "context"])
def test_no_argument_opens_the_memory_of_another_person(told: Memory, named_by: str) -> None:
    tools, ctx = tools_of(told, user_id="ana" if named_by == "constructor" else None), context("ana")
    before, bobs = everything(told, BOB), [item.id for item in (*told.facts(scope=BOB), *told.turns(scope=BOB))]
    given_as = {**ARGUMENTS, "forget_memory": {"memory_ids": bobs}}

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(name=st.sampled_from(NAMES), forged=st.dictionaries(_names, _values, max_size=4))
    def holds(name: str, forged: dict[str, Any]) -> None:
        arguments = {"ctx": ctx} | given_as[name] | forged
        try:
            heard = tools[name].call(**arguments).content
        except (MemloraError, TypeError) as error:
            heard = str(error)
        assert "Rome" not in heard
        assert everything(told, BOB) == before

    holds()


def test_arguments_out_of_bounds_are_refused(memory: Memory, ask: Ask) -> None:
    search, save, forget = tools_of(memory, user_id="ana").values()
    queries = ({}, {"query": ""}, {"query": " "}, {"query": "x", "limit": 0}, {"query": "x", "limit": 51})
    refused = [(search, query) for query in queries]
    refused += [(save, {"text": ""}), (save, {"text": " "}), (forget, {"memory_ids": []}), (forget, {})]
    refused += [(forget, {"memory_ids": "all"})]
    for tool, arguments in refused:
        with pytest.raises(InvalidInputError):
            ask(tool, **arguments)


async def test_an_agent_searches_saves_and_forgets(told: Memory) -> None:
    said, output = await run(agent(told, "search_memory", {"query": QUESTION}), "ana")
    assert "Ana lives in Porto" in said
    assert not output.is_error
    said, _ = await run(agent(told, "save_memory", {"text": "Has a dog"}), "ana")
    assert said == "Heard: Saved: Has a dog"
    said, _ = await run(agent(told, "forget_memory", {"memory_ids": [fact_about(told, ANA, "Porto")]}), "ana")
    assert said == "Heard: Forgotten: 2 memories."
    assert {fact.text for fact in told.facts(scope=ANA)} == {"Ana plays the cello", "Has a dog"}


async def test_a_team_of_agents_serves_the_person_of_the_context(told: Memory) -> None:
    team = AgentWorkflow(agents=[agent(told, "search_memory", {"query": "Who lives where?", "ctx": "bob"})])
    said, _ = await run(team, "ana")
    assert "Porto" in said
    assert "Rome" not in said


async def test_an_agent_goes_on_when_memory_fails(told: Memory, store: FlakyStore) -> None:
    store.down = True
    for name, arguments in (("search_memory", {"query": "Porto"}), ("save_memory", {"text": "Likes tea"})):
        said, output = await run(agent(told, name, arguments), "ana")
        assert output.is_error
        assert said == "Heard: The Qdrant server does not answer."
    store.down = False
    for named in (None, ""):
        said, output = await run(agent(told, "search_memory", {"query": "Porto"}), named)
        assert isinstance(output.exception, ScopeError)
        assert said.startswith("Heard: ")


def test_a_closed_memory_is_an_error(told: Memory, ask: Ask) -> None:
    told.close()
    with pytest.raises(ClosedError):
        ask(tools_of(told, user_id="ana")["forget_memory"], memory_ids=["x"])


def test_each_world_goes_through_its_own_door(told: Memory, ask: Ask, monkeypatch: Any) -> None:
    for door in ("search", "note", "forget"):
        monkeypatch.setattr(AsyncMemory if ask is call else Memory, door, None)
    tools = tools_of(told)
    assert "Porto" in ask(tools["search_memory"], context(), query=QUESTION).content
    assert "Saved" in ask(tools["save_memory"], context(), text="Has a dog").content
    assert "Forgotten" in ask(tools["forget_memory"], context(), memory_ids=[fact_about(told, ANA, "cello")]).content


async def test_the_sync_tool_can_be_called_on_an_event_loop(told: Memory) -> None:
    assert "Porto" in tools_of(told)["search_memory"].call(ctx=context(), query=QUESTION).content


def test_the_metadata_of_the_application_holds(memory: Memory) -> None:
    mine = ToolMetadata(name="recall", description="Mine.", return_direct=True)
    tools = MemLoRAToolSpec(memory=memory, user_id="ana").to_tool_list(func_to_metadata_mapping={"search_memory": mine})
    assert [tool.metadata.name for tool in tools] == ["recall", "save_memory", "forget_memory"]
    assert tools[0].metadata is mine


@pytest.mark.parametrize("function", ["search_memory", ("search_memory", "asearch_memory")])
def test_one_of_the_tools_can_be_had_alone(told: Memory, ask: Ask, function: Any) -> None:
    [tool] = MemLoRAToolSpec(memory=told, user_id="ana").to_tool_list([function])
    assert tool.metadata.name == "search_memory"
    assert set(tool.metadata.get_parameters_dict()["properties"]) == {"query", "limit"}
    assert "Porto" in ask(tool, query=QUESTION).content


def test_tools_of_a_named_person_work_outside_of_a_workflow(told: Memory) -> None:
    [search, *_] = MemLoRAToolSpec(memory=told, user_id="ana").to_tool_list()
    assert "Porto" in search.call(query="Where does Ana live?").content
    assert "Rome" not in search.call(query="Who lives in Rome?", ctx={"user_id": "bob"}).content
    llm = MockFunctionCallingLLM(
        response_generator=lambda messages, **_: ChatMessage(
            role="assistant",
            blocks=[ToolCallBlock(tool_call_id="1", tool_name="search_memory", tool_kwargs={"query": "Porto"})],
        ),
        is_chat_model=True,
    )
    assert "Porto" in str(llm.predict_and_call([search], "Where does Ana live?"))


def test_a_tool_by_its_asynchronous_name_is_the_same(told: Memory) -> None:
    spec = MemLoRAToolSpec(memory=told, user_id="ana")
    [search] = spec.to_tool_list(["asearch_memory"])
    assert search.metadata.name == "search_memory"
    assert set(search.metadata.get_parameters_dict()["properties"]) == {"query", "limit"}
    mine = ToolMetadata(name="mine", description="d")
    assert spec.to_tool_list(func_to_metadata_mapping={"asearch_memory": mine})[0].metadata is mine
    assert spec.to_tool_list(func_to_metadata_mapping={"search_memory": mine})[0].metadata is mine


def test_what_saving_takes_is_counted(memory: Memory, backend: FakeBackend) -> None:
    counter = TokenCountingHandler()
    [_, save, _] = MemLoRAToolSpec(memory=memory, user_id="ana").to_tool_list()
    before = Settings.callback_manager
    Settings.callback_manager = CallbackManager([counter])
    try:
        save.call(text="Ana lives in Porto")
        backend.experts["update"] = lambda request: decides(("0", "UPDATE", "Ana lives in Rome"))
        save.call(text="Ana lives in Rome")
    finally:
        Settings.callback_manager = before
    assert counter.prompt_llm_token_count == 10
