"""A Memory model on a fake server with faults, on a fake backend, and in process over the tiny random model."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeModelServer, Fault, Reply
from hypothesis import given
from hypothesis import strategies as st
from scripted import FakeBackend
from tiny_model import TinyModel

from memlora_plugins import (
    AdapterNotLoadedError,
    BackendRequestError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    InvalidInputError,
    LocalBackend,
    MemoryAnswer,
    MemoryModel,
    OpenAIBackend,
    PromptTooLongError,
    Protocol,
    SettingsError,
    Usage,
    VLLMBackend,
)
from memlora_plugins.memo.answers import AnswersQuestions, confidence, question_messages
from memlora_plugins.memo.card import MemoCard, TrainedDocument, write_card
from memlora_plugins.serving.base import Completion, Request

ATLAS = TrainedDocument(id="atlas", title="An atlas", sha256="0" * 64)
SURE, UNSURE = (-0.01, -0.02), (-0.01, -3.0)


@pytest.fixture
def server() -> Iterator[FakeModelServer]:
    """Serves a Memory model called `memory`, which answers with the last word of a question."""
    with FakeModelServer(model="memory") as server:
        server.reply("memory", lambda body: Reply(last_word(body), logprobs=SURE))
        yield server


def last_word(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"]).rstrip("?").split()[-1]


Connect = Callable[..., OpenAIBackend]


@pytest.fixture
async def connect(server: FakeModelServer) -> AsyncIterator[Connect]:
    """Opens backends of the server, and closes them at the end."""
    opened: list[OpenAIBackend] = []

    def open_backend(**options: Any) -> OpenAIBackend:
        opened.append(OpenAIBackend(server.base_url, "memory", **{"backoff": 0.001} | options))
        return opened[-1]

    yield open_backend
    for backend in opened:
        await backend.aclose()


async def asked(
    model: AnswersQuestions, questions: Sequence[str], way: str, temperature: float = 0.0
) -> Sequence[MemoryAnswer]:
    """In the one world or the other."""
    if way == "aask":
        return await model.aask(questions, temperature=temperature)
    return await asyncio.to_thread(model.ask, questions, temperature=temperature)


both = pytest.mark.parametrize("way", ["ask", "aask"])


# What is asked and answered -----------------------------------------------------------------------------------------


@both
async def test_each_question_gets_its_answer_in_order(server: FakeModelServer, connect: Connect, way: str) -> None:
    with MemoryModel(connect()) as model:
        answers = await asked(model, ["Who is Ana?", "Who is Bo?", "Who is Cy?"], way)
    assert [(one.question, one.text) for one in answers] == [
        ("Who is Ana?", "Ana"),
        ("Who is Bo?", "Bo"),
        ("Who is Cy?", "Cy"),
    ]
    assert all(one.knows and not one.abstained and one.error is None for one in answers)
    assert [one.confidence for one in answers] == [pytest.approx(math.exp(-0.015))] * 3
    assert [one.usage for one in answers] == [Usage(1, 3, 1)] * 3


@both
async def test_a_request_holds_the_question_and_nothing_else(server: FakeModelServer, way: str) -> None:
    """Neither a document, nor how many there are, nor another question: the cost does not grow with the corpus."""
    many = [TrainedDocument(id=f"d{number}", title=f"Title {number}", sha256="0" * 64) for number in range(1000)]
    for documents in ([], many):
        model = MemoryModel(server.base_url, documents=documents, max_tokens=20, abstain_below=0.1)
        await asked(model, ["  Who\nis \t Ana?  ", "Who is Bo?"], way, temperature=0.3)
        await model.aclose()
    assert len(server.requests) == 4
    for body in server.requests:
        [message] = body["messages"]
        assert message == {"role": "user", "content": message["content"]}
        assert message["content"] in ("Who is Ana?", "Who is Bo?")
        rest = {name: value for name, value in body.items() if name != "messages"}
        assert rest == {"model": "memory", "temperature": 0.3, "max_tokens": 20, "logprobs": True}
    sizes = [len(json.dumps(body)) for body in sorted(server.requests, key=lambda body: body["messages"][0]["content"])]
    assert sizes[0] == sizes[1]
    assert sizes[2] == sizes[3]


@given(st.text())
def test_a_question_is_one_line_of_one_message(text: str) -> None:
    [message] = question_messages(text)
    assert set(message) == {"role", "content"}
    assert message["role"] == "user"
    assert "\n" not in message["content"]
    assert question_messages(message["content"]) == [message]


class Meeting(FakeBackend):
    """Answers when so many requests are under way at once as it waits for."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.threads, self.tasks = threading.Barrier(parties), asyncio.Barrier(parties)

    def complete(self, request: Request) -> Completion:
        self.threads.wait(60)
        return Completion("Porto", logprobs=SURE)

    async def acomplete(self, request: Request) -> Completion:
        await asyncio.wait_for(self.tasks.wait(), 60)
        return Completion("Porto", logprobs=SURE)


