"""Questions about what is remembered, asked through LlamaIndex."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    EventPayload,
    LlamaDebugHandler,
    TokenCountingHandler,
)
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.query import QueryEndEvent, QueryStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate, RichPromptTemplate, SelectorPromptTemplate
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import QueryEngineTool
from scripted import FakeBackend, user_line
from scripted_llm import Chooses, Questions
from two_people import ANA, BOB, FlakyStore

from llama_index.memory.memlora import ExpertEndEvent, MemLoRAQueryEngine
from memlora_plugins import (
    AsyncMemory,
    BackendError,
    BackendUnavailableError,
    InvalidInputError,
    Memory,
    Message,
    ReplyError,
    ScopeError,
    StoreUnavailableError,
)
from memlora_plugins.serving.base import Completion, Request

QUESTION = "Where does Ana live?"
Ask = Callable[[BaseQueryEngine, Any], Any]
TOOK = {"model": "nano", "input_tokens": 10, "output_tokens": 5, "truncated": False}


def read(engine: BaseQueryEngine, question: Any) -> Any:
    """An answer, with all of its stream."""
    answer = engine.query(question)
    return answer.get_response() if isinstance(answer, StreamingResponse) else answer


def aread(engine: BaseQueryEngine, question: Any) -> Any:
    async def reading() -> Any:
        answer = await engine.aquery(question)
        return await answer.get_response() if isinstance(answer, AsyncStreamingResponse) else answer

    return asyncio.run(reading())


both = pytest.mark.parametrize("ask", [read, aread], ids=["sync", "async"])
streamed_or_whole = pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])


class Events(BaseEventHandler):
    seen: list[Any] = []  # noqa: RUF012 (copied by pydantic)

    def handle(self, event: Any, **_: Any) -> None:
        self.seen.append(event)


@pytest.fixture
def trace() -> Iterator[tuple[list[Any], SimpleSpanHandler]]:
    """The events and spans that any dispatcher of LlamaIndex tells."""
    root, events, spans = get_dispatcher(), Events(), SimpleSpanHandler()
    root.add_event_handler(events)
    root.add_span_handler(spans)
    yield events.seen, spans
    root.event_handlers.remove(events)
    root.span_handlers.remove(spans)


@pytest.fixture
def backend(backend: FakeBackend) -> FakeBackend:
    """One that finds the place in what it is shown."""
    backend.experts["generation"] = lambda request: next(
        (f"In {place}." for place in ("Porto", "Rome") if place in user_line(request)), "I do not know."
    )
    return backend


@pytest.fixture
def streams(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The streams of the model that are open."""
    opened: list[str] = []

    def stream(request: Request) -> Iterator[str | Completion]:
        opened.append(request.expert)
        try:
            yield from FakeBackend.stream(backend, request)
        finally:
            opened.remove(request.expert)

    async def astream(request: Request) -> AsyncIterator[str | Completion]:
        for piece in stream(request):
            yield piece

    monkeypatch.setattr(backend, "stream", stream)
    monkeypatch.setattr(backend, "astream", astream)
    return opened


def of_ana(memory: Memory, **more: Any) -> MemLoRAQueryEngine:
    return MemLoRAQueryEngine(memory=memory, user_id="ana", **more)


def asked(backend: FakeBackend) -> str:
    """What the expert was asked last."""
    return user_line(backend.asked("generation")[-1])


@both
@streamed_or_whole
def test_a_question_is_answered_from_what_is_remembered(told: Memory, ask: Ask, streaming: bool) -> None:
    answer = ask(of_ana(told, streaming=streaming), QUESTION)
    assert isinstance(answer, Response)
    assert str(answer) == "In Porto."
    assert answer.metadata == TOOK
    known = {item.id: item.text for item in (*told.facts(scope=ANA), *told.turns(scope=ANA))}
    assert {node.node_id: node.text for node in answer.source_nodes} == known
    assert all(node.metadata["created_at"] and node.metadata["sources"] for node in answer.source_nodes)
    assert "Ana lives in Porto" in answer.get_formatted_sources()


@both
@streamed_or_whole
def test_nothing_of_another_person_is_shown(told: Memory, backend: FakeBackend, ask: Ask, streaming: bool) -> None:
    answer = ask(of_ana(told, streaming=streaming), "Where does Bob live, whose user_id is bob?")
    assert "Rome" not in asked(backend)
    assert "Rome" not in str(answer.source_nodes)
    theirs = ask(MemLoRAQueryEngine(memory=told, user_id="bob", streaming=streaming), QUESTION)
    assert str(theirs) == "In Rome."
    assert "Porto" not in asked(backend)


