"""Questions answered from memory, from documents and by MeMo's protocol, and how the answers are scored and kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from scripted import FakeBackend
from scripted_memo import DONE, FINAL, ScriptedExecutive, ScriptedMemory, confirm, ground

from memlora_plugins.errors import (
    BackendRequestError,
    BackendTimeoutError,
    BackendUnavailableError,
    DatasetError,
    PromptTooLongError,
)
from memlora_plugins.evaluation.memo_qa import reading
from memlora_plugins.evaluation.memo_qa.reading import Method, Row
from memlora_plugins.evaluation.musique import Question
from memlora_plugins.memo.answers import MemoryAnswer
from memlora_plugins.memo.corpus import Document
from memlora_plugins.memo.protocol import Protocol
from memlora_plugins.serving.base import Request
from memlora_plugins.training.journal import Journal
from memlora_plugins.types import Usage

DOCUMENTS = [Document(f"d{number}", f"Title {number}\n\nText of {number}.") for number in range(4)]
QUESTIONS = [
    Question("a", "Which town?", ("Porto", "Oporto"), 2, ("d1",)),
    Question("b", "Which river?", ("Douro",), 3, ("d2",)),
]


def every(question: str, limit: int) -> list[str]:
    return [document.id for document in DOCUMENTS][:limit]


def methods(backends: Mapping[str, FakeBackend]) -> list[Method]:
    return [Method(Row(method=name), reading.reader(one, DOCUMENTS, every), name) for name, one in backends.items()]


async def test_a_reader_sees_the_best_documents_without_their_ids() -> None:
    backend = FakeBackend(reader=lambda request: "<think>hm</think> Porto")
    said = await reading.reader(backend, DOCUMENTS, every, k=2, temperature=0.3)("Which\ntown?")
    assert (said.text, said.usage.input_tokens, said.documents) == ("Porto", 10, 2)
    [request] = backend.requests
    prompt = request.messages[0]["content"]
    assert "\n[1] Title 0 Text of 0.\n[2] Title 1 Text of 1.\n\nQuestion: Which town?" in prompt
    assert "d0" not in prompt
    assert "Text of 2" not in prompt
    assert request.temperature == 0.3


async def test_a_prompt_that_is_too_long_loses_the_worst_documents() -> None:
    def small(request: Request) -> str | Exception:
        return PromptTooLongError("too long") if "[3]" in request.messages[0]["content"] else "Porto"

    backend = FakeBackend(reader=small)
    said = await reading.reader(backend, DOCUMENTS, every)("Which town?")
    assert (said.text, said.documents) == ("Porto", 2)
    assert len(backend.requests) == 3
    none = FakeBackend(reader=lambda request: PromptTooLongError("too long"))
    with pytest.raises(PromptTooLongError):
        await reading.reader(none, DOCUMENTS, every)("Which town?")
    assert "(none was found)" in none.requests[-1].messages[0]["content"]


async def test_without_context_nothing_but_the_question_is_shown() -> None:
    backend = FakeBackend(reader=lambda request: "Porto")
    said = await reading.no_context(backend)("Which town?")
    assert (said.text, said.documents) == ("Porto", None)
    prompt = backend.requests[0].messages[0]["content"]
    assert prompt.endswith("Question: Which town?")
    assert "document" not in prompt


async def test_memo_answers_with_the_protocol() -> None:
    memory = ScriptedMemory({"Which towns?": "Porto"})
    executive = ScriptedExecutive([ground("Which towns?"), confirm("Porto"), DONE, FINAL])
    said = await reading.memo(Protocol(executive=executive, memory_model=memory))("Which town?")
    assert (said.text, said.usage.input_tokens, said.documents, said.unanswered) == ("Porto", 5, None, 0)


async def test_memo_without_its_memory_model_is_no_answer() -> None:
    """The protocol goes on with nothing but the Executive's own knowledge; that must not be measured as MeMo."""
    replies = [ground("Which towns?"), confirm("Porto"), DONE, FINAL]
    away = ScriptedMemory(failing=BackendUnavailableError("gone"))
    protocol = Protocol(executive=ScriptedExecutive(replies), memory_model=away)
    with pytest.raises(BackendUnavailableError, match="gone"):
        await reading.memo(protocol)("Which town?")
    assert protocol.memory_model is away, "the caller's protocol is as it was"