@both
async def test_a_round_is_one_concurrent_batch(way: str) -> None:
    answers = await asked(MemoryModel(Meeting(40)), [f"Who is number {number}?" for number in range(40)], way)
    assert {one.text for one in answers} == {"Porto"}


@both
async def test_no_more_are_under_way_than_wanted(server: FakeModelServer, connect: Connect, way: str) -> None:
    server.latency = 0.02
    model = MemoryModel(connect(), concurrency=3)
    await asked(model, [f"Who is number {number}?" for number in range(20)], way)
    assert 2 <= server.most_concurrent <= 3


@both
async def test_equal_questions_are_asked_once(server: FakeModelServer, connect: Connect, way: str) -> None:
    model = MemoryModel(connect())
    answers = await asked(model, ["Who is Ana?", "Who is Bo?", "Who  is Ana?", "Who is Ana?"], way)
    assert [one.text for one in answers] == ["Ana", "Bo", "Ana", "Ana"]
    assert [one.question for one in answers] == ["Who is Ana?", "Who is Bo?", "Who  is Ana?", "Who is Ana?"]
    assert sum(one.usage.calls for one in answers) == len(server.requests) == 2
    assert await asked(model, [], way) == []


@both
@pytest.mark.parametrize("questions", ["Who is Ana?", ["Who is Ana?", " \n"], ["\u200b"], [None], None, [b"Who?"]])
async def test_what_is_no_question_is_refused_and_nothing_is_asked(
    server: FakeModelServer, connect: Connect, way: str, questions: Any
) -> None:
    with pytest.raises(InvalidInputError):
        await asked(MemoryModel(connect()), questions, way)
    assert not server.requests


def test_thinking_is_no_part_of_an_answer() -> None:
    backend = FakeBackend(memory=lambda request: "<think>\n\n</think>\n\n Porto \n")
    assert MemoryModel(backend).ask(["Where?"])[0].text == "Porto"


# Abstention ---------------------------------------------------------------------------------------------------------


def said(text: str = "Porto", logprobs: tuple[float, ...] | None = SURE, finish: Any = "stop") -> FakeBackend:
    return FakeBackend(memory=lambda request: Completion(text, finish, Usage(1, 3, 2), "fake", logprobs))


@pytest.mark.parametrize(
    ("backend", "withheld"),
    [
        (said(), None),
        (said(logprobs=UNSURE), "Porto"),
        (said(finish="length"), "Porto"),
        (said(""), ""),
        (said("", None), ""),
        (said("I don't know that.", UNSURE), None),
    ],
)
def test_it_says_that_it_does_not_know_where_it_is_unsure(backend: FakeBackend, withheld: str | None) -> None:
    [answer] = MemoryModel(backend, abstain_below=0.5).ask(["Where?"])
    assert (answer.abstained, answer.withheld) == (withheld is not None, withheld)
    assert answer.usage == Usage(1, 3, 2)
    if withheld is not None:
        assert answer.text == "I don't know."
        assert not answer.knows
        assert (answer.confidence or 0) < 0.5
    [as_it_is] = MemoryModel(backend).ask(["Where?"])
    assert (as_it_is.abstained, as_it_is.withheld) == (False, None)
    assert as_it_is.confidence == answer.confidence


def test_a_server_that_does_not_tell_how_sure_it_is_cannot_have_it_abstain() -> None:
    assert MemoryModel(said(logprobs=None)).ask(["Where?"])[0].confidence is None
    with pytest.raises(SettingsError, match="logprobs"):
        MemoryModel(said(logprobs=None), abstain_below=0.5).ask(["Where?"])


@given(st.lists(st.floats(-1e6, 0.0)))
def test_confidence_is_a_probability_between_those_of_the_tokens(logprobs: list[float]) -> None:
    sure = confidence(logprobs)
    if not logprobs:
        assert sure is None
    else:
        assert sure is not None
        assert 0 <= sure <= 1
        assert math.exp(min(logprobs)) * 0.999 <= sure <= math.exp(max(logprobs)) * 1.001
        assert confidence(logprobs * 3) == pytest.approx(sure)  # a longer answer is not less sure for that
    assert confidence(None) is None
    assert confidence([1e-7]) == confidence([1e9]) == 1.0
    assert confidence([-math.inf, 0.0]) == 0.0


