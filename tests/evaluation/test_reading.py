"""Questions answered from documents and by MeMo's protocol, and how the answers are scored."""

from __future__ import annotations

import json
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
from memlora_plugins.evaluation import reading
from memlora_plugins.evaluation.musique import Question
from memlora_plugins.memo.corpus import Document
from memlora_plugins.memo.protocol import Protocol
from memlora_plugins.serving.base import Request

DOCUMENTS = [Document(f"d{number}", f"Title {number}\n\nText of {number}.") for number in range(4)]
QUESTIONS = [
    Question("a", "Which town?", ("Porto", "Oporto"), 2, ("d1",)),
    Question("b", "Which river?", ("Douro",), 3, ("d2",)),
]


def every(question: str, limit: int) -> list[str]:
    return [document.id for document in DOCUMENTS][:limit]


async def test_a_reader_sees_the_best_documents_without_their_ids() -> None:
    backend = FakeBackend(reader=lambda request: "<think>hm</think> Porto")
    answer, usage = await reading.reader(backend, DOCUMENTS, every, k=2)("Which\ntown?")
    assert (answer, usage.input_tokens) == ("Porto", 10)
    [prompt] = [message["content"] for message in backend.requests[0].messages]
    assert "\n[1] Title 0 Text of 0.\n[2] Title 1 Text of 1.\n\nQuestion: Which town?" in prompt
    assert "d0" not in prompt
    assert "Text of 2" not in prompt


async def test_a_prompt_that_is_too_long_loses_the_worst_documents() -> None:
    def small(request: Request) -> str | Exception:
        return PromptTooLongError("too long") if "[3]" in request.messages[0]["content"] else "Porto"

    backend = FakeBackend(reader=small)
    assert (await reading.reader(backend, DOCUMENTS, every)("Which town?"))[0] == "Porto"
    assert len(backend.requests) == 3
    none = FakeBackend(reader=lambda request: PromptTooLongError("too long"))
    with pytest.raises(PromptTooLongError):
        await reading.reader(none, DOCUMENTS, every)("Which town?")
    assert "(none was found)" in none.requests[-1].messages[0]["content"]


async def test_memo_answers_with_the_protocol() -> None:
    memory = ScriptedMemory({"Which towns?": "Porto"})
    executive = ScriptedExecutive([ground("Which towns?"), confirm("Porto"), DONE, FINAL])
    answer, usage = await reading.memo(Protocol(executive=executive, memory_model=memory))("Which town?")
    assert answer == "Porto"
    assert usage.input_tokens == 5


async def test_answers_are_scored_against_all_that_is_right_and_failures_are_told() -> None:
    def says(request: Request) -> str | Exception:
        if "town" in request.messages[0]["content"]:
            return "the town of Oporto"
        return BackendTimeoutError("slow")

    backend = FakeBackend(reader=says)
    refusing = FakeBackend(reader=lambda request: BackendRequestError("no"))
    silent = FakeBackend(reader=lambda request: " ")
    backends = {"good": backend, "refusing": refusing, "silent": silent}
    methods = {name: reading.reader(one, DOCUMENTS, every) for name, one in backends.items()}
    steps: list[tuple[int, int]] = []
    answers = await reading.aanswers(
        QUESTIONS, methods, concurrency=1, progress=lambda done, of: steps.append((done, of))
    )
    assert steps == [(done, 6) for done in range(1, 7)]
    assert [(answer.method, answer.id) for answer in answers[:3]] == [("good", "a"), ("good", "b"), ("refusing", "a")]
    assert answers[0].scores == {"contains": 1.0, "exact_match": 0.0, "token_f1": pytest.approx(2 * 1 / 4)}
    assert (answers[1].answer, answers[1].error) == (None, "BackendTimeoutError: slow")
    assert answers[4].error is not None
    assert answers[4].error.startswith("ReplyError")
    good, refused, _ = reading.summaries(answers)
    assert (good.scores["contains"], good.by_hops, good.failed) == (0.5, {2: 1.0, 3: 0.0}, 1)
    assert (refused.scores["contains"], refused.failed, refused.input_tokens) == (0.0, 2, 0)
    table = reading.answers_table([good, refused])
    assert table.rows[0] == ("good", "0.500", "0.000", "0.250", "1.000", "0.000", "2", "1", "5", "2")


async def test_a_model_that_is_not_there_is_an_error() -> None:
    backend = FakeBackend(reader=lambda request: BackendUnavailableError("down"))
    with pytest.raises(BackendUnavailableError, match="down"):
        await reading.aanswers(QUESTIONS, {"x": reading.reader(backend, DOCUMENTS, every)})


async def test_answers_are_written_a_line_each(tmp_path: Path) -> None:
    backend = FakeBackend(reader=lambda request: "Porto")
    answers = await reading.aanswers(QUESTIONS, {"x": reading.reader(backend, DOCUMENTS, every)})
    reading.write_answers(tmp_path / "answers.jsonl", answers)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [(row["id"], row["answer"], row["scores"]["contains"]) for row in rows] == [
        ("a", "Porto", 1.0),
        ("b", "Porto", 0.0),
    ]
    with pytest.raises(DatasetError, match="cannot be written"):
        reading.write_answers(tmp_path / "answers.jsonl" / "x", answers)
