"""A LoCoMo run on invented conversations over a fake model server: what is shared, kept, resumed and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import invented_locomo
import pytest
from fake_server import FakeModelServer, Fault
from scripted import WordEmbedder
from tiny_model import TinyModel

from memlora_plugins import BackendUnavailableError, nano
from memlora_plugins.errors import BackendTimeoutError, DatasetError, EmbeddingError, InvalidInputError, SettingsError
from memlora_plugins.evaluation.harness.candidates import Candidate
from memlora_plugins.evaluation.locomo_qa import recipe as locomo_recipe
from memlora_plugins.evaluation.locomo_qa.answering import RowResult, answer_questions, rows
from memlora_plugins.evaluation.locomo_qa.run import material
from memlora_plugins.experts import generation
from memlora_plugins.serving.vllm import VLLMBackend
from memlora_plugins.store import ranking
from memlora_plugins.training.calls import CallLog

STAGES = ("extraction", "update", "generation")
ROWS = ["base", "+ extraction", "+ update", "+ generation"]


@pytest.fixture
def server() -> Iterator[FakeModelServer]:
    with FakeModelServer(adapters=dict.fromkeys(STAGES, "/somewhere")) as server:
        yield invented_locomo.serve(server)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return invented_locomo.write(tmp_path / "locomo.json")


def student(server: FakeModelServer, name: str = "student", **more: Any) -> Candidate:
    given = {"stages": True, "adapters": {stage: stage for stage in STAGES}} | more
    return Candidate(name=name, base=server.model, base_url=server.base_url, **given)


def run(file: Path, out: Path, *students: Candidate, **options: Any) -> list[RowResult]:
    return answer_questions(material(file).conversations, rows(students), WordEmbedder(), out, **options)


def outcome(results: list[RowResult]) -> list[Any]:
    """All of it, but for what is measured in seconds."""

    def plain(one: Any) -> Any:
        kept = one.model_dump(exclude={"seconds"})
        for usage in kept["usage"].values():
            del usage["seconds"]
        return kept

    return [(one.row.name, [plain(x) for x in one.remembered], [plain(x) for x in one.said]) for one in results]


def test_every_row_answers_every_question_from_its_memory(server: FakeModelServer, file: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    begun: list[str] = []
    results = run(
        file,
        tmp_path / "out",
        student(server),
        progress=lambda done, total: steps.append((done, total)),
        on_row=lambda row: begun.append(row.name),
    )
    assert [one.row.name for one in results] == begun == ROWS
    assert [said.answer for said in results[0].said] == ["red, I think"] * 8
    assert [said.answer for said in results[-1].said] == ["red", "I do not know.", "blue", "I do not know."] * 2
    assert results[-1].said[0].sources == ("D1:1", "D1:2", "D2:1", "D2:2")
    for one in results:
        assert [(talk.conversation, talk.turns, talk.pending) for talk in one.remembered] == [
            ("conv-a", 4, 0),
            ("conv-b", 4, 0),
        ]
        assert one.remembered[0].usage["extraction"].calls == 4
    assert results[3].remembered == results[2].remembered, "they differ only in who answers"
    assert len(list((tmp_path / "out" / "memories").iterdir())) == 3
    assert steps[-1] == (3 * 8 + 4 * 8, 3 * 8 + 4 * 8)
    asked = [str(body["messages"]) for body in server.asked("generation")]
    assert all("asked on Tue 2023-05-09" in prompt for prompt in asked), "the day the conversation ended"


def test_equal_calls_to_one_expert_are_made_once(server: FakeModelServer, file: Path, tmp_path: Path) -> None:
    run(file, tmp_path / "out", student(server))
    assert set(bodies(server).values()) == {1}
    by_model = Counter(body["model"] for body in server.asked("extraction"))
    assert by_model == {"base": 8, "extraction": 8}, "the extraction of `+ update` is that of `+ extraction`"


def test_a_finished_run_asks_nothing_and_needs_no_server(server: FakeModelServer, file: Path, tmp_path: Path) -> None:
    first = run(file, tmp_path / "out", student(server))
    asked = len(server.requests)
    server.stop()
    steps: list[tuple[int, int]] = []
    begun: list[str] = []
    again = run(
        file,
        tmp_path / "out",
        student(server),
        progress=lambda done, total: steps.append((done, total)),
        on_row=lambda row: begun.append(row.name),
    )
    assert (again, begun) == (first, [])
    assert steps == [(56, 56)]
    assert len(server.requests) == asked


def test_students_conversations_and_questions_may_be_added(server: FakeModelServer, file: Path, tmp_path: Path) -> None:
    first = run(file, tmp_path / "out", student(server))
    asked = len(server.requests)
    talks = json.loads(file.read_text())
    talks[0]["qa"].append({"question": "Which colour is the tent of Ben?", "answer": "brown", "category": 4})
    invented_locomo.write(file, [*talks, invented_locomo.talk("conv-c", "Ida", "Tom")])
    server.adapters["other"] = "/o"
    other = student(server, "other", adapters={}, shared="other")
    results = run(file, tmp_path / "out", student(server), other)
    assert [one.row.name for one in results] == [*ROWS, "base", "one shared adapter"]
    assert [len(one.said) for one in results] == [13] * 6
    assert results[0].said[:4] == first[0].said[:4]
    later = [body for body in server.requests[asked:] if "Mia" in str(body["messages"][-1]["content"])]
    assert {body["model"] for body in later} == {"base", "other"}, "only the other student is asked about her again"
    assert max(bodies(server).values()) == 2


AT = ("extraction", "extraction and update", "every stage")
TAUGHT = ["base", *(f"large at {at}" for at in AT), *ROWS[1:], "base"]


def test_a_teacher_stands_in_at_single_stages(server: FakeModelServer, file: Path, tmp_path: Path) -> None:
    """The upper half of the paper's Table 4; a teacher behind another API, and who is asked for what."""
    with FakeModelServer(model="large") as other:
        invented_locomo.serve(other)
        other.reply("generation", "violet")
        teacher = Candidate(name="large", base=other.model, base_url=other.base_url, api="openai")
        results = run(file, tmp_path / "out", student(server, teacher="large"), teacher)
        assert [one.row.name for one in results] == TAUGHT
        base, extracted, updated, everywhere, *_, by_itself = results
        assert extracted.row.who == {
            "extraction": "large: large (openai)",
            "update": "student: base",
            "generation": "student: base",
        }
        assert updated.remembered == by_itself.remembered, "who generates makes no other memory"
        assert everywhere.row.key == by_itself.row.key
        assert (everywhere.remembered, everywhere.said) == (by_itself.remembered, by_itself.said)
        assert len(list((tmp_path / "out" / "memories").iterdir())) == 5
        assert [one.said[0].answer for one in (base, extracted, updated, by_itself)] == ["red, I think"] * 3 + [
            "violet"
        ]
        assert {body["model"] for body in other.requests} == {"large"}
        assert set((bodies(other) + bodies(server)).values()) == {1}
        assert len(other.asked("extraction")) == 8
        assert len(other.asked("generation")) == 8
        assert {one.models for result in results for one in result.made_on} == {"on a server"}
        asked = len(other.requests) + len(server.requests)
        assert run(file, tmp_path / "out", student(server, teacher="large"), teacher) == results
        assert len(other.requests) + len(server.requests) == asked