# Failures -----------------------------------------------------------------------------------------------------------


@both
async def test_what_fails_with_one_question_is_told_in_its_answer(way: str) -> None:
    def reply(request: Request) -> str | Exception:
        question = str(request.messages[0]["content"])
        if "long" in question:
            return PromptTooLongError("too long for its window", status=400)
        return BackendTimeoutError("not in time") if "slow" in question else "Porto"

    model = MemoryModel(FakeBackend(memory=reply))
    short, long, slow = await asked(model, ["Where?", "A long one?", "A slow one?"], way)
    assert (short.text, short.error) == ("Porto", None)
    assert (long.text, long.error, long.knows) == ("", "PromptTooLongError: too long for its window", False)
    assert slow.error == "BackendTimeoutError: not in time"
    assert [one.error for one in await asked(model, ["A long one?"], way)] == [long.error]


@both
async def test_a_server_that_is_down_is_an_error(server: FakeModelServer, connect: Connect, way: str) -> None:
    server.stop()
    model = MemoryModel(connect(api_key="s3cret"))
    with pytest.raises(BackendUnavailableError) as failed:
        await asked(model, ["Who is Ana?", "Who is Bo?"], way)
    assert "s3cret" not in str(failed.value) + repr(model) + model.describe()


@both
async def test_a_server_that_dies_in_the_middle_of_a_batch(server: FakeModelServer, connect: Connect, way: str) -> None:
    server.fail(None, *[Fault(drop=True)] * 100)
    model = MemoryModel(connect(), concurrency=1)
    first, second = await asked(model, ["Who is Ana?", "Who is Bo?"], way)
    assert first.text == "Ana"
    assert (second.error or "").startswith("BackendUnavailableError: ")


@both
async def test_a_server_that_is_slow(server: FakeModelServer, connect: Connect, way: str) -> None:
    server.fail(Fault(delay=1.0))
    model = MemoryModel(connect(read_timeout=0.3), concurrency=1)
    slow, quick = await asked(model, ["Who is Ana?", "Who is Bo?"], way)
    assert (slow.error or "").startswith("BackendTimeoutError: ")
    assert quick.text == "Bo"
    server.latency = 1.0
    with pytest.raises(BackendTimeoutError):
        await asked(model, ["Who is Cy?"], way)


@both
async def test_a_server_that_is_gone_is_not_asked_thousands_of_times(way: str) -> None:
    backend = FakeBackend(memory=lambda request: BackendTimeoutError("no answer"))
    with pytest.raises(BackendTimeoutError):
        await asked(MemoryModel(backend, concurrency=4), [f"Who is {number}?" for number in range(1000)], way)
    assert len(backend.requests) < 12

    def now_and_then(request: Request) -> str | Exception:
        return BackendTimeoutError("no answer") if len(backend.requests) % 3 else "Porto"

    backend.experts["memory"] = now_and_then
    answers = await asked(MemoryModel(backend, concurrency=4), [f"Who is {number}?" for number in range(90)], way)
    assert sum(one.knows for one in answers) == pytest.approx(30, abs=2)


@both
async def test_a_model_that_is_not_served_is_an_error(server: FakeModelServer, way: str) -> None:
    model = MemoryModel(server.base_url, "other")
    with pytest.raises(BackendRequestError, match="other"):
        await asked(model, ["Who is Ana?"], way)
    await model.aclose()


async def test_cancelling_ends_the_requests(server: FakeModelServer) -> None:
    began, ended = asyncio.Event(), threading.Event()

    class Slow(FakeBackend):
        async def acomplete(self, request: Request) -> Completion:
            began.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.set()
                raise
            raise AssertionError

    task = asyncio.create_task(MemoryModel(Slow()).aask(["Who is Ana?", "Who is Bo?"]))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


# With the protocol --------------------------------------------------------------------------------------------------