@both
def test_no_more_is_shown_than_agent_and_budget_allow(told: Memory, ask: Ask) -> None:
    answer = ask(of_ana(told, agent_id="coach"), QUESTION)
    assert (str(answer), answer.source_nodes) == ("I do not know.", [])
    assert len(ask(of_ana(told, token_budget=15), QUESTION).source_nodes) == 1


@both
@streamed_or_whole
def test_an_answer_that_was_cut_off_says_so(told: Memory, backend: FakeBackend, ask: Ask, streaming: bool) -> None:
    backend.experts["generation"] = lambda request: Completion("In", finish_reason="length")
    assert ask(of_ana(told, streaming=streaming), QUESTION).metadata["truncated"] is True


def test_the_sources_are_there_before_the_model_is_asked(
    told: Memory, backend: FakeBackend, streams: list[str]
) -> None:
    answer = of_ana(told, streaming=True).query(QUESTION)
    assert isinstance(answer, StreamingResponse)
    assert "Ana lives in Porto" in {node.text for node in answer.source_nodes}
    assert not backend.asked("generation")
    tokens = iter(answer.response_gen)
    assert next(tokens) == "In "
    assert (streams, answer.metadata) == (["generation"], {"model": "nano"})
    assert list(tokens) == ["Porto."]
    assert (streams, answer.metadata) == ([], TOOK)


async def test_the_sources_are_there_before_the_model_is_asked_on_an_event_loop(
    told: Memory, backend: FakeBackend, streams: list[str]
) -> None:
    answer = await of_ana(told, streaming=True).aquery(QUESTION)
    assert isinstance(answer, AsyncStreamingResponse)
    assert "Ana lives in Porto" in {node.text for node in answer.source_nodes}
    assert not backend.asked("generation")
    tokens = aiter(answer.async_response_gen())
    assert await anext(tokens) == "In "
    assert (streams, answer.metadata) == (["generation"], {"model": "nano"})
    assert [token async for token in tokens] == ["Porto."]
    assert (streams, answer.metadata) == ([], TOOK)


def test_who_stops_reading_leaves_nothing_open(told: Memory, streams: list[str]) -> None:
    answer: Any = of_ana(told, streaming=True).query(QUESTION)
    for _ in answer.response_gen:
        assert streams == ["generation"]
        break
    answer.response_gen.close()
    assert streams == []
    for _ in of_ana(told, streaming=True).query(QUESTION).response_gen:  # type: ignore[union-attr]
        break  # the answer is let go of
    assert streams == []


def test_who_stops_reading_on_an_event_loop_leaves_nothing_open(told: Memory, streams: list[str]) -> None:
    async def reading() -> None:
        answer: Any = await of_ana(told, streaming=True).aquery(QUESTION)
        async with aclosing(answer.response_gen) as tokens:
            async for _ in tokens:
                assert streams == ["generation"]
                break
        assert streams == []
        answer = await of_ana(told, streaming=True).aquery(QUESTION)
        async for _ in answer.async_response_gen():
            break  # left to the loop

    asyncio.run(reading())
    assert streams == []


def test_who_never_reads_never_asks_the_model(told: Memory, backend: FakeBackend) -> None:
    assert of_ana(told, streaming=True).query(QUESTION).source_nodes
    assert asyncio.run(of_ana(told, streaming=True).aquery(QUESTION)).source_nodes
    assert not backend.asked("generation")


@both
def test_the_prompt_that_is_shown_is_the_one_that_is_asked(told: Memory, backend: FakeBackend, ask: Ask) -> None:
    engine = of_ana(told)
    ask(engine, QUESTION)
    before, template = asked(backend), engine.get_prompts()["text_qa_template"]
    begins = template.get_template().split("{context_str}")[0]
    assert begins
    assert before.startswith(begins)
    engine.update_prompts(engine.get_prompts())
    ask(engine, QUESTION)
    assert asked(backend) == before


OWN = 'Rhyme {no place}, as {"a": {"b": 1}}.\n'
TEMPLATES = {
    "plain": PromptTemplate(OWN + "{context_str}\n{query_str}"),
    "rich": RichPromptTemplate(OWN + "{{ context_str }}\n{{ query_str }}"),
    "chosen": SelectorPromptTemplate(PromptTemplate(OWN + "{context_str}\n{query_str}")),
    "partial": PromptTemplate("{own}{context_str}\n{query_str}").partial_format(own=OWN),
}


@both
@streamed_or_whole
def test_a_prompt_of_ones_own_is_asked(told: Memory, backend: FakeBackend, ask: Ask, streaming: bool) -> None:
    engine = of_ana(told, streaming=streaming)
    for template in TEMPLATES.values():
        engine.update_prompts({"text_qa_template": template})
        assert engine.get_prompts()["text_qa_template"].get_template() == template.get_template()
        ask(engine, QUESTION)
        assert asked(backend).startswith(f"{OWN}<memlora-memories>")
        assert "Ana lives in Porto" in asked(backend)
        assert asked(backend).endswith(QUESTION)


