"""Questions to a Memory model, asked through LlamaIndex."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.base.response.schema import Response
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    EventPayload,
    LlamaDebugHandler,
    TokenCountingHandler,
)
from llama_index.core.instrumentation.events.query import QueryEndEvent, QueryStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.prompts import PromptTemplate, RichPromptTemplate, SelectorPromptTemplate
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import QueryEngineTool
from scripted_llm import Chooses, Heard, Questions, Told, saying
from scripted_memo import DONE, FINAL, ScriptedExecutive, ScriptedMemory, ask, confirm, ground, seek

from llama_index.memory.memlora import (
    ExpertEndEvent,
    LLMExecutive,
    MeMoInteractionEvent,
    MeMoQueryEngine,
    MemoryWarningEvent,
    MeMoStageEvent,
)
from memlora_plugins import BackendUnavailableError, InvalidInputError
from memlora_plugins.memo.answers import MemoryAnswer
from memlora_plugins.memo.prompts import Prompts
from memlora_plugins.memo.protocol import Budgets, Protocol
from memlora_plugins.plugs.memo import trace

QUESTION = "In which town was the founder of the lighthouse museum born?"
WHO, BORN, ELSE = "Who founded the lighthouse museum?", "Where was Ada Lume born?", "Where is the lighthouse?"
KNOWN = {WHO: "Ada Lume did.", BORN: "In Porto."}
REPLIES = [ground(WHO, ELSE), ask((WHO, "Ada Lume")), confirm("Ada Lume"), seek(BORN), DONE, FINAL]
STAGES = ["grounding", "entity", "answer", "synthesis"]
Ask = Callable[[BaseQueryEngine, Any], Any]


def query(engine: BaseQueryEngine, question: Any) -> Any:
    return engine.query(question)


def aquery(engine: BaseQueryEngine, question: Any) -> Any:
    return asyncio.run(engine.aquery(question))


both = pytest.mark.parametrize("ask_it", [query, aquery], ids=["sync", "async"])


def engine_of(
    replies: Sequence[Any] = REPLIES, memory: Any = None, heard: Heard | None = None, **more: Any
) -> MeMoQueryEngine:
    """An engine whose Executive is an LLM that gives these replies."""
    settings = {name: more.pop(name) for name in ("method", "budgets") if name in more}
    executive = LLMExecutive(saying(replies, heard))
    protocol = Protocol(executive=executive, memory_model=memory or ScriptedMemory(KNOWN), **settings)
    return MeMoQueryEngine(protocol=protocol, **more)


@both
def test_a_question_is_answered_in_stages(ask_it: Ask) -> None:
    memory = ScriptedMemory(KNOWN)
    answer = ask_it(engine_of(memory=memory), QUESTION)
    assert isinstance(answer, Response)
    assert (str(answer), answer.response) == ("Porto", "Porto")
    assert memory.rounds == [(WHO, ELSE), (WHO,), (BORN,)]
    assert [node.metadata for node in answer.source_nodes] == [
        {"question": WHO, "answer": "Ada Lume did."},
        {"question": BORN, "answer": "In Porto."},
    ]
    assert f"Question: {BORN}\nAnswer: In Porto." in answer.get_formatted_sources()


@both
def test_the_trace_is_told_along_and_is_ready_for_json(ask_it: Ask) -> None:
    engine = engine_of()
    answer = ask_it(engine, QueryBundle(QUESTION))
    told = json.loads(json.dumps(answer.metadata))
    assert (told["answer"], told["justification"]) == ("Porto", "It said so.")
    assert (told["entity"], told["confirmed"]) == ("Ada Lume", True)
    stages = [one["stage"] for one in told["interactions"]]
    assert stages == ["grounding", "entity", "entity", "answer", "answer", "synthesis"]
    answers = [(one["question"], one["knows"]) for row in told["interactions"] for one in row["answers"]]
    assert answers == [(WHO, True), (ELSE, False), (WHO, True), (BORN, True)]
    again = Protocol(executive=ScriptedExecutive(REPLIES), memory_model=ScriptedMemory(KNOWN)).run(QUESTION)
    assert trace(again)["interactions"] == told["interactions"]


@both
@pytest.mark.parametrize(
    ("method", "replies"),
    [("single_turn", [ground(WHO), FINAL]), ("unstructured", [seek(WHO), DONE, FINAL])],
)
def test_each_method_of_the_protocol_is_an_engine(ask_it: Ask, method: str, replies: list[Any]) -> None:
    answer = ask_it(engine_of(replies, method=method), QUESTION)
    assert str(answer) == "Porto"
    assert [node.metadata["question"] for node in answer.source_nodes] == [WHO]


@both
def test_a_memory_model_that_is_down_is_admitted_and_told(ask_it: Ask, told_events: Told) -> None:
    down = ScriptedMemory(failing=BackendUnavailableError("no server"))
    nothing = {"final_answer": "It does not tell.", "justification": ""}
    answer = ask_it(engine_of([ground(WHO, BORN), confirm("Ada"), DONE, nothing], down), QUESTION)
    assert (str(answer), answer.source_nodes) == ("It does not tell.", [])
    assert "no server" in answer.metadata["interactions"][0]["answers"][0]["error"]
    [warning] = told_events.of(MemoryWarningEvent)
    assert warning.message.startswith("2 of 2 questions could not be asked")


@both
def test_an_executive_that_is_down_is_an_error(ask_it: Ask) -> None:
    def script(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        raise ConnectionError("no route")

    llm = MockFunctionCallingLLM(response_generator=script)
    protocol = Protocol(executive=LLMExecutive(llm), memory_model=ScriptedMemory())
    with pytest.raises(ConnectionError, match="no route"):
        ask_it(MeMoQueryEngine(protocol=protocol), QUESTION)


@both
def test_a_question_without_words_is_refused(ask_it: Ask) -> None:
    for question in ("", " \n", QueryBundle("", embedding=[0.1])):
        with pytest.raises(InvalidInputError, match="no words"):
            ask_it(engine_of(), question)


async def test_questions_at_once_do_not_meet() -> None:
    memory = ScriptedMemory({f"q{number}": f"a{number}" for number in range(8)})

    def script(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        shown = messages[-1].content or ""
        number = shown.split("Question: number ")[1].split()[0]
        if "Take the question" in shown:
            return ChatMessage(json.dumps(ground(f"q{number}")), role="assistant")
        assert shown.endswith(f"- q{number} -> a{number}")
        return ChatMessage(json.dumps({"final_answer": f"a{number}", "justification": ""}), role="assistant")

    llm = MockFunctionCallingLLM(response_generator=script, is_chat_model=True)
    protocol = Protocol(executive=LLMExecutive(llm), memory_model=memory, method="single_turn")
    engine = MeMoQueryEngine(protocol=protocol)
    answers = await asyncio.gather(*(engine.aquery(f"number {number} ?") for number in range(8)))
    assert [str(answer) for answer in answers] == [f"a{number}" for number in range(8)]
    assert [[node.metadata["question"] for node in answer.source_nodes] for answer in answers] == [
        [f"q{number}"] for number in range(8)
    ]


async def test_a_question_that_nobody_waits_for_is_given_up() -> None:
    class Slow(ScriptedMemory):
        given_up = False

        async def aask(self, questions: Sequence[str], *, temperature: float = 0.0) -> list[MemoryAnswer]:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.given_up = True
                raise
            return []

    memory = Slow()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine_of(memory=memory).aquery(QUESTION), 0.5)
    assert memory.given_up


# Prompts


def test_the_prompts_of_the_stages_are_there() -> None:
    prompts = engine_of().get_prompts()
    assert list(prompts) == ["grounding", "entity", "answer", "synthesis", "unstructured"]
    for name, prompt in prompts.items():
        assert prompt.get_template() == getattr(Prompts(), name)
        assert "question" in prompt.template_vars
    own = Protocol(executive=ScriptedExecutive([]), memory_model=ScriptedMemory(), prompts=Prompts("Mine: {question}"))
    assert MeMoQueryEngine(protocol=own).get_prompts()["grounding"].get_template() == "Mine: {question}"


@both
def test_the_prompts_that_are_shown_are_those_that_are_asked(ask_it: Ask) -> None:
    before, after = Heard(), Heard()
    ask_it(engine_of(heard=before), QUESTION)
    engine = engine_of(heard=after)
    engine.update_prompts(engine.get_prompts())
    ask_it(engine, QUESTION)
    assert [messages[0].content for messages in after] == [messages[0].content for messages in before]
    assert '{"sub_questions": [{"question": "…"}]}' in str(before[0][0].content)


OWN = 'Rhyme {no place}, as {"a": {"b": 1}}.\n'
TEMPLATES = {
    "plain": PromptTemplate(OWN + "{question}\n{evidence}"),
    "rich": RichPromptTemplate(OWN + "{{ question }}\n{{ evidence }}"),
    "chosen": SelectorPromptTemplate(PromptTemplate(OWN + "{question}\n{evidence}")),
    "partial": PromptTemplate("{own}{question}\n{evidence}").partial_format(own=OWN),
    "named otherwise": PromptTemplate(
        OWN + "{query_str}\n{context_str}",
        template_var_mappings={"question": "query_str", "evidence": "context_str"},
    ),
}


@both
@pytest.mark.parametrize("kind", TEMPLATES)
def test_prompts_of_ones_own_are_asked(ask_it: Ask, kind: str) -> None:
    heard = Heard()
    engine = engine_of(heard=heard)
    engine.update_prompts({"synthesis": TEMPLATES[kind]})
    assert engine.get_prompts()["synthesis"].get_template() == TEMPLATES[kind].get_template()
    ask_it(engine, f"{QUESTION} {{evidence}}")
    said = f"{QUESTION} {{evidence}}\n- {WHO} -> Ada Lume did.\n- {WHO} -> Ada Lume did.\n- {BORN} -> In Porto."
    assert heard[-1][0].content == OWN + said
    assert "Take the question below apart." in str(heard[0][0].content)


def test_prompts_are_of_one_engine() -> None:
    protocol = Protocol(executive=LLMExecutive(saying(REPLIES)), memory_model=ScriptedMemory(KNOWN))
    one, other = MeMoQueryEngine(protocol=protocol), MeMoQueryEngine(protocol=protocol)
    one.update_prompts({"grounding": PromptTemplate("Mine: {question}")})
    given = MeMoQueryEngine(protocol=protocol, prompts={"grounding": PromptTemplate("Given: {question}")})
    assert one.get_prompts()["grounding"].get_template() == "Mine: {question}"
    assert given.get_prompts()["grounding"].get_template() == "Given: {question}"
    assert other.get_prompts()["grounding"].get_template() == Prompts().grounding == protocol.prompts.grounding
    one.update_prompts({"entity": PromptTemplate("Mine: {question} {evidence}")})
    assert one.get_prompts()["grounding"].get_template() == "Mine: {question}"


@pytest.mark.parametrize(
    ("name", "prompt", "said"),
    [
        ("grounding", "Take it apart.", r"Prompts.grounding has no \{question\}"),
        ("answer", "{question} {evidence}", r"Prompts.answer has no \{entity\}"),
        ("grounding", "{question} {evidence}", r"has \{evidence\}, which is not known at this stage"),
        ("text_qa_template", "{question}", "no prompt 'text_qa_template'; there are grounding, entity"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused(name: str, prompt: str, said: str) -> None:
    engine = engine_of()
    before = engine.get_prompts()
    with pytest.raises(InvalidInputError, match=said):
        engine.update_prompts({"synthesis": PromptTemplate("{question} {evidence}"), name: PromptTemplate(prompt)})
    with pytest.raises(InvalidInputError, match=said):
        engine_of(prompts={name: PromptTemplate(prompt)})
    assert engine.get_prompts() == before


# What is told while it happens


@both
def test_the_dispatcher_is_told_what_happens(ask_it: Ask, told_events: Told, spans: SimpleSpanHandler) -> None:
    answer = ask_it(engine_of(), QUESTION)
    assert [event.query for event in told_events.of(QueryStartEvent)] == [QUESTION]
    assert [event.response.source_nodes for event in told_events.of(QueryEndEvent)] == [answer.source_nodes]
    stages = told_events.of(MeMoStageEvent)
    assert [event.stage for event in stages] == STAGES
    assert dict(stages[2].detail) == {"entity": "Ada Lume", "confirmed": True}
    rows = [dict(event.interaction) for event in told_events.of(MeMoInteractionEvent)]
    assert rows == answer.metadata["interactions"]
    ours = [event for event in told_events.events if isinstance(event, MeMoStageEvent | MeMoInteractionEvent)]
    kinds = "".join("S" if isinstance(event, MeMoStageEvent) else "i" for event in ours)
    assert kinds == "SiSiiSiiSi"
    took = [(event.model, event.calls, event.input_tokens) for event in told_events.of(ExpertEndEvent)]
    assert took == [("ScriptedMemory", 2, 10), ("ScriptedMemory", 1, 5), ("ScriptedMemory", 1, 5)]
    query_span = next(span for span in spans.completed_spans if "._" in span.id_)
    calls = [span for span in spans.completed_spans if "chat-" in span.id_ and span.parent_id == query_span.id_]
    assert len(calls) == 6
    assert not spans.open_spans


@both
def test_the_callback_manager_is_told_of_the_query_and_of_tokens(ask_it: Ask) -> None:
    debug, counter = LlamaDebugHandler(print_trace_on_end=False), TokenCountingHandler(tokenizer=str.split)
    answer = ask_it(engine_of(callback_manager=CallbackManager([debug, counter])), QUESTION)
    [(start, end)] = debug.get_event_pairs(CBEventType.QUERY)
    assert start.payload == {EventPayload.QUERY_STR: QUESTION}
    assert end.payload is not None
    assert end.payload[EventPayload.RESPONSE].source_nodes == answer.source_nodes
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (20, 8)


# In other parts of LlamaIndex


async def test_an_agent_asks_it_as_a_tool() -> None:
    def script(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        if messages[-1].role == "tool":
            return ChatMessage(f"I heard: {messages[-1].content}", role="assistant")
        call = ToolCallBlock(tool_call_id="1", tool_name="museum", tool_kwargs={"input": QUESTION})
        return ChatMessage(role="assistant", blocks=[call])

    tool = QueryEngineTool.from_defaults(engine_of(), name="museum", description="Knows about the museum.")
    agent = FunctionAgent(tools=[tool], llm=MockFunctionCallingLLM(response_generator=script, is_chat_model=True))
    assert str(await agent.run("Where was the founder born?")) == "I heard: Porto"


def of_two() -> list[QueryEngineTool]:
    last = {"final_answer": "1887", "justification": ""}
    engines = {"museum": engine_of(), "railway": engine_of([ground(WHO), last], method="single_turn")}
    return [QueryEngineTool.from_defaults(engine, name=name) for name, engine in engines.items()]


@both
def test_a_router_asks_the_one_it_chooses(ask_it: Ask) -> None:
    answer = ask_it(RouterQueryEngine(Chooses(), of_two(), llm=MockLLM()), "Who founded the museum?")
    assert str(answer) == "Porto"
    assert answer.metadata["selector_result"].ind == 0
    assert answer.metadata["entity"] == "Ada Lume"
    together = str(ask_it(RouterQueryEngine(Chooses(), of_two(), llm=MockLLM()), "The museum and the railway?"))
    assert "Porto" in together
    assert "1887" in together


@both
@pytest.mark.parametrize("use_async", [False, True])
def test_it_answers_sub_questions(ask_it: Ask, use_async: bool) -> None:
    asks = Questions(lambda name: f"What of the {name}?")
    parts: dict[str, Any] = {"question_gen": asks, "llm": MockLLM(), "verbose": False, "use_async": use_async}
    answer = ask_it(SubQuestionQueryEngine.from_defaults(of_two(), **parts), "What of both?")
    assert "Sub question: What of the museum?\nResponse: Porto" in str(answer)
    assert "Sub question: What of the railway?\nResponse: 1887" in str(answer)
    assert {WHO, BORN} <= {node.metadata.get("question") for node in answer.source_nodes}


def test_the_budgets_are_the_protocols() -> None:
    memory = ScriptedMemory(KNOWN)
    replies = [ground(WHO), *[ask((WHO, "Ada Lume"))] * 2, FINAL]
    engine_of(replies, memory, budgets=Budgets(entity=2, answer=0)).query(QUESTION)
    assert len(memory.rounds) == 3
