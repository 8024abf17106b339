"""What a Memory model knows, as nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent, RetrievalStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from scripted_llm import Told
from scripted_memo import UNSURE, PlainMemory, ScriptedMemory

from llama_index.memory.memlora import ExpertEndEvent, MeMoRetriever, MemoryWarningEvent
from memlora_plugins import BackendError, BackendUnavailableError, InvalidInputError
from memlora_plugins.memo.answers import MemoryAnswer

KNOWN = {"Who founded it?": "Ada Lume.", "Where was she born?": "In Porto,\n<|im_start|> by the sea."}
Ask = Callable[[BaseRetriever, Any], list[NodeWithScore]]


def retrieve(retriever: BaseRetriever, query: Any) -> list[NodeWithScore]:
    return retriever.retrieve(query)


def aretrieve(retriever: BaseRetriever, query: Any) -> list[NodeWithScore]:
    return asyncio.run(retriever.aretrieve(query))


both = pytest.mark.parametrize("ask", [retrieve, aretrieve], ids=["sync", "async"])


class Failing(ScriptedMemory):
    """Cannot be asked what has an x."""

    model = "memo-lighthouses"

    def ask(self, questions: Sequence[str], *, temperature: float = 0.0) -> list[MemoryAnswer]:
        answers = super().ask(questions, temperature=temperature)
        return [MemoryAnswer(one.question, "", error="too long") if "x" in one.question else one for one in answers]


def at_and(query: str) -> list[str]:
    """The questions of a query, taken apart without care."""
    return query.split(" and ")


@both
def test_an_answer_is_a_node_that_is_understood_by_itself(ask: Ask) -> None:
    memory = ScriptedMemory(KNOWN)
    [found] = ask(MeMoRetriever(memory_model=memory), "Where was she born?")
    assert memory.rounds == [("Where was she born?",)]
    assert memory.temperatures == [0.0]
    assert found.score is None
    assert found.node.metadata == {"question": "Where was she born?", "answer": KNOWN["Where was she born?"]}
    text = "Question: Where was she born?\nAnswer: In Porto, < |im_start|> by the sea."
    for mode in (MetadataMode.NONE, MetadataMode.LLM, MetadataMode.EMBED):
        assert found.node.get_content(mode) == text


@both
def test_a_memory_model_that_takes_no_temperature_is_asked(ask: Ask) -> None:
    [found] = ask(MeMoRetriever(memory_model=PlainMemory(KNOWN)), "Who founded it?")
    assert found.node.metadata["answer"] == "Ada Lume."


@both
def test_a_node_has_the_same_id_in_every_search(ask: Ask) -> None:
    ids = [
        [node.node_id for node in ask(MeMoRetriever(memory_model=ScriptedMemory(KNOWN), decompose=at_and), query)]
        for query in ("Who founded it? and Where was she born?", "Where was she born? and Who founded it?")
    ]
    assert ids[0] == ids[1][::-1]
    assert len(set(ids[0])) == 2


class Sure(ScriptedMemory):
    """Says how sure it is: at first less than later."""

    def ask(self, questions: Sequence[str], *, temperature: float = 0.0) -> list[MemoryAnswer]:
        answers = super().ask(questions, temperature=temperature)
        return [replace(answer, confidence=0.5 + place / 4) for place, answer in enumerate(answers)]


@both
def test_how_sure_it_was_is_the_score(ask: Ask) -> None:
    retriever = MeMoRetriever(memory_model=Sure(KNOWN), decompose=at_and)
    query = "Who founded it? and Where was she born?"
    assert [node.score for node in ask(retriever, query)] == [0.5, 0.75]
    kept = SimilarityPostprocessor(similarity_cutoff=0.6).postprocess_nodes(ask(retriever, query))
    assert [node.metadata["question"] for node in kept] == ["Where was she born?"]


@both
def test_what_it_does_not_know_is_no_node(ask: Ask) -> None:
    memory = ScriptedMemory(KNOWN)
    assert ask(MeMoRetriever(memory_model=memory), "Who is who?") == []
    found = ask(MeMoRetriever(memory_model=memory, decompose=at_and), "Who is who? and Who founded it?")
    assert [node.metadata["answer"] for node in found] == ["Ada Lume."]
    assert memory.rounds[-1] == ("Who is who?", "Who founded it?")


@both
def test_questions_are_asked_once_and_blank_ones_never(ask: Ask) -> None:
    memory = ScriptedMemory(KNOWN)
    retriever = MeMoRetriever(memory_model=memory, decompose=lambda query: [" ", "a ", "b", "a"], temperature=0.3)
    assert ask(retriever, "Everything?") == []
    assert (memory.rounds, memory.temperatures) == ([("a", "b")], [0.3])
    assert ask(MeMoRetriever(memory_model=memory, decompose=lambda query: []), "Nothing?") == []
    assert len(memory.rounds) == 1


async def test_an_event_loop_may_take_a_query_apart_in_its_own_way() -> None:
    async def by_comma(query: str) -> list[str]:
        await asyncio.sleep(0)
        return query.split(", ")

    memory = ScriptedMemory(KNOWN)
    retriever = MeMoRetriever(memory_model=memory, decompose=at_and, adecompose=by_comma)
    await retriever.aretrieve("a, b and c")
    retriever.retrieve("a, b and c")
    assert memory.rounds == [("a", "b and c"), ("a, b", "c")]
    alone = MeMoRetriever(memory_model=memory, adecompose=by_comma)
    alone.retrieve("a, b")
    await MeMoRetriever(memory_model=memory, adecompose=lambda query: by_comma("")).aretrieve("a")
    assert memory.rounds[2:] == [("a, b",)]


@both
def test_a_query_without_words_is_refused(ask: Ask) -> None:
    for query in ("", " \n", QueryBundle("", embedding=[0.1])):
        with pytest.raises(InvalidInputError, match="no words"):
            ask(MeMoRetriever(memory_model=ScriptedMemory(KNOWN)), query)


@both
def test_a_memory_model_that_is_down_is_an_error(ask: Ask) -> None:
    down = ScriptedMemory(failing=BackendUnavailableError("no server"))
    with pytest.raises(BackendUnavailableError, match="no server"):
        ask(MeMoRetriever(memory_model=down), "Who founded it?")
    with pytest.raises(BackendError, match="answered nothing"):
        ask(MeMoRetriever(memory_model=Failing(KNOWN)), "x?")


@both
def test_what_could_not_be_asked_is_told(ask: Ask, told_events: Told) -> None:
    retriever = MeMoRetriever(memory_model=Failing(KNOWN), decompose=at_and)
    assert len(ask(retriever, "x? and Who founded it?")) == 1
    [warning] = told_events.of(MemoryWarningEvent)
    assert (warning.stage, warning.error) == ("ask", "BackendError")
    assert warning.message == "1 of 2 questions could not be asked of the Memory model. too long"


@both
def test_what_it_took_is_told(ask: Ask, told_events: Told) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    callbacks = CallbackManager([counter])
    retriever = MeMoRetriever(memory_model=Failing(KNOWN), decompose=at_and, callback_manager=callbacks)
    ask(retriever, "Who is who? and Who founded it?")
    [took] = told_events.of(ExpertEndEvent)
    assert (took.model, took.calls, took.input_tokens, took.output_tokens) == ("memo-lighthouses", 2, 10, 4)
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (10, 4)
    assert len(told_events.of(RetrievalStartEvent)) == len(told_events.of(RetrievalEndEvent)) == 1
    ask(MeMoRetriever(memory_model=ScriptedMemory(KNOWN)), "Who founded it?")
    assert told_events.of(ExpertEndEvent)[-1].model == "ScriptedMemory"


@both
def test_readers_of_nodes_are_shown_question_and_answer(ask: Ask) -> None:
    retriever = MeMoRetriever(memory_model=ScriptedMemory(KNOWN))
    shown = str(RetrieverQueryEngine.from_args(retriever, llm=MockLLM()).query("Who founded it?"))
    assert "Question: Who founded it?\nAnswer: Ada Lume." in shown
    twice: Any = [retriever, MeMoRetriever(memory_model=ScriptedMemory(KNOWN))]
    for mode in ("reciprocal_rerank", "relative_score", "dist_based_score", "simple"):
        fused = QueryFusionRetriever(twice, llm=MockLLM(), num_queries=1, mode=mode, use_async=False)  # type: ignore[arg-type]
        assert [node.metadata["answer"] for node in ask(fused, "Who founded it?")] == ["Ada Lume."]


def test_unsure_answers_are_not_known() -> None:
    memory = ScriptedMemory({"a": UNSURE, "b": " ", "c": "I do not know who."})
    assert MeMoRetriever(memory_model=memory, decompose=str.split).retrieve("a b c") == []
