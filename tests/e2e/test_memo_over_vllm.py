"""A Memory model of ten documents, trained here, on the real vLLM server: asked by the core, by the agents of LangChain
and of LlamaIndex, and by the whole protocol.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from make_model import make_model
from scripted_memo import ScriptedExecutive
from servers import real_vllm

from langchain_memlora import MeMoProtocolTool, MeMoTool
from llama_index.memory.memlora import MeMoQueryEngine, MeMoToolSpec
from memlora_plugins import MemoryModel, Protocol
from memlora_plugins.evaluation.metrics import exact_match
from memlora_plugins.memo.reflections import read_reflections
from memlora_plugins.serving.server import VLLMServer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

ASKED = ["Which town does Ilse Varga live in?", "Who is the founder of the Kelp Archive?"]
TOLD = ["Calder Quay", "Ilse Varga"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reflections and the trained model are."""
    folder = tmp_path_factory.mktemp("memo")
    make_model(folder, ten_documents=True)
    return folder


@pytest.fixture(scope="module")
def server(work: Path) -> Iterator[VLLMServer]:
    with real_vllm(work / "model", {}, name="memory", log_file=work / "server.log", exact=True) as server:
        yield server


@pytest.fixture
def memory_model(work: Path, server: VLLMServer) -> Iterator[MemoryModel]:
    with MemoryModel.open(work / "model", base_url=server.base_url) as model:
        yield model


@pytest.fixture
async def async_memory_model(work: Path, server: VLLMServer) -> AsyncIterator[MemoryModel]:
    """One that is closed in the event loop that it was asked in."""
    async with MemoryModel.open(work / "model", base_url=server.base_url) as model:
        yield model


def test_it_answers_what_it_was_trained_on_as_it_does_in_process(memory_model: MemoryModel, work: Path) -> None:
    pairs = read_reflections(work / "synthesis" / "reflections.jsonl")
    questions = [pair.question for pair in pairs]
    served = memory_model.ask(questions)
    with MemoryModel.open(work / "model", device="cpu", dtype="float32") as inside:
        in_process = inside.ask(questions)
    said = [answer.withheld or answer.text for answer in served]
    right = [exact_match(text, pair.answer) for text, pair in zip(said, pairs, strict=True)]
    assert sum(right) / len(right) >= 0.95
    same = [text == (other.withheld or other.text) for text, other in zip(said, in_process, strict=True)]
    assert sum(same) / len(same) >= 0.99
    for answer, other in zip(served, in_process, strict=True):
        assert answer.confidence == pytest.approx(other.confidence, abs=0.1)
    assert len(memory_model.documents) == 10


async def test_asked_asynchronously_it_says_the_same(async_memory_model: MemoryModel) -> None:
    assert [answer.text for answer in await async_memory_model.aask(ASKED)] == TOLD


class Brain(GenericFakeChatModel):
    """A scripted chat model that can be given tools."""

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        return self


def test_an_agent_of_langchain_asks_it(memory_model: MemoryModel) -> None:
    call = {"name": "ask_memory_model", "args": {"questions": ASKED}, "id": "call-1", "type": "tool_call"}
    brain = Brain(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("She lives in Calder Quay.")]))
    agent = create_agent(brain, [MeMoTool(memory_model=memory_model)])
    messages = agent.invoke({"messages": [{"role": "user", "content": "Where does its founder live?"}]})["messages"]
    [told] = [message for message in messages if isinstance(message, ToolMessage)]
    assert told.status == "success"
    assert [row["text"] for row in told.artifact] == TOLD
    assert all(answer in told.text for answer in TOLD)


async def test_an_agent_of_llama_index_asks_it(async_memory_model: MemoryModel) -> None:
    def reply(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        if messages[-1].role == MessageRole.TOOL:
            return ChatMessage(role="assistant", content=f"It says: {messages[-1].content}")
        call = ToolCallBlock(tool_call_id="1", tool_name="ask_memory_model", tool_kwargs={"questions": ASKED})
        return ChatMessage(role="assistant", blocks=[call])

    llm = MockFunctionCallingLLM(response_generator=reply, is_chat_model=True)
    agent = FunctionAgent(llm=llm, tools=MeMoToolSpec(memory_model=async_memory_model).to_tool_list(), streaming=False)
    handler = agent.run("Where does its founder live?")
    called = [event async for event in handler.stream_events() if isinstance(event, ToolCallResult)]
    said = str(await handler)
    assert all(answer in said for answer in TOLD)
    assert len(called) == 1


def protocol(memory_model: MemoryModel) -> Protocol:
    """Both questions at once, then what is known of the founder's home."""
    replies: list[Mapping[str, Any]] = [
        {"sub_questions": [{"question": "Who is the founder of the Kelp Archive?"}]},
        {
            "known_facts": ["Ilse Varga founded the Kelp Archive"],
            "candidate_entities": [{"name": "Ilse Varga", "rank": 1}],
            "entity_confirmed": True,
            "confirmed_entity": "Ilse Varga",
            "decision": "ask",
            "sub_questions": [],
        },
        {
            "known_facts": [],
            "remaining_unknowns": ["her home"],
            "decision": "ask",
            "entity_pivot": "",
            "sub_questions": [{"question": "Which town does Ilse Varga live in?"}],
        },
        {
            "known_facts": [],
            "remaining_unknowns": [],
            "decision": "answer",
            "entity_pivot": "",
            "sub_questions": [],
        },
        {"final_answer": "Calder Quay", "justification": "The Memory model says so."},
    ]
    return Protocol(executive=ScriptedExecutive(replies), memory_model=memory_model)


def test_the_protocol_asks_it_stage_by_stage(memory_model: MemoryModel) -> None:
    result = protocol(memory_model).run("In which town does the founder of the Kelp Archive live?")
    answers = [answer.text for one in result.interactions for answer in one.answers]
    assert (result.answer, result.entity, result.confirmed, answers) == ("Calder Quay", "Ilse Varga", True, TOLD[::-1])


def test_both_frameworks_run_the_protocol(memory_model: MemoryModel) -> None:
    question = "In which town does the founder of the Kelp Archive live?"
    tool = MeMoProtocolTool(protocol=protocol(memory_model))
    message = tool.invoke({"name": tool.name, "args": {"question": question}, "id": "1", "type": "tool_call"})
    assert message.artifact["answer"] == "Calder Quay"
    response = MeMoQueryEngine(protocol=protocol(memory_model)).query(question)
    assert str(response) == "Calder Quay"
    assert json.dumps(response.metadata)


def test_requests_do_not_grow_with_the_corpus(memory_model: MemoryModel) -> None:
    """What a question costs is its own tokens, and a template around them."""
    [short], [long] = memory_model.ask(["Who?"]), memory_model.ask(["Who is the mayor of the town of Marrowgate?"])
    assert 0 < short.usage.input_tokens < long.usage.input_tokens < 40


async def test_a_hundred_questions_at_once(async_memory_model: MemoryModel) -> None:
    rounds = await asyncio.gather(*(async_memory_model.aask(ASKED) for _ in range(50)))
    assert [answer.text for answers in rounds for answer in answers] == TOLD * 50