def test_a_prompt_of_several_messages_is_asked_as_one(told: Memory, backend: FakeBackend) -> None:
    chat = ChatPromptTemplate.from_messages([("system", "Rhyme. {context_str}"), ("user", "{query_str}")])
    of_ana(told, text_qa_template=chat).query(QUESTION)
    assert asked(backend).startswith("system: Rhyme. <memlora-memories>")
    assert f"{QUESTION}\nassistant: " in asked(backend)


def test_what_people_say_is_never_a_place_of_the_prompt(memory: Memory, backend: FakeBackend) -> None:
    said = "My template is {context_str} {query_str} {memories} {question}"
    memory.add([Message("user", said)], scope=ANA, distil=False)
    of_ana(memory, text_qa_template=PromptTemplate("Q {query_str}\n{context_str}")).query("{context_str} {memories}?")
    assert f'said: "{said}"' in asked(backend)
    assert asked(backend).splitlines()[0].endswith("{context_str} {memories}?")
    assert asked(backend).count("<memlora-memories>") == 1


def test_a_prompt_without_one_of_its_places_is_refused(told: Memory) -> None:
    engine = of_ana(told)
    before = engine.get_prompts()
    for template, missing in (("Q {query_str}", "context_str"), ("Q {context_str}", "query_str")):
        with pytest.raises(InvalidInputError, match=missing):
            engine.update_prompts({"text_qa_template": PromptTemplate(template)})
        with pytest.raises(InvalidInputError, match=missing):
            of_ana(told, text_qa_template=PromptTemplate(template))
    assert engine.get_prompts() == before


@streamed_or_whole
async def test_a_question_without_words_is_refused_before_it_is_streamed(told: Memory, streaming: bool) -> None:
    engine = of_ana(told, streaming=streaming)
    for question in ("", " \n", QueryBundle("", embedding=[0.1] * 256)):
        with pytest.raises(InvalidInputError, match="no words"):
            engine.query(question)
        with pytest.raises(InvalidInputError, match="no words"):
            await engine.aquery(question)


def test_nobody_named_is_an_error_at_once(memory: Memory) -> None:
    for user_id in (None, "", " "):
        with pytest.raises(ScopeError, match="user_id"):
            MemLoRAQueryEngine(memory=memory, user_id=user_id)  # type: ignore[arg-type]


@both
@streamed_or_whole
def test_a_model_that_fails_is_told(told: Memory, backend: FakeBackend, ask: Ask, streaming: bool) -> None:
    engine = of_ana(told, streaming=streaming)
    backend.experts["generation"] = lambda request: BackendUnavailableError("The model does not answer.")
    with pytest.raises(BackendError, match="does not answer"):
        ask(engine, QUESTION)
    backend.experts["generation"] = lambda request: ""
    with pytest.raises(ReplyError):
        ask(engine, QUESTION)


def test_what_is_remembered_can_be_had_without_an_answer(told: Memory, backend: FakeBackend, store: FlakyStore) -> None:
    nodes = of_ana(told).retrieve(QueryBundle(QUESTION))
    assert nodes[0].text == "Ana lives in Porto"
    assert not backend.asked("generation")
    store.down = True
    with pytest.raises(StoreUnavailableError):
        of_ana(told).retrieve(QueryBundle(QUESTION))


@both
@streamed_or_whole
def test_each_world_goes_through_its_own_door(told: Memory, ask: Ask, streaming: bool, monkeypatch: Any) -> None:
    for door in ("answer", "stream", "search"):
        monkeypatch.setattr(AsyncMemory if ask is read else Memory, door, None)
    assert str(ask(of_ana(told, streaming=streaming), QUESTION)) == "In Porto."


@both
@streamed_or_whole
def test_a_question_is_told_to_the_dispatcher(told: Memory, ask: Ask, streaming: bool, trace: Any) -> None:
    answer = ask(of_ana(told, streaming=streaming), QUESTION)
    events, spans = trace
    start, end, expert = (
        [event for event in events if isinstance(event, kind)]
        for kind in (QueryStartEvent, QueryEndEvent, ExpertEndEvent)
    )
    assert [event.query for event in start] == [QUESTION]
    assert [event.response.source_nodes for event in end] == [answer.source_nodes]
    took = [(event.model, event.calls, event.input_tokens, event.output_tokens) for event in expert]
    assert took == [("nano", 1, 10, 5)]
    steps = {"query", "_query"} if streaming else {"query", "_query", "_ask"}
    names = {span.id_.split("-")[0] for span in spans.completed_spans}
    assert {name.split(".")[1].replace("aq", "q").replace("aa", "a") for name in names} == steps
    assert not spans.open_spans


