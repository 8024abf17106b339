"""`MemLoRAMemory` inside of what it is made for: agents, workflows and chat engines, sync, async and streaming."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, CodeActAgent, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler, TokenCountingHandler
from llama_index.core.callbacks.schema import CBEventType
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine, SimpleChatEngine
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent, RetrievalStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import StaticMemoryBlock
from llama_index.core.memory.memory import InsertMethod
from llama_index.core.workflow import Context, JsonSerializer
from scripted import FakeBackend, WordEmbedder
from scripted_llm import Brain, Make, Told, clock, reply, texts, user
from two_people import ANA, FlakyStore

from llama_index.memory.memlora import (
    ExpertEndEvent,
    MemLoRAMemory,
    MemLoRARetriever,
    MemoryAddEvent,
    MemoryWarningEvent,
)
from memlora_plugins import (
    BackendUnavailableError,
    ClosedError,
    Memory,
    Message,
    NotPortableError,
    Scope,
    ScopeError,
    core,
)

# --- agents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_knows_on_friday_what_it_was_told_on_monday(
    memory: Memory, made: Make, brain: Brain, streaming: bool
) -> None:
    agent = brain.agent(streaming=streaming, system_prompt="Be kind.")
    handler = agent.run("I moved. «Ana lives in Porto»", memory=made("monday"))
    streamed = [event.delta async for event in handler.stream_events() if isinstance(event, AgentStream)]
    assert str(await handler) == "I see."
    assert "".join(streamed) == ("I see." if streaming else "")
    await memory.aio.flush()
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Ana lives in Porto"]
    await agent.run("Where does Ana live?", memory=made("friday"))
    assert "] Ana lives in Porto\n" in brain.shown
    assert [message.role.value for message in brain.heard[-1]] == ["system", "user"]
    await agent.run("Where does Ana live?", memory=made("friday", user_id="bob"))
    assert "Porto" not in brain.shown


async def test_a_turn_with_a_tool_costs_one_recall_and_one_extraction(
    memory: Memory, made: Make, brain: Brain, backend: FakeBackend, searches: list[str]
) -> None:
    ours = made()
    await brain.agent().run("What time is it? «Ana asks for the time»", memory=ours)
    assert len(brain.heard) == 2
    assert len(searches) == 1
    await memory.aio.flush()
    assert len(backend.asked("extraction")) == 1
    assert texts(await ours.aget_all()) == ["What time is it? «Ana asks for the time»", None, "noon", "It is noon."]
    assert [block.tool_name for block in (await ours.aget_all())[1].blocks if isinstance(block, ToolCallBlock)] == [
        "clock"
    ]
    assert memory.count(scope=ANA) == {"facts": 1, "retired": 0, "turns": 4, "pending": 0}
    assert {hit.text for hit in memory.search("noon clock", scope=ANA, kinds=["turn"])} == {
        "What time is it? «Ana asks for the time»",
        "It is noon.",
    }


async def test_the_same_words_at_another_time_are_recalled_again(
    memory: Memory, made: Make, brain: Brain, searches: list[str]
) -> None:
    ours = made()
    for _ in range(2):
        await brain.agent().run("Where do I live?", memory=ours)
        memory.note("Ana lives in Porto", scope=ANA)
    assert len(searches) == 2
    assert "] Ana lives in Porto\n" in brain.shown


async def test_what_the_model_sees_in_the_conversation_is_not_shown_again(
    memory: Memory, made: Make, brain: Brain
) -> None:
    ours = made()
    await brain.agent().run("I play the cello.", memory=ours)
    await brain.agent().run("Do I play the cello?", memory=ours)
    assert brain.shown.count("I play the cello.") == 1
    await brain.agent().run("Do I play the cello?", memory=made("another"))
    assert '] user said: "I play the cello."' in brain.shown


@pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning")
async def test_an_agent_workflow_and_a_react_agent_remember(memory: Memory, made: Make, brain: Brain) -> None:
    workflow = AgentWorkflow(agents=[brain.agent(name="one")], root_agent="one")
    await workflow.run("What time is it? «Ana is in a hurry»", memory=made("first"))
    thinking = MockFunctionCallingLLM(
        response_generator=lambda messages, **_: reply("Thought: I know.\nAnswer: Hello."), is_chat_model=True
    )
    await ReActAgent(llm=thinking, tools=[clock], streaming=False).run("Hello. «Ana greets»", memory=made("second"))
    await memory.aio.flush()
    assert {fact.text for fact in memory.facts(scope=ANA)} == {"Ana is in a hurry", "Ana greets"}


async def test_handing_over_to_another_agent_recalls_nothing_anew(
    made: Make, brain: Brain, searches: list[str]
) -> None:
    def hand_over(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        arguments = {"to_agent": "second", "reason": "it knows"}
        return ChatMessage(
            role="assistant", blocks=[ToolCallBlock(tool_call_id="1", tool_name="handoff", tool_kwargs=arguments)]
        )

    first = MockFunctionCallingLLM(response_generator=hand_over, is_chat_model=True)
    agents = [
        FunctionAgent(name="first", llm=first, streaming=False, can_handoff_to=["second"], description="1"),
        brain.agent(name="second", description="2"),
    ]
    result = await AgentWorkflow(agents=agents, root_agent="first").run("Hello there", memory=made())
    assert "handling the request" in str(result)
    assert searches == ["Hello there"]


async def test_what_was_said_is_kept_though_the_model_fails(
    memory: Memory, made: Make, brain: Brain, backend: FakeBackend
) -> None:
    ours = made()
    brain.failing = RuntimeError("no model")
    with pytest.raises(RuntimeError, match="no model"):
        await brain.agent().run("I moved. «Ana lives in Porto»", memory=ours)
    assert [turn.pending for turn in memory.turns(scope=ANA)] == [True]
    brain.failing = None
    await brain.agent().run("Hello?", memory=made())  # another object for the same session, as in another request
    await memory.aio.flush()
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Ana lives in Porto"]
    assert len(backend.asked("extraction")) == 2


async def test_agents_at_once_keep_people_apart(memory: Memory, made: Make, brain: Brain) -> None:
    agent = brain.agent()
    people = [f"person-{number}" for number in range(20)]
    await asyncio.gather(
        *(agent.run(f"I am. «{person} is here»", memory=made("one", user_id=person)) for person in people)
    )
    await memory.aio.flush()
    for person in people:
        assert [fact.text for fact in memory.facts(scope=Scope(person))] == [f"{person} is here"]
        assert texts(await made("one", user_id=person).aget_all()) == [f"I am. «{person} is here»", "I see."]


# --- chat engines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_chat_engines_remember(memory: Memory, made: Make, brain: Brain, way: str) -> None:
    async def say(engine: Any, line: str) -> str:
        if way == "chat":
            return str(await asyncio.to_thread(engine.chat, line))
        if way == "achat":
            return str(await engine.achat(line))
        if way == "stream_chat":
            return await asyncio.to_thread(lambda: "".join(engine.stream_chat(line).response_gen))
        streamed = await engine.astream_chat(line)
        return "".join([token async for token in streamed.async_response_gen()])

    memory.add([Message("user", "The shop opens at nine.")], scope=Scope("shop"), distil=False)
    retriever = MemLoRARetriever(memory=memory, user_id="shop")
    for number, make in enumerate(
        (
            lambda kept: SimpleChatEngine.from_defaults(llm=brain.llm, memory=kept),
            lambda kept: ContextChatEngine.from_defaults(retriever=retriever, llm=brain.llm, memory=kept),
            lambda kept: CondensePlusContextChatEngine.from_defaults(retriever=retriever, llm=brain.llm, memory=kept),
        )
    ):
        person = f"person-{number}"
        scope = Scope(person)
        engine = make(made("monday", user_id=person))
        answer = await say(engine, f"I moved. «{person} lives in Porto»")
        await memory.aio.flush()
        assert [fact.text for fact in memory.facts(scope=scope)] == [f"{person} lives in Porto"]
        kept = [str(text).strip() for text in texts(engine.chat_history)]
        assert kept == [f"I moved. «{person} lives in Porto»", answer.strip()]
        brain.heard.clear()
        answer = await say(make(made("friday", user_id=person)), "Where do I live?")
        seen = [str(message.content) for messages in brain.heard for message in messages]
        # the oldest mock has some engines complete a prompt, and completes it by its echo
        assert f"] {person} lives in Porto\n" in "".join([answer, *seen])


def test_reset_begins_anew_and_forgets_nothing(memory: Memory, made: Make, brain: Brain) -> None:
    ours = made()
    engine = SimpleChatEngine.from_defaults(llm=brain.llm, memory=ours)
    engine.chat("I play the cello.")
    engine.reset()
    assert engine.chat_history == []
    assert made().get_all() == []  # as after a restart
    engine.chat("Do I play the cello?")
    assert '] user said: "I play the cello."' in brain.shown
    assert texts(made().get_all()) == ["Do I play the cello?", "I see."]
    memory.erase(scope=Scope("ana", session_id="monday"))
    assert ours.get_all() == []
    assert memory.count(scope=ANA)["turns"] == 0


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_id", [None, "", "  ", 7])
def test_nobody_named_is_an_error(memory: Memory, user_id: Any) -> None:
    with pytest.raises(ScopeError):
        MemLoRAMemory.from_defaults(memory=memory, user_id=user_id)
    with pytest.raises(ScopeError):
        MemLoRAMemory(memory=memory)
    with pytest.raises(ScopeError):
        MemLoRAMemory(memory=memory, user_id="ana", session_id="")


def test_what_it_does_not_take_is_an_error(memory: Memory) -> None:
    for name in ("chat_store", "async_database_uri", "nonsense"):
        with pytest.raises(TypeError, match=name):
            MemLoRAMemory.from_defaults(memory=memory, user_id="ana", **{name: None})


async def test_the_chat_goes_on_without_the_experts(
    memory: Memory, made: Make, brain: Brain, backend: FakeBackend, told_events: Told
) -> None:
    backend.experts["extraction"] = lambda request: BackendUnavailableError("no model server")
    agent = brain.agent()
    assert str(await agent.run("I moved. «Ana lives in Porto»", memory=made(wait=True))) == "I see."
    [warning] = told_events.of(MemoryWarningEvent)
    assert (warning.stage, warning.error, warning.unkept) == ("extraction", "BackendUnavailableError", 0)
    [pending] = memory.turns(scope=ANA, pending=True)
    assert warning.pending == [pending.id]
    del backend.experts["extraction"]
    backend.experts["extraction"] = lambda request: '{"facts": ["Ana lives in Porto"]}'
    await agent.run("Hello", memory=made(wait=True))
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Ana lives in Porto"]
    assert memory.count(scope=ANA)["pending"] == 0


async def test_a_failure_in_the_background_is_told_in_the_next_turn(
    memory: Memory, made: Make, brain: Brain, backend: FakeBackend, told_events: Told
) -> None:
    backend.experts["extraction"] = lambda request: BackendUnavailableError("no model server")
    await brain.agent().run("I moved. «Ana lives in Porto»", memory=made())
    assert not told_events.of(MemoryWarningEvent)
    assert (await memory.aio.flush()).errors
    await brain.agent().run("Hello", memory=made())
    assert [warning.error for warning in told_events.of(MemoryWarningEvent)] == ["BackendUnavailableError"]


async def test_the_chat_goes_on_without_the_store_and_nothing_is_lost(
    memory: Memory, made: Make, brain: Brain, store: FlakyStore, told_events: Told
) -> None:
    ours, agent = made(), brain.agent()
    await agent.run("I am Ana.", memory=ours)
    await memory.aio.flush()
    store.down = True
    await agent.run("I moved. «Ana lives in Porto»", memory=ours)
    assert brain.shown == "user: I am Ana.\nassistant: I see.\nuser: I moved. «Ana lives in Porto»"
    assert {warning.stage for warning in told_events.of(MemoryWarningEvent)} == {"history", "keep", "recall"}
    assert texts(await ours.aget_all())[-2:] == ["I moved. «Ana lives in Porto»", "I see."]
    store.down = False
    await agent.run("Hello.", memory=ours)
    await memory.aio.flush()
    assert texts(await made().aget_all())[2:] == ["I moved. «Ana lives in Porto»", "I see.", "Hello.", "I see."]
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Ana lives in Porto"]


@pytest.mark.parametrize("way", ["tasks", "threads"])
async def test_what_is_said_at_once_while_the_store_is_down_is_kept(
    memory: Memory, made: Make, store: FlakyStore, way: str
) -> None:
    ours = made(wait=True)
    store.down = True
    lines = [user(f"I say so. «fact {number}»") for number in range(5)]
    if way == "tasks":
        await asyncio.gather(*(ours.aput(line) for line in lines))
    else:
        await asyncio.gather(*(asyncio.to_thread(ours.put, line) for line in lines))
    store.down = False
    await ours.aput(reply("I see."))
    assert {fact.text for fact in memory.facts(scope=ANA)} == {f"fact {number}" for number in range(5)}


async def test_what_is_said_while_another_exchange_is_distilled_is_distilled_too(
    memory: Memory, made: Make, backend: FakeBackend
) -> None:
    ours = made(wait=True)
    backend.delay = 0.1
    await ours.aput(user("I say so. «fact A»"))
    distilling = asyncio.create_task(ours.aput(reply("I see.")))
    await asyncio.sleep(0.03)
    await ours.aput(user("And so. «fact B»"))
    await distilling
    await ours.aput(reply("I see."))
    assert {fact.text for fact in memory.facts(scope=ANA)} == {"fact A", "fact B"}


@pytest.mark.parametrize("wait", [True, False])
async def test_what_could_not_be_distilled_is_with_the_next_exchange(
    memory: Memory, made: Make, backend: FakeBackend, wait: bool
) -> None:
    ours, extraction = made(wait=wait), backend.experts["extraction"]
    for line, expert in (("«a»", lambda request: BackendUnavailableError("down")), ("«b»", extraction)):
        backend.experts["extraction"] = expert
        await ours.aput(user(line))
        await ours.aput(reply("I see."))
        while memory._core._worker._queue or memory._core._worker._busy:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert {fact.text for fact in memory.facts(scope=ANA)} == {"a", "b"}


async def test_the_output_of_an_agents_code_is_not_the_persons_words(
    memory: Memory, made: Make, backend: FakeBackend, searches: list[str]
) -> None:
    def think(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        ran = str(messages[-1].content).startswith("Result of executing")
        return reply("It is 42." if ran else "<execute>print(42)</execute>")

    async def execute(code: str) -> str:
        return "«42»"

    llm = MockFunctionCallingLLM(response_generator=think, is_chat_model=True)
    agent = CodeActAgent(llm=llm, code_execute_fn=execute, tools=[], streaming=False)
    assert str(await agent.run("What is six times seven? «Ana counts»", memory=made())) == "It is 42."
    await memory.aio.flush()
    assert searches == ["What is six times seven? «Ana counts»"]
    assert len(backend.asked("extraction")) == 1
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Ana counts"]


def test_what_is_known_of_a_history_is_shown_while_the_store_is_down(
    told: Memory, made: Make, store: FlakyStore, told_events: Told
) -> None:
    ours = made()
    ours.put_messages([user("Hello."), reply("Hello."), user("Where does Ana live?")])
    assert len(ours.get_all()) == 3
    store.down = True
    assert texts(ours.get()) == ["Hello.", "Hello.", "Where does Ana live?"]
    assert made().get() == []
    assert {warning.stage for warning in told_events.of(MemoryWarningEvent)} == {"history", "recall"}
    ours.reset()
    assert ours.get_all() == []
    ours.set([user("Hello."), user("Bye.")])
    assert texts(ours.get_all()) == ["Hello.", "Bye."]
    store.down = False
    ours.put(reply("Bye."))
    assert texts(made().get_all()) == texts(ours.get_all()) == ["Hello.", "Bye.", "Bye."]


def test_a_closed_memory_is_an_error(memory: Memory, made: Make) -> None:
    ours = made()
    memory.close()
    for use in (ours.get, ours.get_all, ours.reset, lambda: ours.put(user("Hello"))):
        with pytest.raises(ClosedError):
            use()


# --- instrumentation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [True, False])
def test_what_happens_is_told(
    told: Memory, made: Make, told_events: Told, spans: SimpleSpanHandler, sync: bool
) -> None:
    counter, debug = TokenCountingHandler(), LlamaDebugHandler(print_trace_on_end=False)
    ours = made(wait=True, callback_manager=CallbackManager([counter, debug]))
    if sync:
        ours.put(user("Where does Ana live? «Ana asks»"))
        ours.get()
        ours.put(reply("In Porto."))
    else:

        async def turn() -> None:
            await ours.aput(user("Where does Ana live? «Ana asks»"))
            await ours.aget()
            await ours.aput(reply("In Porto."))

        asyncio.run(turn())
    [start], [end] = told_events.of(RetrievalStartEvent), told_events.of(RetrievalEndEvent)
    assert start.str_or_query_bundle == "Where does Ana live? «Ana asks»"
    assert "Ana lives in Porto" in [node.text for node in end.nodes]
    assert start.span_id is not None
    [expert] = told_events.of(ExpertEndEvent)
    assert (expert.model, expert.calls, expert.input_tokens, expert.output_tokens) == ("nano", 2, 20, 10)
    assert [event.events[0]["text"] for event in told_events.of(MemoryAddEvent) if event.events] == ["Ana asks"]
    names = {span.id_.split("-")[0] for span in spans.completed_spans}
    prefix = "" if sync else "a"
    assert {f"MemLoRAMemory._{prefix}recall", f"MemLoRAMemory._{prefix}remember"} <= names
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (20, 10)
    assert len(debug.get_event_pairs(CBEventType.RETRIEVE)) == 1


# --- serialization ---------------------------------------------------------------------------------------------------


@pytest.fixture
def any_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `Memory.open` embed in an environment without sentence-transformers: with a fake there."""
    if find_spec("sentence_transformers") is None:
        monkeypatch.setattr(core, "build_embedder", lambda settings: WordEmbedder())


