"""What is remembered, as documents."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest
from brain import ScriptedChatModel
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from two_people import ANA

from langchain_memlora import MemLoRARetriever
from langchain_memlora.messages import as_message
from memlora_plugins import InvalidInputError, Memory, Scope, ScopeError

AS_ANA: Any = {"configurable": {"user_id": "ana"}}
QUESTION = "Where does Ana live?"


def test_documents_tell_where_they_come_from(told: Memory) -> None:
    documents = MemLoRARetriever(memory=told).invoke(QUESTION, AS_ANA)
    fact = next(document for document in documents if document.metadata["kind"] == "fact")
    turn = next(document for document in documents if document.page_content.startswith("I moved"))
    assert fact.page_content == "Ana lives in Porto"
    assert told.get(str(fact.id), scope=ANA).text == fact.page_content
    assert fact.metadata["sources"] == ["m1"]
    assert datetime.fromisoformat(fact.metadata["created_at"]).tzinfo
    assert (turn.metadata["role"], turn.metadata["session_id"], turn.metadata["sources"]) == ("user", "first", ["m1"])
    scores = [document.metadata["score"] for document in documents]
    assert scores == sorted(scores, reverse=True)


def test_metadata_is_the_applications_and_not_ours(memory: Memory) -> None:
    from langchain_core.messages import HumanMessage

    message = as_message(HumanMessage("I play the cello", id="1"))
    assert message is not None
    memory.add([message], scope=ANA, distil=False)
    [document] = MemLoRARetriever(memory=memory, user_id="ana").invoke("cello")
    assert document.metadata["metadata"] == {}


def test_only_facts_or_only_turns(told: Memory) -> None:
    for kind in ("fact", "turn"):
        found = MemLoRARetriever(memory=told, user_id="ana", kinds=[kind]).invoke(QUESTION)  # type: ignore[list-item]
        assert {document.metadata["kind"] for document in found} == {kind}


def test_the_person_is_the_calls_unless_set(told: Memory) -> None:
    open_, pinned = MemLoRARetriever(memory=told), MemLoRARetriever(memory=told, user_id="ana")
    assert "Rome" in str(open_.invoke("Who lives in Rome?", {"configurable": {"user_id": "bob"}}))
    assert "Rome" not in str(pinned.invoke("Who lives in Rome?", {"configurable": {"user_id": "bob"}}))
    assert [spec.id for spec in open_.config_specs] == ["user_id"]
    assert pinned.config_specs == []
    declared = pinned.configurable_fields(user_id=ConfigurableField(id="user_id"))
    assert "Rome" in str(declared.invoke("Who lives in Rome?", {"configurable": {"user_id": "bob"}}))


def test_a_call_that_names_somebody_means_them_whatever_runs_around_it(told: Memory) -> None:
    found: list[str] = []

    @tool
    def look_up(query: str) -> str:
        """Looks something up for somebody else, and for the person."""
        found.append(str(MemLoRARetriever(memory=told).invoke(query, {"configurable": {"user_id": "bob"}})))
        found.append(str(MemLoRARetriever(memory=told).invoke(query)))
        return "Done."

    def script(messages: Any) -> Any:
        asked = {"name": "look_up", "args": {"query": "Who lives where?"}, "id": "1"}
        return "Done." if len(messages) > 1 else AIMessage("", tool_calls=[asked])

    agent = create_agent(ScriptedChatModel(script=script), tools=[look_up], context_schema=dict)
    agent.invoke({"messages": [("user", "Look!")]}, context={"user_id": "ana"})
    assert "Rome" in found[0]
    assert "Porto" not in found[0]
    assert "Porto" in found[1]


def test_nobody_named_is_an_error(told: Memory) -> None:
    with pytest.raises(ScopeError, match="user_id"):
        MemLoRARetriever(memory=told).invoke(QUESTION)
    with pytest.raises(ScopeError, match="user_id"):
        asyncio.run(MemLoRARetriever(memory=told).ainvoke(QUESTION))


@pytest.mark.parametrize("k", [0, -1])
def test_too_few_is_refused(told: Memory, k: int) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        MemLoRARetriever(memory=told, k=k)
    with pytest.raises(InvalidInputError):
        MemLoRARetriever(memory=told).invoke(QUESTION, AS_ANA, k=k)


def test_works_in_a_chain_and_in_batches(told: Memory) -> None:
    chain = MemLoRARetriever(memory=told, k=1) | (lambda documents: documents[0].page_content)
    assert "Porto" in chain.invoke(QUESTION, AS_ANA)
    assert len(MemLoRARetriever(memory=told, k=2).batch([QUESTION, "cello"], AS_ANA)) == 2


def test_is_traced_as_a_retriever(told: Memory) -> None:
    found: list[Any] = []

    class Handler(BaseCallbackHandler):
        def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            found.extend(documents)

    MemLoRARetriever(memory=told).invoke(QUESTION, {**AS_ANA, "callbacks": [Handler()]})
    assert found


def test_narrows_by_agent(told: Memory) -> None:
    assert MemLoRARetriever(memory=told, user_id="ana", agent_id="coach").invoke(QUESTION) == []
    told.note("Lives by the sea", scope=Scope("ana", "coach"))
    assert len(MemLoRARetriever(memory=told, user_id="ana", agent_id="coach").invoke(QUESTION)) == 1