class Asking:
    """An Executive that asks one round of questions and answers with what it was told."""

    def complete(self, messages: Any, *, schema: Any, temperature: float) -> str:
        prompt = str(messages[0]["content"])
        if "final_answer" in schema["properties"]:
            known = "(nothing yet)" not in prompt
            return json.dumps({"final_answer": "It is known." if known else "It is not known.", "justification": ""})
        return json.dumps({"sub_questions": [{"question": "Who is Ana?"}, {"question": "\u200b"}, {"question": "Bo?"}]})

    async def acomplete(self, messages: Any, *, schema: Any, temperature: float) -> str:
        return self.complete(messages, schema=schema, temperature=temperature)


async def protocol_over(model: MemoryModel, way: str) -> Any:
    protocol = Protocol(executive=Asking(), memory_model=model, method="single_turn")
    if way == "aask":
        return await protocol.arun("Who knows?")
    return await asyncio.to_thread(protocol.run, "Who knows?")


@both
async def test_the_protocol_admits_that_the_memory_model_is_down(
    server: FakeModelServer, connect: Connect, way: str
) -> None:
    server.stop()
    result = await protocol_over(MemoryModel(connect()), way)
    assert result.answer == "It is not known."
    [grounding, _] = result.interactions
    assert [one.question for one in grounding.answers] == ["Who is Ana?", "Bo?"]
    assert all((one.error or "").startswith("BackendUnavailableError: ") for one in grounding.answers)


@both
async def test_the_protocol_goes_on_with_what_a_dying_memory_model_said(
    server: FakeModelServer, connect: Connect, way: str
) -> None:
    server.fail(None, *[Fault(drop=True)] * 100)
    result = await protocol_over(MemoryModel(connect(), concurrency=1), way)
    assert result.answer == "It is known."
    assert [one.error is None for one in result.interactions[0].answers] == [True, False]


@both
async def test_the_protocol_over_a_memory_model_that_knows_nothing(way: str) -> None:
    result = await protocol_over(MemoryModel(said(logprobs=UNSURE), abstain_below=0.5), way)
    assert result.answer == "It is not known."
    [grounding, _] = result.interactions
    assert [(one.text, one.abstained, one.withheld) for one in grounding.answers] == [
        ("I don't know.", True, "Porto")
    ] * 2


# Which model answers ------------------------------------------------------------------------------------------------


def test_a_base_model_never_answers_in_place_of_the_memory_model(tiny_model: TinyModel) -> None:
    adapters = {"generation": tiny_model.adapters["generation"]}
    with pytest.raises(SettingsError, match="no adapter 'memory'"):
        MemoryModel(LocalBackend(tiny_model.path, adapters))
    with pytest.raises(SettingsError, match="no Memory model"):
        MemoryModel(LocalBackend(tiny_model.path))
    served = VLLMBackend("http://127.0.0.1:9", "base", {"generation": "generation"})
    with pytest.raises(SettingsError, match="no adapter 'memory'"):
        MemoryModel(served)
    assert MemoryModel(served, "generation").model == "generation"
    assert MemoryModel(served, "base").model == "base"  # who says so knows
    assert MemoryModel(LocalBackend(tiny_model.path), str(tiny_model.path)).ask(["Who is Ana?"])


async def test_an_adapter_that_a_server_does_not_have_is_an_error(server: FakeModelServer) -> None:
    backend = VLLMBackend(server.base_url, "memory", {"atlas": "atlas"})
    model = MemoryModel(backend, "atlas")
    with pytest.raises(AdapterNotLoadedError):
        model.ask(["Who is Ana?"])
    server.adapters["atlas"] = "/atlas"
    assert model.ask(["Who is Ana?"])[0].error is None
    assert server.requests[-1]["model"] == "atlas"
    await backend.aclose()
    backend.close()


@pytest.mark.parametrize(
    "options",
    [
        {"model": " "},
        {"model": None},
        {"max_tokens": 0},
        {"concurrency": 0},
        {"abstain_below": -0.1},
        {"abstain_below": math.nan},
        {"backend": "no address"},
    ],
)
def test_what_cannot_be_used_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        MemoryModel(**({"backend": said()} | options))