def test_a_teacher_in_process_is_told_by_its_weights(
    server: FakeModelServer, file: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    invented_locomo.write(file, [invented_locomo.talk("conv-a", "Ana", "Ben", sessions=1)])
    teacher = Candidate(name="tiny", base=str(tiny_model.path))
    results = run(file, tmp_path / "out", student(server, adapters={}, teacher="tiny"), teacher)
    weights = teacher.who({})["update"]
    assert [[one.row.who[stage] == weights for stage in STAGES] for one in results] == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, True],
        [True, True, True],
    ]
    assert results[1].made_on[0].models.startswith("on a server and on the ")
    assert results[2].remembered == results[3].remembered == results[4].remembered
    assert results[3].row.computed == teacher.computed, "nobody else computes there"


def test_a_teacher_that_cannot_be_opened_leaves_nothing_open(
    server: FakeModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(VLLMBackend, "close", lambda self: closed.append(self.model))
    teacher = Candidate(name="large", base=str(tmp_path / "nothing"))
    row = rows([student(server, teacher="large"), teacher])[1]
    with pytest.raises(SettingsError):
        row.backend()
    assert closed == ["base"]


def test_other_material_is_refused(server: FakeModelServer, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(file, out, student(server, stages=False))
    with pytest.raises(InvalidInputError, match=r"another student student \(experts\)"):
        run(file, out, student(server, stages=False, adapters={"update": "update"}))
    other = WordEmbedder()
    other.name = "other-words"
    with pytest.raises(InvalidInputError, match="another embedder"):
        answer_questions(material(file).conversations, rows([student(server)]), other, out)
    talks = [invented_locomo.talk("conv-a", "Ana", "Bert")]
    with pytest.raises(InvalidInputError, match="another conversation conv-a"):
        run(invented_locomo.write(file, talks), out, student(server, stages=False))


def test_a_question_that_failed_is_told_and_asked_again(server: FakeModelServer, file: Path, tmp_path: Path) -> None:
    invented_locomo.write(file, [invented_locomo.talk("conv-a", "Ana", "Ben")])
    alone = student(server, stages=False, adapters={})
    server.fail(*[None] * 2, Fault(status=400, message="too much"))  # the first update
    [one] = run(file, tmp_path / "out", alone, concurrency=1)
    [failure] = one.remembered[0].failures
    assert (failure.stage, failure.error, failure.count) == ("update", "BackendRequestError", 1)
    assert one.remembered[0].pending == 1
    assert all(said.failure is None for said in one.said)
    server.requests.clear()
    [again] = run(file, tmp_path / "out", alone, concurrency=1)
    assert (again.remembered[0].pending, again.remembered[0].failures) == (0, ())
    assert len(server.asked("generation")) == 4, "from another memory"
    asked = len(server.requests)
    run(file, tmp_path / "out", alone, concurrency=1)
    assert len(server.requests) == asked

    server.requests.clear()
    run(file, tmp_path / "undisturbed", alone)
    remembering = len(server.requests) - len(server.asked("generation"))
    server.fail(*[None] * remembering, Fault(status=400, message="too much"))  # the first question
    [one] = run(file, tmp_path / "other", alone, concurrency=1)
    assert [(said.answer, said.failure and said.failure.error) for said in one.said][:2] == [
        (None, "BackendRequestError"),
        ("red, I think", None),
    ]
    asked = len(server.requests)
    [again] = run(file, tmp_path / "other", alone, concurrency=1)
    assert len(server.requests) == asked + 1
    assert [said.answer for said in again.said] == ["red, I think"] * 4


class DeadEmbedder(WordEmbedder):
    """Fails from the text on that has `word` in it."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word

    def embed(self, texts: Sequence[str]) -> Any:
        if any(self._word in text for text in texts):
            raise EmbeddingError("No embedding server answers")
        return super().embed(texts)


@pytest.mark.parametrize("word", ["", "tent", "Which colour"])
def test_an_embedder_that_is_down_ends_the_run_and_leaves_no_spoiled_memory(
    server: FakeModelServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("MEMLORA_TOKEN_BUDGET", "40")  # so that memories are searched
    talks, measured = material(file).conversations, rows([student(server)])
    with pytest.raises(EmbeddingError, match="No embedding server"):
        answer_questions(talks, measured, DeadEmbedder(word), tmp_path / "out")
    again = answer_questions(talks, measured, WordEmbedder(), tmp_path / "out")
    assert outcome(again) == outcome(answer_questions(talks, measured, WordEmbedder(), tmp_path / "whole"))
    assert all(talk.pending == 0 and talk.facts for one in again for talk in one.remembered)


def test_a_memory_that_a_timeout_spoiled_is_made_again(
    server: FakeModelServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(file, tmp_path / "whole", student(server))
    calls, complete = [0], VLLMBackend.acomplete

    async def slow(self: VLLMBackend, request: Any) -> Any:
        calls[0] += request.expert == "extraction"
        if request.expert == "extraction" and calls[0] == 3:
            raise BackendTimeoutError("too slow")
        return await complete(self, request)

    monkeypatch.setattr(VLLMBackend, "acomplete", slow)
    spoiled = run(file, tmp_path / "out", student(server))
    assert sum(talk.pending for talk in spoiled[0].remembered) > 0
    assert [failure.error for talk in spoiled[0].remembered for failure in talk.failures] == ["BackendTimeoutError"]
    assert all(talk.pending == 0 for talk in spoiled[-1].remembered)
    assert outcome(run(file, tmp_path / "out", student(server))) == outcome(whole)


def test_a_run_is_not_gone_on_with_under_other_code(
    server: FakeModelServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, one = tmp_path / "out", student(server, stages=False, adapters={})
    [result] = run(file, out, one)
    assert [(made.models, made.concurrency) for made in result.made_on] == [("on a server", 8)]
    with monkeypatch.context() as other:
        other.setattr(generation, "FULL_PROMPT", "Say it.")
        with pytest.raises(InvalidInputError, match="another prompt of generation"):
            run(file, out, one)
    with monkeypatch.context() as other:
        other.setattr(ranking, "SATURATION", 2.0)
        with pytest.raises(InvalidInputError, match="another ranking, what is fixed"):
            run(file, out, one)
    with monkeypatch.context() as other:
        other.setenv("MEMLORA_RANKING", '{"named": 0.5}')
        assert rows([one])[0].key != result.row.key
        with pytest.raises(InvalidInputError, match=r"another ranking of student \(base\)"):
            run(file, out, one)
    with monkeypatch.context() as other:
        other.setattr(locomo_recipe, "versions", lambda *names: "memlora-plugins 77.0")
        with pytest.raises(InvalidInputError, match=r"another version of memlora-plugins \(.* there, 77.0 now\)"):
            run(file, out, one)
    with monkeypatch.context() as other:
        other.setenv("MEMLORA_TOKEN_BUDGET", "100")
        with pytest.raises(InvalidInputError, match=r"another token_budget of student \(base\) \(\d+ there, 100 now\)"):
            run(file, out, one)
    assert run(file, out, one) == [result]


def test_a_folder_that_cannot_be_made(server: FakeModelServer, file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(DatasetError, match="taken cannot be written"):
        run(file, tmp_path / "taken", student(server))


def test_a_model_that_goes_away_is_an_error_and_the_run_goes_on_later(
    server: FakeModelServer, file: Path, tmp_path: Path
) -> None:
    whole = run(file, tmp_path / "whole", student(server))
    expected = bodies(server)
    server.requests.clear()
    server.fail(*[None] * 9, *[Fault(status=503)] * 40)
    with pytest.raises(BackendUnavailableError):
        run(file, tmp_path / "out", student(server), concurrency=1)
    refused = 40 - len(server._faults)
    server._faults.clear()
    assert outcome(run(file, tmp_path / "out", student(server), concurrency=1)) == outcome(whole)
    assert set(expected) <= set(bodies(server))
    assert sum(count - 1 for count in bodies(server).values()) <= refused, "what was answered is not asked again"


def test_a_memory_that_is_lost_is_made_again_from_the_record(
    server: FakeModelServer, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = run(file, out, student(server))
    shutil.rmtree(out / "memories")
    (out / "answering.jsonl").unlink()
    asked = len(server.requests)
    assert outcome(run(file, out, student(server))) == outcome(first)
    assert len(server.requests) == asked


def test_what_cannot_be_run(server: FakeModelServer, file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    one, talks = student(server), material(file).conversations
    with pytest.raises(InvalidInputError, match="name of its own"):
        rows([one, one])
    with pytest.raises(InvalidInputError, match="at least one student"):
        rows([])
    with pytest.raises(InvalidInputError, match="'large', the teacher of 'student', is no other student"):
        rows([student(server, teacher="large")])
    with pytest.raises(InvalidInputError, match="given twice"):
        answer_questions([talks[0], talks[0]], rows([one]), WordEmbedder(), tmp_path / "out")
    with pytest.raises(InvalidInputError, match="concurrency"):
        run(file, tmp_path / "out", one, concurrency=0)
    silent = invented_locomo.talk("conv-a", "Ana", "Ben") | {"qa": []}
    with pytest.raises(InvalidInputError, match="no question"):
        run(invented_locomo.write(tmp_path / "silent.json", [silent]), tmp_path / "out", one)

    def full(*_: object) -> None:
        raise DatasetError("calls.jsonl cannot be written: no space left")

    monkeypatch.setattr(CallLog, "add", full)
    with pytest.raises(DatasetError, match="no space left"):
        run(file, tmp_path / "full", one)


def test_a_damaged_file_is_named(server: FakeModelServer, file: Path, tmp_path: Path) -> None:
    run(file, tmp_path / "out", student(server, stages=False, adapters={}))
    with (tmp_path / "out" / "answering.jsonl").open("a") as lines:
        lines.write('{"key": "x"}\n')
    with pytest.raises(DatasetError, match=r"answering\.jsonl, line 9 is damaged"):
        run(file, tmp_path / "out", student(server, stages=False, adapters={}))


@pytest.mark.skipif(not nano.shipped(), reason="needs nano's weights")
def test_nano_is_used_as_a_memory_uses_it(file: Path, tmp_path: Path) -> None:
    """Base, then its experts, in process; what is noted is what was said, and the answer a word of it."""
    invented_locomo.write(file, [invented_locomo.talk("conv-a", "Ana", "Ben", sessions=1)])
    base, experts = run(file, tmp_path / "out", Candidate(name="nano", base="nano"))
    assert not base.row.settings.quoted_facts
    assert {name: getattr(experts.row.settings, name) for name in nano.SETTINGS} == nano.SETTINGS
    assert (
        experts.remembered[0].usage["extraction"].per_call()[0] < base.remembered[0].usage["extraction"].per_call()[0]
    )
    assert all(said.answer for said in experts.said)


# kill -9 -------------------------------------------------------------------------------------------------------------

TALKS = [invented_locomo.talk(f"conv-{one}", one, other, sessions=4) for one, other in (("Ana", "Ben"), ("Mia", "Leo"))]

PROGRAM = """
import sys
from pathlib import Path
from scripted import WordEmbedder
from memlora_plugins.evaluation.harness.candidates import Candidate
from memlora_plugins.evaluation.locomo_qa.answering import answer_questions, rows
from memlora_plugins.evaluation.locomo_qa.run import material

address, file, out = sys.argv[1:]
adapters = {stage: stage for stage in ("extraction", "update", "generation")}
student = Candidate(name="student", base="base", base_url=address, adapters=adapters, stages=True)
answer_questions(material(file).conversations, rows([student]), WordEmbedder(), Path(out), concurrency=3)
"""


def started(server: FakeModelServer, file: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(invented_locomo.__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, server.base_url, str(file), str(out)], env=environment)


def bodies(server: FakeModelServer) -> Counter[str]:
    return Counter(json.dumps(body, sort_keys=True) for body in server.requests if body)


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_a_killed_run_repeats_no_call_and_ends_the_same(server: FakeModelServer, file: Path, tmp_path: Path) -> None:
    """Killed while it remembers, while it remembers with the first expert, and while it answers."""
    invented_locomo.write(file, TALKS)
    whole = run(file, tmp_path / "whole", student(server))
    expected = bodies(server)
    assert set(expected.values()) == {1}

    server.requests.clear()
    server.latency = 0.05
    out = tmp_path / "killed"
    moments = {"calls.jsonl": 8, "memories.jsonl": 1, "answering.jsonl": 20}
    for name, enough in moments.items():
        process = started(server, file, out)
        deadline = time.monotonic() + 120
        try:
            while lines(out / name) < enough and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.002)
            assert process.poll() is None, "it was to be killed in the middle"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        time.sleep(0.2)  # what was on the wire arrives
    recorded = lines(out / "calls.jsonl") - 1
    before = len(server.requests)
    server.latency = 0.0
    assert before - 3 * 3 <= recorded < len(expected)

    assert outcome(run(file, out, student(server))) == outcome(whole), "nothing is lost, doubled or another answer"
    assert len(server.requests) - before == len(expected) - recorded, "no finished call is made again"
    assert sum((bodies(server) - expected).values()) <= 3 * 3, "only those that a kill caught on the wire"
    assert set(bodies(server)) == set(expected)
