"""The whole pipeline, measured: a real memory over scripted experts, and over the tiny model with its adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from scripted import FakeBackend, Reply, WordEmbedder, decides, says, user_line
from tiny_model import TinyModel

from memlora_plugins import AdapterError, BackendTimeoutError, BackendUnavailableError, Message
from memlora_plugins.errors import BackendRequestError, EmbeddingError, InvalidInputError
from memlora_plugins.evaluation import pipeline
from memlora_plugins.evaluation.conversations import Conversation, Question
from memlora_plugins.evaluation.metrics import contains
from memlora_plugins.serving.base import Completion, Request
from memlora_plugins.serving.local import LocalBackend


def conversation(id: str, city: str, *more: Question) -> Conversation:
    said = [
        ("s1", Message("user", f"I live in {city}.", created_at=datetime(2025, 3, 1, tzinfo=UTC))),
        ("s1", Message("assistant", "Nice.")),
        ("s2", Message("user", "I own a boat.", created_at=datetime(2025, 3, 2, tzinfo=UTC))),
    ]
    questions = (Question("Which city?", city, category=4), Question("Which animal?", None), *more)
    return Conversation(id, tuple(said), questions)


TALKS = [conversation("ana", "Lisbon", Question("What is owned?", "a boat")), conversation("ben", "Porto")]


def line_said(request: Request) -> str:
    return next(
        line for line in ("I live in Lisbon.", "I live in Porto.", "I own a boat.") if line in user_line(request)
    )


def from_memory(request: Request) -> str:
    known = user_line(request)
    wanted = "boat" if "owned" in known else "Lisbon" if "Lisbon" in known else "Porto"
    return wanted if wanted in known else "I do not know."


@pytest.fixture
def backend() -> Callable[..., FakeBackend]:
    def make(**experts: Callable[[Request], Reply]) -> FakeBackend:
        scripts: dict[str, Callable[[Request], Reply]] = {
            "extraction": lambda request: says(line_said(request)),
            "update": lambda request: decides(("0", "UPDATE", "I own a boat and more.")),
            "generation": from_memory,
        }
        return FakeBackend(**(scripts | experts))

    return make


def test_what_is_asked_is_answered_and_scored(backend: Callable[..., FakeBackend]) -> None:
    embedder, model = WordEmbedder(), backend()
    steps: list[tuple[int, int]] = []
    result = pipeline.evaluate(TALKS, model, embedder, progress=lambda done, total: steps.append((done, total)))
    assert result.score == 1.0
    assert (result.questions, result.conversations, result.turns, result.facts) == (3, 2, 6, 4)
    assert result.by_category == {4: pipeline.CategoryScore(questions=2, score=1.0)}
    assert result.events == {"ADD": 4}
    assert (result.pending, result.cut_off, result.failures) == (0, 0, ())
    assert [answer.answer for answer in result.answers] == ["Lisbon", "boat", "Porto"]
    assert (result.metric, result.embedder, result.backend) == ("token_f1", "fake-words", "fake backend")
    assert {expert: usage.calls for expert, usage in result.usage.items()} == {"extraction": 4, "generation": 3}
    assert result.usage["extraction"].per_call()[:2] == (10.0, 5.0)
    assert result.remember_seconds > 0
    assert result.answer_seconds > 0
    assert steps[-1] == (9, 9)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert model.closed
    embedder.embed(["still open"])


def test_each_conversation_is_remembered_alone_and_as_dated(backend: Callable[..., FakeBackend]) -> None:
    model = backend()
    pipeline.evaluate(TALKS, model, WordEmbedder())
    for request in model.asked("generation"):
        assert ("Lisbon" in user_line(request)) != ("Porto" in user_line(request))
        assert "asked on Sun 2025-03-02" in user_line(request)


def test_what_fails_scores_nothing_and_is_counted(backend: Callable[..., FakeBackend]) -> None:
    def extract(request: Request) -> Reply:
        return "no idea" if "boat" in line_said(request) else says(line_said(request))

    def answer(request: Request) -> Reply:
        if "Lisbon" in user_line(request):
            return BackendRequestError("the prompt is too long", status=400)
        return Completion("Porto", finish_reason="length")

    result = pipeline.evaluate(TALKS, backend(extraction=extract, generation=answer), WordEmbedder())
    assert result.score == pytest.approx(1 / 3)
    assert (result.pending, result.cut_off) == (2, 1)
    assert [answer.answer for answer in result.answers] == [None, None, "Porto"]
    found = {(failure.stage, failure.error): failure.count for failure in result.failures}
    assert found == {("extraction", "ReplyError"): 2, ("generation", "BackendRequestError"): 2}
    assert any(failure.example == "the prompt is too long" for failure in result.failures)


@pytest.mark.parametrize("stage", ["extraction", "generation"])
@pytest.mark.parametrize("error", [BackendUnavailableError("nobody there"), AdapterError("no such adapter")])
def test_a_model_that_is_not_there_is_no_score(
    backend: Callable[..., FakeBackend], stage: str, error: Exception
) -> None:
    model = backend(**{stage: lambda request: error})
    with pytest.raises(type(error), match=str(error)):
        pipeline.evaluate(TALKS, model, WordEmbedder())
    assert model.closed


def test_an_embedder_that_is_down_is_no_score(backend: Callable[..., FakeBackend]) -> None:
    class Dead(WordEmbedder):
        def embed(self, texts: Sequence[str]) -> Any:
            raise EmbeddingError("No embedding server answers")

    model = backend()
    with pytest.raises(EmbeddingError, match="No embedding server"):
        pipeline.evaluate(TALKS, model, Dead())
    assert model.closed


def test_a_timeout_is_one_failure_among_others(backend: Callable[..., FakeBackend]) -> None:
    model = backend(generation=lambda request: BackendTimeoutError("too slow"))
    result = pipeline.evaluate(TALKS, model, WordEmbedder())
    assert result.score == 0.0
    assert [(failure.error, failure.count) for failure in result.failures] == [("BackendTimeoutError", 3)]


@pytest.mark.parametrize(
    ("talks", "options", "message"),
    [
        ([], {}, "no question"),
        ([Conversation("ana", TALKS[0].messages, (Question("Which?", "Ana's", category=5),))], {}, "no question"),
        ([TALKS[0], TALKS[0]], {}, "ana is given twice"),
        (TALKS, {"concurrency": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    backend: Callable[..., FakeBackend], talks: list[Conversation], options: dict[str, int], message: str
) -> None:
    model = backend()
    with pytest.raises(InvalidInputError, match=message):
        pipeline.evaluate(talks, model, WordEmbedder(), **options)
    assert model.closed
    assert model.requests == []


async def test_calls_run_together_within_the_limit(backend: Callable[..., FakeBackend]) -> None:
    class Watched(FakeBackend):
        running = most = 0

        async def acomplete(self, request: Request) -> Completion:
            Watched.running += 1
            Watched.most = max(Watched.most, Watched.running)
            await asyncio.sleep(0.01)
            Watched.running -= 1
            return self._reply(request)

    await pipeline.aevaluate(TALKS, Watched(**backend().experts), WordEmbedder(), concurrency=2)
    assert Watched.most == 2


def test_another_metric_and_the_file(backend: Callable[..., FakeBackend], tmp_path: Path) -> None:
    result = pipeline.evaluate(
        TALKS, backend(generation=lambda request: "It is Lisbon"), WordEmbedder(), metric=contains
    )
    assert (result.metric, result.score) == ("contains", pytest.approx(1 / 3))
    file = tmp_path / "made" / "result.json"
    result.write(file)
    assert pipeline.PipelineResult.read(file) == result
    assert [path.name for path in file.parent.iterdir()] == ["result.json"]
    file.write_text("{}")
    with pytest.raises(InvalidInputError, match=r"result\.json holds no pipeline result"):
        pipeline.PipelineResult.read(file)
    with pytest.raises(InvalidInputError, match="nowhere"):
        pipeline.PipelineResult.read(tmp_path / "nowhere.json")


def test_the_rows_of_the_ablation() -> None:
    adapters = {"generation": "g", "extraction": "e"}
    assert pipeline.stages(adapters) == {
        "base": {},
        "+ extraction": {"extraction": "e"},
        "+ generation": {"extraction": "e", "generation": "g"},
    }
    assert pipeline.stages({}, shared="s") == {
        "base": {},
        "one shared adapter": {"extraction": "s", "update": "s", "generation": "s"},
    }


def test_an_ablation_with_real_adapters(tiny_model: TinyModel) -> None:
    every = pipeline.stages(tiny_model.adapters, shared=tiny_model.adapters["generation"])
    talk = Conversation("ana", TALKS[0].messages[:1], TALKS[0].questions[:1])
    heard: list[str] = []
    results = pipeline.ablation(
        [talk],
        {label: every[label] for label in ("base", "one shared adapter")},
        lambda adapters: LocalBackend(tiny_model.path, adapters),
        WordEmbedder(),
        on_row=heard.append,
    )
    assert heard == list(results) == ["base", "one shared adapter"]
    for result in results.values():
        assert (result.turns, result.questions) == (1, 1)
        assert result.usage["generation"].calls == 1
        assert result.usage["generation"].output_tokens > 0
    short, full = (results[row].usage["extraction"].per_call()[0] for row in ("one shared adapter", "base"))
    assert short < full / 2  # a trained expert is asked with the short prompt
    assert "generation=" in results["one shared adapter"].backend