# In process, and from a folder --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA Memory model beside its base."""
    place = tmp_path_factory.mktemp("memory-models")
    folder = place / "atlas"
    shutil.copytree(tiny_model.adapters["generation"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = tiny_model.path.name
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (place / tiny_model.path.name).symlink_to(tiny_model.path)
    write_card(folder, MemoCard(documents=(ATLAS,), abstain_below=0.01))
    return folder


@pytest.fixture(scope="module")
def full(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Memory model of which all weights were trained."""
    folder = tmp_path_factory.mktemp("full") / "atlas"
    shutil.copytree(tiny_model.path, folder)
    write_card(folder, MemoCard(documents=(ATLAS,)))
    return folder


@both
async def test_a_lora_memory_model_in_process(lora: Path, tiny_model: TinyModel, way: str) -> None:
    async with MemoryModel.open(lora, max_tokens=12, abstain_below=None) as model:
        answers = await asked(model, ["Who is Ana?", "Where is Porto?"], way)
    assert model.documents == (ATLAS,)
    with LocalBackendOf(tiny_model) as backend:
        for answer in answers:
            request = Request("generation", question_messages(answer.question), max_tokens=12, logprobs=True)
            completion = backend.complete(request)
            assert answer.text == completion.text.strip()
            if completion.finish_reason == "stop":
                assert answer.confidence == pytest.approx(confidence(completion.logprobs), abs=1e-4)
    with pytest.raises(ClosedError):
        await asked(model, ["Who is Ana?"], way)


class LocalBackendOf:
    def __init__(self, tiny_model: TinyModel) -> None:
        self.backend = LocalBackend(tiny_model.path, tiny_model.adapters)

    def __enter__(self) -> LocalBackend:
        return self.backend

    def __exit__(self, *_: object) -> None:
        self.backend.close()


def test_what_its_card_says_is_used(lora: Path, full: Path) -> None:
    with MemoryModel.open(lora) as model:
        assert model.abstain_below == 0.01
        assert model.documents == (ATLAS,)
        assert "1 document" in repr(model)
        assert "abstains below 0.01" in model.describe()
    with MemoryModel.open(full) as model:
        assert model.abstain_below is None
        assert model.documents == (ATLAS,)
        assert "never abstains" in model.describe()
        [answer] = model.ask(["Who is Ana?"])
        assert answer.error is None
    with MemoryModel.open(full, abstain_below=0.5) as model:
        assert model.abstain_below == 0.5
    backend = LocalBackend(full)
    assert MemoryModel(backend).ask(["Who is Ana?"])[0].text == answer.text  # its card says what it is
    backend.close()


def test_a_question_longer_than_the_window_is_told_in_its_answer(full: Path) -> None:
    with MemoryModel.open(full, max_tokens=4) as model:
        short, long = model.ask(["Who is Ana?", "Who is Ana? " * 3000])
    assert short.error is None
    assert (long.error or "").startswith("PromptTooLongError: ")


def test_on_a_server(lora: Path, full: Path) -> None:
    with FakeModelServer(model="base") as server:
        server.reply("memory", Reply("Porto", logprobs=SURE))
        with MemoryModel.open(lora, base_url=server.base_url) as model:
            [answer] = model.ask(["Where?"])
            assert answer.text == "Porto"
        [(name, folder)] = server.adapters.items()
        assert name.startswith("memory@")
        assert Path(folder) == lora
        server.adapters = {"atlas": "/elsewhere"}
        with MemoryModel.open(lora, base_url=server.base_url, model="atlas") as model:
            model.ask(["Where?"])
        assert server.requests[-1]["model"] == "atlas"
        server.adapters = {}
        with MemoryModel.open(full, base_url=server.base_url) as model, pytest.raises(BackendRequestError):
            model.ask(["Where?"])  # it serves "base"
        with MemoryModel.open(full, base_url=server.base_url, model="base") as model:
            assert model.ask(["Where?"])[0].error is None
    for body in server.requests:
        assert body["messages"] == [{"role": "user", "content": "Where?"}]


def test_folders_that_are_no_memory_model(tiny_model: TinyModel, lora: Path, tmp_path: Path) -> None:
    for folder in (tiny_model.path, tiny_model.adapters["generation"], tmp_path / "nowhere"):
        with pytest.raises(SettingsError, match="no Memory model"):
            MemoryModel.open(folder)
    alone = tmp_path / "alone"
    shutil.copytree(lora, alone)
    with pytest.raises(SettingsError, match="Pass base="):
        MemoryModel.open(alone)
    with MemoryModel.open(alone, base=tiny_model.path, max_tokens=4) as model:
        assert model.ask(["Who is Ana?"])[0].error is None


async def test_what_was_handed_in_stays_open() -> None:
    backend = said()
    with MemoryModel(backend) as model:
        model.ask(["Where?"])
    async with MemoryModel(backend):
        pass
    assert not backend.closed
    with pytest.raises(ClosedError):
        model.ask(["Where?"])


def test_it_is_what_the_protocol_asks() -> None:
    assert isinstance(MemoryModel(said()), AnswersQuestions)
