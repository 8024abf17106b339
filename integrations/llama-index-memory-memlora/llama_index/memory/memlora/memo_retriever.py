"""What a Memory model knows, as LlamaIndex nodes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from memlora_plugins import BackendError
from memlora_plugins.experts.wording import one_line
from memlora_plugins.memo.answers import AnswersQuestions, MemoryAnswer, aask_model, ask_model

from .memo_events import report_answers
from .retriever import words

Decompose = Callable[[str], Sequence[str]]
ADecompose = Callable[[str], Awaitable[Sequence[str]]]


class MeMoRetriever(BaseRetriever):
    """Answers of a Memory model as nodes: those that it knows, in the order of the questions.

    A node's text has the question and the answer, a line each, since an answer alone ("In 1887.") tells a reader
    nothing; both are in its `metadata`, too, as `question` and `answer`. A node's `id_` is the same for the same
    question and answer. Its score is how sure the model was, 0 to 1; None where that is not known.

    A Memory model answers short questions about one fact. What is more than that, `decompose` takes apart, or
    `MeMoQueryEngine` step by step.

    Args:
        memory_model: see `memlora_plugins.memo.answers.AnswersQuestions`.
        decompose: makes the questions of a query; by default a query is one question.
        adecompose: the same on an event loop; by default `decompose`.
        temperature: of the Memory model, if it can be told one.
        **base: as `BaseRetriever` (`callback_manager`, `objects`, `object_map`, `verbose`).

    Raises (by a query):
        InvalidInputError: it has no words. BackendError: the Memory model cannot be reached. Where some of several
        questions could not be asked, there is a `MemoryWarningEvent`, and nodes of the others.
    """

    def __init__(
        self,
        *,
        memory_model: AnswersQuestions,
        decompose: Decompose | None = None,
        adecompose: ADecompose | None = None,
        temperature: float = 0.0,
        callback_manager: CallbackManager | None = None,
        **base: Any,
    ) -> None:
        super().__init__(callback_manager=callback_manager, **base)
        self.memory_model = memory_model
        self.decompose = decompose
        self.adecompose = adecompose
        self.temperature = temperature

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = words(query_bundle)
        questions = _each_once([query] if self.decompose is None else self.decompose(query))
        if not questions:
            return []
        return self._nodes(ask_model(self.memory_model, questions, self.temperature))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = words(query_bundle)
        if self.adecompose is not None:
            questions = _each_once(await self.adecompose(query))
        else:
            questions = _each_once([query] if self.decompose is None else self.decompose(query))
        if not questions:
            return []
        return self._nodes(await aask_model(self.memory_model, questions, self.temperature))

    def _nodes(self, answers: Sequence[MemoryAnswer]) -> list[NodeWithScore]:
        if all(answer.error is not None for answer in answers):
            raise BackendError(f"The Memory model answered nothing. {answers[0].error}")
        report_answers(answers, self.memory_model, self.callback_manager)
        return answer_nodes(answers)


def answer_nodes(answers: Iterable[MemoryAnswer]) -> list[NodeWithScore]:
    """What a Memory model knows, each answer once, as nodes; see `MeMoRetriever` for their fields."""
    known: dict[tuple[str, str], float | None] = {}
    for answer in answers:
        if answer.knows:
            known.setdefault((answer.question, answer.text), answer.confidence)
    return [NodeWithScore(node=_node(*said), score=score) for said, score in known.items()]


def _node(question: str, answer: str) -> TextNode:
    metadata = {"question": question, "answer": answer}
    return TextNode(
        id_=str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([question, answer]))),
        text=f"Question: {one_line(question)}\nAnswer: {one_line(answer)}",
        metadata=metadata,
        excluded_llm_metadata_keys=list(metadata),
        excluded_embed_metadata_keys=list(metadata),
    )


def _each_once(questions: Sequence[str]) -> list[str]:
    return [question for question in dict.fromkeys(map(str.strip, questions)) if question]