async def test_questions_to_the_memory_model_that_fail_are_counted() -> None:
    class Partly(ScriptedMemory):
        async def aask(self, questions: object, *, temperature: float = 0.0) -> list[MemoryAnswer]:
            return [MemoryAnswer("q1", "Porto", usage=Usage(1, 5, 2)), MemoryAnswer("q2", "", error="too long")]

    executive = ScriptedExecutive([ground("q1", "q2"), confirm("Porto"), DONE, FINAL])
    said = await reading.memo(Protocol(executive=executive, memory_model=Partly()))("Which town?")
    assert (said.text, said.unanswered) == ("Porto", 1)


async def test_answers_are_scored_against_all_that_is_right_and_failures_are_told() -> None:
    def says(request: Request) -> str | Exception:
        if "town" in request.messages[0]["content"]:
            return "the town of Oporto"
        return BackendTimeoutError("slow")

    refusing = FakeBackend(reader=lambda request: BackendRequestError("no"))
    silent = FakeBackend(reader=lambda request: " ")
    steps: list[tuple[int, int]] = []
    answers = await reading.aanswers(
        QUESTIONS,
        methods({"good": FakeBackend(reader=says), "refusing": refusing, "silent": silent}),
        concurrency=1,
        progress=lambda done, of: steps.append((done, of)),
    )
    assert steps == [(done, 6) for done in range(1, 7)]
    assert [(answer.method, answer.id) for answer in answers[:3]] == [("good", "a"), ("good", "b"), ("refusing", "a")]
    assert answers[0].scores == {"contains": 1.0, "exact_match": 0.0, "token_f1": pytest.approx(2 * 1 / 4)}
    assert (answers[0].kind, answers[0].row) == ("2 hops", Row(method="good"))
    assert (answers[1].answer, answers[1].error) == (None, "BackendTimeoutError: slow")
    assert answers[1].scores["contains"] == 0.0
    assert (answers[4].error or "").startswith("ReplyError")


async def test_what_is_kept_is_not_asked_for_again(tmp_path: Path) -> None:
    """Of a method with another key, in a further run, for other documents of one question: only that is asked."""
    backend = FakeBackend(reader=lambda request: "Porto")

    async def asked(**changes: object) -> int:
        before = len(backend.requests)
        given = {"row": Row(method="x"), "answer": reading.reader(backend, DOCUMENTS, every), "key": "k", **changes}
        with Journal(tmp_path / "answering.jsonl") as journal:
            answers = await reading.aanswers(QUESTIONS, [Method(**given)], journal=journal)  # type: ignore[arg-type]
        assert all(answer.answer == "Porto" for answer in answers)
        return len(backend.requests) - before

    assert await asked() == 2
    assert await asked(row=Row(method="renamed")) == 0
    assert await asked(runs=2) == 2
    assert await asked(key="another") == 2
    assert await asked(reads={"a": "d1"}) == 1, "the other question is none of those it can answer"
    assert await asked(reads={"a": "d1", "b": "d2"}) == 1
    assert await asked(reads={"a": "d1", "b": "d3"}) == 1


async def test_failures_are_asked_for_again(tmp_path: Path) -> None:
    replies: list[str | Exception] = [BackendTimeoutError("slow"), "Porto", "Douro"]
    backend = FakeBackend(reader=lambda request: replies.pop(0))
    for _ in range(2):
        with Journal(tmp_path / "answering.jsonl") as journal:
            answers = await reading.aanswers(QUESTIONS, methods({"x": backend}), concurrency=1, journal=journal)
    assert [answer.answer for answer in answers] == ["Douro", "Porto"]
    assert not replies


async def test_another_file_in_place_of_the_journal(tmp_path: Path) -> None:
    (tmp_path / "answering.jsonl").write_text('{"method": "BM25"}\n')
    with Journal(tmp_path / "answering.jsonl") as journal, pytest.raises(DatasetError, match="use another folder"):
        await reading.aanswers(QUESTIONS, [], journal=journal)


async def test_a_model_that_is_not_there_is_an_error() -> None:
    backend = FakeBackend(reader=lambda request: BackendUnavailableError("down"))
    with pytest.raises(BackendUnavailableError, match="down"):
        await reading.aanswers(QUESTIONS, methods({"x": backend}))