@pytest.mark.usefixtures("any_embedder")
async def test_a_workflow_is_restored_with_its_memory(tmp_path: Path, brain: Brain) -> None:
    agent = brain.agent()
    with Memory.open(path=tmp_path / "m", model="none", qdrant_api_key="s3cret") as memory:
        ours = MemLoRAMemory.from_defaults(
            memory=memory, user_id="ana", session_id="monday", token_limit=5000, limit=3, insert_method="system"
        )
        ctx = Context(agent)
        await agent.run("I live in Porto.", ctx=ctx, memory=ours)
        stored = json.dumps(ctx.to_dict(serializer=JsonSerializer()))
        await memory.aio.flush()
    assert "s3cret" not in stored
    assert "Porto" not in json.dumps(ours.to_dict())
    again = Context.from_dict(agent, json.loads(stored), serializer=JsonSerializer())
    try:
        await agent.run("Hello", ctx=again)
        assert "user: I live in Porto.\nassistant: I see." in brain.shown
        reopened = await again.store.get("memory")
        assert isinstance(reopened, MemLoRAMemory)
        assert reopened.to_dict() == ours.to_dict()
        assert (reopened.limit, reopened.token_limit, reopened.insert_method) == (3, 5000, InsertMethod.SYSTEM)
        copied = pickle.loads(pickle.dumps(reopened))
        assert copied.memory is reopened.memory
        assert len(await copied.aget_all()) == 4
    finally:
        reopened.memory.close()


@pytest.mark.usefixtures("any_embedder")
def test_what_settings_cannot_describe_is_not_serialized(made: Make, tmp_path: Path) -> None:
    for store in (lambda ours: ours.to_dict(), pickle.dumps):
        with pytest.raises(NotPortableError):
            store(made())
    with Memory.open(path=tmp_path / "m", model="none") as memory:
        blocks = [StaticMemoryBlock(name="rules", static_content="Be kind.")]
        with pytest.raises(NotPortableError, match="memory_blocks"):
            MemLoRAMemory(memory=memory, user_id="ana", memory_blocks=blocks).to_dict()


def test_nothing_tells_what_is_remembered(told: Memory, made: Make) -> None:
    assert "Porto" not in repr(made()) + str(made())


def test_nobody_else_sees_the_session(made: Make) -> None:
    made("monday").put(user("Secret"))
    assert made("monday", user_id="bob").get_all() == []
    assert made("tuesday").get_all() == []