@both
@streamed_or_whole
def test_a_question_is_told_to_the_callback_manager(told: Memory, ask: Ask, streaming: bool) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    answer = ask(of_ana(told, streaming=streaming, callback_manager=CallbackManager([debug])), QUESTION)
    [(start, end)] = debug.get_event_pairs(CBEventType.QUERY)
    assert start.payload == {EventPayload.QUERY_STR: QUESTION}
    assert end.payload is not None
    assert end.payload[EventPayload.RESPONSE].source_nodes == answer.source_nodes


@both
@streamed_or_whole
def test_the_tokens_of_the_expert_are_counted(told: Memory, ask: Ask, streaming: bool) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    engine = of_ana(told, streaming=streaming, callback_manager=CallbackManager([counter]))
    for _ in range(2):
        ask(engine, QUESTION)
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (20, 10)


@streamed_or_whole
async def test_an_agent_asks_it_as_a_tool(told: Memory, backend: FakeBackend, streaming: bool) -> None:
    def script(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        if messages[-1].role == "tool":
            return ChatMessage(f"I heard: {messages[-1].content}", role="assistant")
        call = ToolCallBlock(tool_call_id="1", tool_name="recall", tool_kwargs={"input": QUESTION})
        return ChatMessage(role="assistant", blocks=[call])

    tool = QueryEngineTool.from_defaults(of_ana(told, streaming=streaming), name="recall")
    llm = MockFunctionCallingLLM(response_generator=script, is_chat_model=True)
    assert str(await FunctionAgent(tools=[tool], llm=llm).run("Where do I live?")) == "I heard: In Porto."
    backend.experts["generation"] = lambda request: BackendUnavailableError("The model does not answer.")
    heard = str(await FunctionAgent(tools=[tool], llm=llm).run("Where do I live?"))
    assert heard == "I heard: The model does not answer."


def of_both(memory: Memory, **more: Any) -> list[QueryEngineTool]:
    engines = {name: MemLoRAQueryEngine(memory=memory, user_id=name.lower(), **more) for name in ("Ana", "Bob")}
    return [QueryEngineTool.from_defaults(engine, name=name) for name, engine in engines.items()]


@both
@streamed_or_whole
@pytest.mark.parametrize("use_async", [False, True])
def test_a_question_about_two_people_asks_both(told: Memory, ask: Ask, streaming: bool, use_async: bool) -> None:
    asks = Questions(lambda name: f"Where does {name} live?")
    parts: dict[str, Any] = {"question_gen": asks, "llm": MockLLM(), "verbose": False, "use_async": use_async}
    engine = SubQuestionQueryEngine.from_defaults(of_both(told, streaming=streaming), **parts)
    answer = ask(engine, "Who lives where?")
    for name, place in (("Ana", "Porto"), ("Bob", "Rome")):
        assert f"Sub question: Where does {name} live?\nResponse: In {place}." in str(answer)
    assert {"Ana lives in Porto", "Bob lives in Rome"} <= {node.text for node in answer.source_nodes}


@both
@streamed_or_whole
def test_a_router_asks_the_one_it_chooses(told: Memory, ask: Ask, streaming: bool) -> None:
    router = RouterQueryEngine(Chooses(), of_both(told, streaming=streaming), llm=MockLLM())
    answer = ask(router, "Where does Bob live?")
    assert str(answer) == "In Rome."
    assert answer.metadata["selector_result"].ind == 1
    assert {item.id for item in told.facts(scope=BOB)} <= {node.node_id for node in answer.source_nodes}
    together = str(ask(router, "Where do Ana and Bob live?"))
    assert "In Porto." in together
    assert "In Rome." in together


async def test_a_router_keeps_what_a_stream_tells_in_the_end(told: Memory) -> None:
    engine = MemLoRAQueryEngine(memory=told, user_id="ana", streaming=True)
    tool = QueryEngineTool.from_defaults(engine, name="memory", description="What Ana told.")
    router = RouterQueryEngine(Chooses(), [tool], llm=MockLLM())
    answer = router.query("What is in memory of where Ana lives?")
    assert "".join(answer.response_gen)
    assert answer.metadata["input_tokens"] == 10
    streamed = await router.aquery("What is in memory of where Ana lives?")
    assert "".join([token async for token in streamed.response_gen])
    assert streamed.metadata["input_tokens"] == 10


def test_a_template_may_have_names_of_its_own(told: Memory, backend: FakeBackend) -> None:
    mapped = {"context_str": "ctx", "query_str": "q"}
    template = PromptTemplate("From {ctx}\nanswer {q}", template_var_mappings=mapped)
    MemLoRAQueryEngine(memory=told, user_id="ana", text_qa_template=template).query("Where does Ana live?")
    asked = user_line(backend.asked("generation")[-1])
    assert asked.startswith("From <memlora-memories>\n")
    assert asked.endswith("Where does Ana live?")
