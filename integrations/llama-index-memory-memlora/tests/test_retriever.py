"""What is remembered, as nodes in LlamaIndex's own query engines, fusions and tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent, RetrievalStartEvent
from llama_index.core.instrumentation.events.span import SpanDropEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import LongContextReorder, MetadataReplacementPostProcessor, SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine, RouterQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata
from two_people import ANA, BOB, FlakyStore

from llama_index.memory.memlora import MemLoRARetriever
from memlora_plugins import AsyncMemory, InvalidInputError, Memory, Message, Scope, ScopeError, StoreUnavailableError

QUESTION = "Where does Ana live?"
Ask = Callable[[BaseRetriever, Any], list[NodeWithScore]]


def retrieve(retriever: BaseRetriever, query: Any) -> list[NodeWithScore]:
    return retriever.retrieve(query)


def aretrieve(retriever: BaseRetriever, query: Any) -> list[NodeWithScore]:
    return asyncio.run(retriever.aretrieve(query))


@pytest.fixture(params=[retrieve, aretrieve], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    return request.param


class Events(BaseEventHandler):
    seen: list[Any] = []  # noqa: RUF012 (copied by pydantic)

    def handle(self, event: Any, **_: Any) -> None:
        self.seen.append(event)


class Trace(NamedTuple):
    events: list[Any]
    spans: SimpleSpanHandler


@pytest.fixture
def trace() -> Iterator[Trace]:
    """What every dispatcher of LlamaIndex hears."""
    root, events, spans = get_dispatcher(), Events(), SimpleSpanHandler()
    root.add_event_handler(events)
    root.add_span_handler(spans)
    yield Trace(events.seen, spans)
    root.event_handlers.remove(events)
    root.span_handlers.remove(spans)


class Chooses(BaseSelector):
    """Chooses the engine whose description has a word of the query."""

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        [index] = [i for i, choice in enumerate(choices) if choice.description in query.query_str]
        return SelectorResult(selections=[SingleSelection(index=index, reason="named")])

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return self._select(choices, query)

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: Any) -> None: ...


def of_ana(memory: Memory, **more: Any) -> MemLoRARetriever:
    return MemLoRARetriever(memory=memory, user_id="ana", **more)


def texts(nodes: Sequence[NodeWithScore]) -> list[str]:
    return [node.text for node in nodes]


def test_a_node_has_the_id_and_the_text_of_what_it_stands_for(told: Memory, ask: Ask) -> None:
    found = ask(of_ana(told), QUESTION)
    known = {item.id: item.text for item in (*told.facts(scope=ANA), *told.turns(scope=ANA))}
    assert {node.node_id: node.text for node in found} == known
    again = {node.node_id for node in ask(of_ana(told), "cello")}
    assert again == {node.node_id for node in found}


def test_a_node_tells_when_it_was_said_and_where_it_comes_from(memory: Memory, ask: Ask) -> None:
    said = datetime(2026, 5, 3, 10, tzinfo=UTC)
    scope = Scope("ana", session_id="monday")
    message = Message(
        "user", "I moved. «Ana lives in Porto»", id="m1", name="Ana", created_at=said, metadata={"app": 1}
    )
    memory.add([message], scope=scope)
    found = {node.metadata["kind"]: node.metadata for node in ask(of_ana(memory), QUESTION)}
    dated = {"created_at": said.isoformat(), "sources": ["m1"]}
    assert found["fact"] == {"kind": "fact", "metadata": {}, **dated}
    spoken = {"role": "user", "name": "Ana", "session_id": "monday", "metadata": {"app": 1}}
    assert found["turn"] == {"kind": "turn", **spoken, **dated}


def test_a_language_model_is_shown_the_date_and_the_speaker_only(memory: Memory, ask: Ask) -> None:
    said = datetime(2026, 5, 3, 10, tzinfo=UTC)
    message = Message("user", "I play the cello.", id="m1", name="Ana", created_at=said, metadata={"secret": "x"})
    memory.add([message], scope=Scope("ana", session_id="monday"), distil=False)
    [node] = ask(of_ana(memory), "cello")
    shown = node.get_content(metadata_mode=MetadataMode.LLM)
    assert shown == f"created_at: {said.isoformat()}\nrole: user\nname: Ana\n\nI play the cello."
    assert node.get_content(metadata_mode=MetadataMode.EMBED) == "I play the cello."


def test_the_best_comes_first(told: Memory, ask: Ask) -> None:
    found = ask(of_ana(told), QUESTION)
    scores = [node.get_score(raise_error=True) for node in found]
    assert scores == sorted(scores, reverse=True)
    assert found[0].text == "Ana lives in Porto"


def test_as_many_as_asked_for(told: Memory, ask: Ask) -> None:
    retriever = of_ana(told, similarity_top_k=1)
    assert texts(ask(retriever, QUESTION)) == ["Ana lives in Porto"]
    retriever.similarity_top_k = 3
    assert len(ask(retriever, QUESTION)) == 3


@pytest.mark.parametrize("kind", ["fact", "turn"])
def test_only_facts_or_only_turns(told: Memory, ask: Ask, kind: Any) -> None:
    found = ask(of_ana(told, kinds=[kind]), QUESTION)
    assert [node.metadata["kind"] for node in found] == [kind, kind]


def test_the_memory_of_one_agent_only(told: Memory, ask: Ask) -> None:
    coach = of_ana(told, agent_id="coach")
    assert ask(coach, QUESTION) == []
    told.note("Lives by the sea", scope=Scope("ana", "coach"))
    assert texts(ask(coach, QUESTION)) == ["Lives by the sea"]
    assert "Lives by the sea" in texts(ask(of_ana(told), "sea"))


def test_nothing_of_another_person_is_found(told: Memory, ask: Ask) -> None:
    theirs = {item.id for item in (*told.facts(scope=BOB), *told.turns(scope=BOB))}
    for query in ("Bob lives in Rome", "Who lives in Rome?", "bob", "user_id: bob"):
        found = ask(of_ana(told, similarity_top_k=50), query)
        assert theirs.isdisjoint(node.node_id for node in found)
        assert "Rome" not in str(texts(found))


def test_a_query_without_words_is_refused(told: Memory, ask: Ask) -> None:
    only_an_embedding, only_an_image = QueryBundle("", embedding=[0.1] * 256), QueryBundle(" ", image_path="a.png")
    for query in ("", " \n", only_an_embedding, only_an_image):
        with pytest.raises(InvalidInputError, match="no words"):
            ask(of_ana(told), query)


def test_nobody_named_is_an_error_at_once(memory: Memory) -> None:
    for user_id in (None, "", " "):
        with pytest.raises(ScopeError, match="user_id"):
            MemLoRARetriever(memory=memory, user_id=user_id)  # type: ignore[arg-type]
    with pytest.raises(ScopeError, match="agent_id"):
        of_ana(memory, agent_id=" ")


def test_too_few_are_refused_at_once(memory: Memory) -> None:
    for k in (0, -1):
        with pytest.raises(InvalidInputError, match="similarity_top_k"):
            of_ana(memory, similarity_top_k=k)


def test_an_unknown_kind_is_refused(told: Memory, ask: Ask) -> None:
    with pytest.raises(InvalidInputError, match="'fact' and 'turn'"):
        ask(of_ana(told, kinds="fact"), QUESTION)


def test_a_store_that_is_down_is_told_and_can_come_back(told: Memory, store: FlakyStore, ask: Ask) -> None:
    retriever = of_ana(told)
    store.down = True
    with pytest.raises(StoreUnavailableError):
        ask(retriever, QUESTION)
    store.down = False
    assert ask(retriever, QUESTION)


@pytest.mark.parametrize(("ask", "other"), [(retrieve, AsyncMemory), (aretrieve, Memory)], ids=["sync", "async"])
def test_each_world_goes_through_its_own_door(told: Memory, ask: Ask, other: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(other, "search", None)
    assert ask(of_ana(told), QUESTION)


async def test_many_at_once_do_not_mix(told: Memory) -> None:
    ana, bob = of_ana(told), MemLoRARetriever(memory=told, user_id="bob")
    found = await asyncio.gather(*(retriever.aretrieve("Who lives where?") for retriever in [ana, bob] * 10))
    assert all("Rome" not in str(texts(nodes)) for nodes in found[::2])
    assert all("Porto" not in str(texts(nodes)) for nodes in found[1::2])


def query(engine: Any, question: str) -> Any:
    return engine.query(question)


def aquery(engine: Any, question: str) -> Any:
    return asyncio.run(engine.aquery(question))


@pytest.mark.parametrize("query", [query, aquery])
def test_a_query_engine_shows_what_is_remembered_to_its_model(told: Memory, query: Any) -> None:
    engine = RetrieverQueryEngine.from_args(of_ana(told, kinds=["fact"]), llm=MockLLM())  # it says what it is shown
    answer = query(engine, QUESTION)
    fact = told.facts(scope=ANA)[0]
    assert f"created_at: {fact.valid_from.isoformat()}\n\nAna lives in Porto" in str(answer)
    assert fact.id in {node.node_id for node in answer.source_nodes}
    assert "m1" not in str(answer)
    assert "Rome" not in str(answer)


@pytest.mark.parametrize("query", [query, aquery])
def test_a_router_keeps_the_people_apart(told: Memory, query: Any) -> None:
    people = {"Ana": "ana", "Bob": "bob"}
    tools = [
        QueryEngineTool.from_defaults(
            RetrieverQueryEngine.from_args(MemLoRARetriever(memory=told, user_id=id), llm=MockLLM()), description=name
        )
        for name, id in people.items()
    ]
    router = RouterQueryEngine(Chooses(), tools, llm=MockLLM())
    for name, place, other in (("Ana", "Porto", "Rome"), ("Bob", "Rome", "Porto")):
        answer = str(query(router, f"Where does {name} live?"))
        assert place in answer
        assert other not in answer


@pytest.mark.parametrize("use_async", [False, True])
def test_what_two_retrievers_find_is_one_node(told: Memory, ask: Ask, use_async: bool) -> None:
    alone = sorted(node.node_id for node in retrieve(of_ana(told), QUESTION))
    for mode in FUSION_MODES:
        both: list[Any] = [of_ana(told, kinds=["fact"]), of_ana(told)]
        fusion = QueryFusionRetriever(
            both, llm=MockLLM(), mode=mode, num_queries=1, similarity_top_k=10, use_async=use_async
        )
        found = [node.node_id for node in ask(fusion, QUESTION)]
        assert sorted(found) == alone
        assert told.get(found[0], scope=ANA).text == "Ana lives in Porto"


def test_postprocessors_do_their_work(told: Memory, ask: Ask) -> None:
    found = ask(of_ana(told), QUESTION)
    best = found[0].get_score(raise_error=True)
    cut = SimilarityPostprocessor(similarity_cutoff=best - 0.001)
    assert texts(cut.postprocess_nodes(found)) == ["Ana lives in Porto"]
    assert len(LongContextReorder().postprocess_nodes(found)) == len(found)
    [dated] = MetadataReplacementPostProcessor(target_metadata_key="created_at").postprocess_nodes(found[:1])
    assert dated.get_content() == dated.metadata["created_at"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_retriever_tool_gives_an_agent_what_is_remembered(told: Memory, asynchronous: bool) -> None:
    cut = [SimilarityPostprocessor(similarity_cutoff=0.0)]
    tool = RetrieverTool.from_defaults(of_ana(told, similarity_top_k=1), node_postprocessors=cut, name="recall")
    output = asyncio.run(tool.acall(QUESTION)) if asynchronous else tool.call(QUESTION)
    assert output.content.startswith("created_at: ")
    assert output.content.endswith("Ana lives in Porto\n\n")
    assert texts(output.raw_output) == ["Ana lives in Porto"]


def test_a_search_is_told_to_the_dispatcher(told: Memory, ask: Ask, trace: Trace) -> None:
    found = ask(of_ana(told), QUESTION)
    [started] = [event for event in trace.events if isinstance(event, RetrievalStartEvent)]
    [ended] = [event for event in trace.events if isinstance(event, RetrievalEndEvent)]
    assert started.str_or_query_bundle == ended.str_or_query_bundle == QUESTION
    assert [node.node_id for node in ended.nodes] == [node.node_id for node in found]
    [outer] = [span for span in trace.spans.completed_spans if span.id_ == started.span_id]
    assert outer.id_.startswith("MemLoRARetriever.retrieve" if ask is retrieve else "MemLoRARetriever.aretrieve")
    assert not trace.spans.open_spans


def test_a_search_that_fails_is_told_as_a_dropped_span(told: Memory, store: FlakyStore, ask: Ask, trace: Trace) -> None:
    store.down = True
    with pytest.raises(StoreUnavailableError):
        ask(of_ana(told), QUESTION)
    assert {type(event) for event in trace.events} == {RetrievalStartEvent, SpanDropEvent}
    assert "does not answer" in next(event.err_str for event in trace.events if isinstance(event, SpanDropEvent))
    assert not trace.spans.open_spans


def test_a_search_is_told_to_the_callback_manager(told: Memory, ask: Ask) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    found = ask(of_ana(told, callback_manager=CallbackManager([debug])), QUESTION)
    [(start, end)] = debug.get_event_pairs(CBEventType.RETRIEVE)
    assert start.payload == {EventPayload.QUERY_STR: QUESTION}
    assert end.payload is not None
    assert end.payload[EventPayload.NODES] == found
