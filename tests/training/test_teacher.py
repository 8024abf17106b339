"""Teacher data from whole conversations: a real memory and store, a fake teacher on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeModelServer, Fault, Reply
from fake_teacher import extracts, fake_teacher, prompt_of
from scripted import WordEmbedder, says

from memlora_plugins.errors import BackendRequestError, BackendUnavailableError, DatasetError, InvalidInputError
from memlora_plugins.evaluation.conversations import Conversation, Question, WrittenFact
from memlora_plugins.experts import extraction, update
from memlora_plugins.serving.openai_compatible import OpenAIBackend
from memlora_plugins.settings import Settings
from memlora_plugins.training.dataset import Sample, read_samples
from memlora_plugins.training.teacher import DistilReport, distil
from memlora_plugins.types import Message

DAY = datetime(2025, 5, 2, tzinfo=UTC)


@pytest.fixture
def teacher() -> Iterator[FakeModelServer]:
    with fake_teacher() as server:
        yield server


def talk(id: str, *lines: str, questions: tuple[Question, ...] = (), **fields: Any) -> Conversation:
    """Lines as `Name: words`, all of one session."""
    said = [line.partition(": ") for line in lines]
    messages = tuple(
        ("s", Message("user", words, id=f"m{number}", name=name, created_at=DAY + timedelta(seconds=number)))
        for number, (name, _, words) in enumerate(said)
    )
    return Conversation(id, messages, questions, **fields)


ANA = talk(
    "ana",
    "Ana: I live in Porto. I like tea.",
    "Ben: Hello there!",
    "Ana: I live in Lisbon.",
    "Ben: I have a cat.",
    questions=(
        Question("Where does Ana live?", "Lisbon", 4),
        Question("What is her plane called?", None, 5),
        Question("Who is king?", "Ben", 5),
        Question("And?", " ", 1),
    ),
)


def run(
    server: FakeModelServer | None,
    out: Path,
    *talks: Conversation,
    backend: dict[str, Any] | None = None,
    **options: Any,
) -> DistilReport:
    made = server and OpenAIBackend(server.base_url, "base", backoff=0.01, **(backend or {}))
    return distil(talks or (ANA,), made, out, embedder=WordEmbedder(), settings=Settings(), **options)


def samples(out: Path, expert: str) -> list[Sample]:
    return read_samples(out / f"{expert}.jsonl")


def served_prompts(server: FakeModelServer, expert: str) -> list[str]:
    return [prompt_of(body) for body in server.asked(expert)]


def test_a_teacher_makes_samples_of_all_three_experts(teacher: FakeModelServer, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    report = run(
        teacher, tmp_path, price_in=2.0, price_out=10.0, progress=lambda done, total: progress.append((done, total))
    )
    first, hello, moved, cat = samples(tmp_path, "extraction")
    assert first.messages[0].content.endswith(f"user Ana: I live in Porto. I like tea.\n{extraction.SHORT_PROMPT}")
    assert first.reply == '{"facts":["Ana live in Porto","Ana like tea"]}'
    assert hello.reply == '{"facts":[]}'
    assert "assistant Ben: Hello there!\nuser Ana: I live in Lisbon." in moved.messages[0].content
    assert cat.conversation == "ana"

    [merged] = samples(tmp_path, "update")  # the other facts have no neighbour: no model is needed
    assert update.lists(merged.messages[0].content) == (["Ana live in Porto"], ["Ana live in Lisbon"])
    assert [(item["event"], item["text"]) for item in json.loads(merged.reply)["memory"]] == [
        ("UPDATE", "Ana live in Lisbon")
    ]

    [where] = samples(tmp_path, "generation")
    assert where.reply == "Lisbon"
    assert "[Fri 2025-05-02] Ana live in Lisbon" in where.messages[0].content
    assert "Ana live in Porto" not in where.messages[0].content.replace("I live in Porto", "")
    assert where.messages[0].content.endswith("Question, asked on Fri 2025-05-02: Where does Ana live?")

    for expert in ("extraction", "update"):
        prompts = [sample.messages[0].content for sample in samples(tmp_path, expert)]
        assert sorted(prompts) == sorted(served_prompts(teacher, expert))
    assert teacher.asked("generation") == []  # the answers are the dataset's
    assert report.experts["generation"].dropped == {"answer missing": 2, "unanswerable": 1}
    assert (report.calls, report.resumed, report.retries, report.undistilled, report.facts) == (5, 0, 0, 0, 3)
    assert report.input_tokens == sum(len(prompt_of(body).split()) for body in teacher.requests)
    assert report.cost == pytest.approx((report.input_tokens * 2 + report.output_tokens * 10) / 1e6)
    assert report.work["extraction"].calls == 4
    assert DistilReport.model_validate_json((tmp_path / "report.json").read_text()) == report
    assert progress[0] == (0, 8)
    assert progress[-1] == (8, 8)
    assert progress == sorted(progress)


def test_full_prompts_for_the_teacher_short_ones_in_the_samples(teacher: FakeModelServer, tmp_path: Path) -> None:
    run(teacher, tmp_path / "short")
    asked = len(teacher.requests)
    run(teacher, tmp_path / "full", prompt_style="full")
    full = teacher.requests[asked:]
    assert all(extraction.SHORT_PROMPT not in prompt_of(body) for body in full)
    assert all(len(body["messages"]) > 1 for body in full)
    for expert in ("extraction", "update", "generation"):
        assert samples(tmp_path / "full", expert) == samples(tmp_path / "short", expert)


def test_conversations_and_turns_are_asked_about_at_once_within_the_limit(
    teacher: FakeModelServer, tmp_path: Path
) -> None:
    teacher.latency = 0.2
    talks = [talk(f"t{n}", *(f"Ana: I like thing{n}{i}." for i in range(5))) for n in range(3)]
    run(teacher, tmp_path / "one", talks[0], experts=("extraction",))
    assert 2 <= teacher.most_concurrent <= 5  # within one conversation too
    teacher.most_concurrent = 0
    run(teacher, tmp_path / "all", *talks, concurrency=5)
    assert 3 <= teacher.most_concurrent <= 5


def test_one_call_for_the_same_question_asked_twice_at_once(teacher: FakeModelServer, tmp_path: Path) -> None:
    teacher.latency = 0.05
    talks = [talk(id, "Ana: I like tea.") for id in "ab"]
    report = run(teacher, tmp_path, *talks)
    assert len(teacher.requests) == report.calls == 1
    assert report.experts["extraction"].samples == 1
    assert report.experts["extraction"].dropped == {"duplicate": 1}


def test_a_question_repeated_in_a_conversation_is_one_sample(teacher: FakeModelServer, tmp_path: Path) -> None:
    report = run(teacher, tmp_path, talk("a", "Ana: Yes!", "Ana: Yes!", "Ana: I like tea."))
    assert len(samples(tmp_path, "extraction")) == 2
    assert report.experts["extraction"].dropped == {"duplicate": 1}
    assert report.retries == 0


def test_only_what_is_wanted_is_asked(teacher: FakeModelServer, tmp_path: Path) -> None:
    report = run(teacher, tmp_path, experts=("extraction",))
    assert teacher.asked("update") == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "calls.jsonl",
        "extraction.jsonl",
        "report.json",
    ]
    assert list(report.experts) == ["extraction"]
    run(teacher, tmp_path / "generation", experts=("generation",))
    assert len(teacher.asked("update")) == 1  # its memory bank needs them
    assert not (tmp_path / "generation" / "update.jsonl").exists()


def test_unanswerable_questions_where_wanted(teacher: FakeModelServer, tmp_path: Path) -> None:
    report = run(teacher, tmp_path, unanswerable=True)
    assert [one.reply for one in samples(tmp_path, "generation")] == ["Lisbon", "I do not know.", "I do not know."]
    assert report.experts["generation"].dropped == {"answer missing": 1}


def test_messages_without_a_time_make_the_same_prompts_in_every_run(teacher: FakeModelServer, tmp_path: Path) -> None:
    undated = Conversation("u", ((None, Message("user", "I like tea.")), (None, Message("assistant", "Fine."))))
    run(teacher, tmp_path, undated)
    path = tmp_path / "calls.jsonl"
    path.write_text(path.read_text().replace(f"{datetime.now(UTC):%Y-%m}", "2001-01"))  # as if begun long ago
    header, _ = path.read_text().splitlines()
    assert "2001-01" in header
    path.write_text(header + "\n")
    for _ in range(2):
        run(teacher, tmp_path, undated)
    assert [f"{2001}-01" in prompt for prompt in served_prompts(teacher, "extraction")] == [False, True]


# Faults ------------------------------------------------------------------------------------------------------------


def test_garbage_is_counted_and_the_run_goes_on(teacher: FakeModelServer, tmp_path: Path) -> None:
    def moody(body: dict[str, Any]) -> str | Reply:
        if "user Ben: Hello there!" in prompt_of(body):
            return "Ich bin eine Kartoffel."
        if "I have a cat" in prompt_of(body):
            return Reply('{"facts": ["Ben have', finish_reason="length")
        return extracts(body)

    teacher.reply("extraction", moody)
    report = run(teacher, tmp_path)
    assert report.experts["extraction"].dropped == {"unreadable reply": 1, "cut off": 1}
    assert report.experts["extraction"].samples == 2
    assert report.retries == 2
    assert report.undistilled == 2
    assert report.failures == {"extraction: ReplyError": 2}
    asked = len(teacher.requests)
    assert run(teacher, tmp_path).experts == report.experts  # they are answers all the same: nothing is asked again
    assert len(teacher.requests) == asked


def test_a_second_attempt_that_can_be_read_is_the_lesson(teacher: FakeModelServer, tmp_path: Path) -> None:
    teacher.reply("extraction", "hm", says("Ana like tea"))
    report = run(teacher, tmp_path, talk("a", "Ana: I like tea."))
    assert [one.reply for one in samples(tmp_path, "extraction")] == [says("Ana like tea").replace(": ", ":")]
    assert (report.calls, report.retries, report.experts["extraction"].dropped) == (2, 1, {})


def test_a_format_that_changes_in_mid_run(teacher: FakeModelServer, tmp_path: Path) -> None:
    lines = [f"Ana: I like thing{n}." for n in range(5)]
    teacher.reply(
        "extraction",
        says("Ana like thing0"),
        '```json\n{"facts": [{"fact": "Ana like thing1"}]}\n```',
        "<think>{}</think>{'facts': ['Ana like thing2']}",
        "Facts: none that I can see.",
    )
    teacher.fail(None, None, None, Fault(raw='{"object": "something else"}'), Fault(raw="<html>"))
    report = run(teacher, tmp_path, talk("a", *lines), talk("b", "Ana: I see."), concurrency=1, experts=("extraction",))
    data = report.experts["extraction"]
    assert (data.samples, data.dropped) == (3, {"no chat completion": 2, "unreadable reply": 1})
    assert report.unanswered == 2


def test_timeouts_are_counted_and_asked_again_by_the_next_run(teacher: FakeModelServer, tmp_path: Path) -> None:
    lines = [f"Ana: I like thing{n}." for n in range(10)]  # more than one batch
    teacher.fail(None, Fault(delay=2.5))
    report = run(teacher, tmp_path, talk("a", *lines), backend={"read_timeout": 1.5}, experts=("extraction",))
    assert report.experts["extraction"].dropped == {"timed out": 1}
    assert (report.experts["extraction"].samples, report.unanswered, report.undistilled) == (9, 1, 1)
    again = run(teacher, tmp_path, talk("a", *lines), experts=("extraction",))
    assert (again.experts["extraction"].samples, again.resumed, again.calls) == (10, 9, 10)
    assert len(teacher.requests) == 11


def test_a_prompt_that_is_too_long_and_one_that_is_refused(teacher: FakeModelServer, tmp_path: Path) -> None:
    teacher.fail(
        Fault(status=400, message="This model's maximum context length is 4096 tokens."),
        Fault(status=400, message="We do not like it."),
        Fault(status=500, message="It crashed."),
    )
    teacher.health = 0
    report = run(teacher, tmp_path, concurrency=1)
    assert report.experts["extraction"].dropped == {"prompt too long": 1, "refused": 1, "unavailable": 1}
    assert report.unanswered == 1


def test_many_prompts_that_are_too_long_do_not_mean_that_the_teacher_is_down(
    teacher: FakeModelServer, tmp_path: Path
) -> None:
    lines = [f"Ana: I like thing{n}." for n in range(24)]
    teacher.fail(*[Fault(status=400, message="This model's maximum context length is 4096 tokens.")] * 12)
    report = run(teacher, tmp_path, talk("a", *lines), concurrency=1, experts=("extraction",))
    assert report.experts["extraction"].dropped == {"prompt too long": 12}
    assert report.experts["extraction"].samples == 12


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_teacher_that_is_down_stops_the_run_and_the_next_one_goes_on(
    teacher: FakeModelServer, tmp_path: Path, at_once: int
) -> None:
    lines = [f"Ana: I like thing{n}." for n in range(24)]
    teacher.fail(*[None] * 6, *[Fault(status=500, message="gone")] * 30)
    teacher.health = 0
    with pytest.raises(BackendUnavailableError, match="run the same again, and only the missing ones") as caught:
        run(teacher, tmp_path, talk("a", *lines), concurrency=at_once, experts=("extraction",))
    assert "6 finished calls" in str(caught.value)
    assert "gone" in str(caught.value)
    assert len(teacher.requests) < 6 + 8 + at_once
    teacher._faults.clear()
    before = len(teacher.requests)
    report = run(teacher, tmp_path, talk("a", *lines), experts=("extraction",))
    assert (report.calls, report.resumed, len(teacher.requests) - before) == (24, 6, 18)
    assert len(samples(tmp_path, "extraction")) == 24


def test_a_refused_key_stops_the_run_at_once(teacher: FakeModelServer, tmp_path: Path) -> None:
    teacher.fail(*[Fault(status=401, message="no such key")] * 20)
    lines = [f"Ana: I like thing{n}." for n in range(20)]
    with pytest.raises(BackendRequestError, match="Check api_key") as caught:
        run(teacher, tmp_path, talk("a", *lines), concurrency=1)
    assert caught.value.status == 401
    assert len(teacher.requests) == 1


def test_a_full_disk_stops_the_run(teacher: FakeModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DatasetError("no room")

    monkeypatch.setattr("memlora_plugins.training.calls.CallLog.add", full)
    with pytest.raises(DatasetError, match="no room"):
        run(teacher, tmp_path, concurrency=1)
    assert len(teacher.requests) == 1


def test_a_report_or_samples_that_cannot_be_written(teacher: FakeModelServer, tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(DatasetError, match=r"report\.json cannot be written"):
        run(teacher, tmp_path)


def test_recall_that_fails_or_finds_nothing_is_counted(teacher: FakeModelServer, tmp_path: Path) -> None:
    class Stumbling(WordEmbedder):
        def embed(self, texts: Any) -> Any:
            if any("Why" in text for text in texts):
                raise InvalidInputError("no words")
            return super().embed(texts)

    silent = Conversation(
        "silent", ((None, Message("system", "Be kind.", created_at=DAY)),), (Question("What?", "Nothing"),)
    )
    long = talk("long", *(f"Ana: I like {'thing ' * 40}{n}." for n in range(14)), questions=(Question("Why?", "So"),))
    backend = OpenAIBackend(teacher.base_url, "base")
    report = distil((silent, long), backend, tmp_path, embedder=Stumbling(), settings=Settings(token_budget=100))
    assert report.experts["generation"].dropped == {"nothing recalled": 1, "recall failed": 1}
    assert report.failures == {"recall: InvalidInputError": 1}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"experts": ()}, "experts must be some of"),
        ({"experts": ("vision",)}, "experts must be some of"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"thinking_tokens": -1}, "thinking_tokens must be 0 or more"),
        ({"empty_share": 1.5}, "empty_share must be between 0 and 1"),
        ({"price_in": -1.0}, "Prices must be 0 or more"),
        ({"use_observations": True}, "no conversation has an `observation`"),
    ],
)
def test_arguments_that_cannot_be(
    teacher: FakeModelServer, tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        run(teacher, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_conversations_that_cannot_be(teacher: FakeModelServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="ana is given twice"):
        run(teacher, tmp_path, ANA, ANA)
    with pytest.raises(InvalidInputError, match="no conversation to distil"):
        distil((), None, tmp_path, embedder=WordEmbedder())
    with pytest.raises(InvalidInputError, match="Without a teacher"):
        run(None, tmp_path, ANA)


def test_room_for_thinking(teacher: FakeModelServer, tmp_path: Path) -> None:
    run(teacher, tmp_path, thinking_tokens=1000)
    assert {body["max_tokens"] for body in teacher.asked("extraction")} == {extraction.MAX_TOKENS + 1000}


# Facts that are written in the file ------------------------------------------------------------------------------

NOTED = talk(
    "noted",
    "Ana: I bought a boat.",
    "Ben: Lovely! What colour?",
    "Ana: Red.",
    "Ben: Ha.",
    "Ana: Yes.",
    "Ben: " + "Very long. " * 400,
    questions=(Question("What did Ana buy?", "a boat", 4),),
    facts=(
        WrittenFact("Ana owns a boat", ("m0",), "Ana"),
        WrittenFact("Ana's boat is red", ("m2", "m0"), "Ana"),
        WrittenFact("Ana owns a red boat", ("m2",), "Ana"),
        WrittenFact("Ben talks a lot", ("m5",), "Ben"),
        WrittenFact("Nobody said this", ("m99",), "Ben"),
    ),
)


def test_observations_need_no_teacher(tmp_path: Path) -> None:
    report = run(None, tmp_path, NOTED, use_observations=True, empty_share=1, experts=("extraction", "generation"))
    found = samples(tmp_path, "extraction")
    assert [one.reply for one in found] == [
        '{"facts":["Ana owns a boat"]}',
        '{"facts":[]}',
        '{"facts":["Ana\'s boat is red","Ana owns a red boat"]}',  # with the last message it takes
        '{"facts":[]}',
        '{"facts":[]}',
    ]
    assert "assistant Ben: Lovely! What colour?\nuser Ana: Red." in found[2].messages[0].content
    assert report.experts["extraction"].dropped["piece of a long message"] == 2
    assert report.experts["extraction"].dropped["fact without a message"] == 1
    [question] = samples(tmp_path, "generation")
    assert "Ana owns a red boat" in question.messages[0].content
    assert (report.teacher, report.calls, report.facts, report.undistilled) == (None, 0, 4, 0)


def test_empty_lists_do_not_dominate(tmp_path: Path) -> None:
    lines = [f"Ana: chatter {n}" for n in range(10)]
    quiet = talk("quiet", *lines, facts=tuple(WrittenFact(f"fact number {n}", (f"m{n}",)) for n in range(5)))
    experts = ("extraction",)
    report = run(None, tmp_path / "a", quiet, use_observations=True, experts=experts)
    assert report.experts["extraction"].samples == 7
    assert report.experts["extraction"].dropped == {"empty list": 3}
    run(None, tmp_path / "b", quiet, use_observations=True, experts=experts)
    assert (tmp_path / "a" / "extraction.jsonl").read_bytes() == (tmp_path / "b" / "extraction.jsonl").read_bytes()
    run(None, tmp_path / "c", quiet, use_observations=True, experts=experts, seed=9)
    assert samples(tmp_path / "c", "extraction") != samples(tmp_path / "a", "extraction")
    none = run(None, tmp_path / "d", quiet, use_observations=True, experts=experts, empty_share=0)
    assert none.experts["extraction"].samples == 5


def test_observations_with_a_teacher_for_updates(teacher: FakeModelServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="Samples of update need a teacher"):
        run(None, tmp_path, NOTED, use_observations=True)
    report = run(teacher, tmp_path, NOTED, use_observations=True)
    assert teacher.asked("extraction") == []
    assert report.calls == len(teacher.asked("update")) > 0
    assert samples(tmp_path, "update")


# Killed ---------------------------------------------------------------------------------------------------------

MANY = """
import sys
from pathlib import Path
from datetime import UTC, datetime
from scripted import WordEmbedder
from memlora_plugins.evaluation.conversations import Conversation
from memlora_plugins.serving.openai_compatible import OpenAIBackend
from memlora_plugins.training.teacher import distil
from memlora_plugins.types import Message

day = datetime(2025, 5, 2, tzinfo=UTC)
talks = [
    Conversation(f"c{c}", tuple(
        ("s", Message("user", f"I like thing{n % 4} of colour{n}.", id=f"m{n}", name=f"P{c}", created_at=day))
        for n in range(12)
    ))
    for c in range(2)
]
distil(talks, OpenAIBackend(sys.argv[1], "base"), Path(sys.argv[2]), embedder=WordEmbedder(), concurrency=4)
"""


def started(server: FakeModelServer, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    return subprocess.Popen([sys.executable, "-c", MANY, server.base_url, str(out)], env=environment)


def bodies(server: FakeModelServer) -> Counter[str]:
    """The chat requests that arrived whole; a kill may cut one off."""
    return Counter(json.dumps(body, sort_keys=True) for body in server.requests if body)


def test_a_killed_run_repeats_and_loses_no_call(tmp_path: Path) -> None:
    with fake_teacher() as undisturbed:
        assert started(undisturbed, tmp_path / "whole").wait(200) == 0
    expected = bodies(undisturbed)
    assert set(expected.values()) == {1}
    assert len(undisturbed.asked("update")) > 8

    with fake_teacher() as teacher:
        teacher.latency = 0.1
        out = tmp_path / "killed"
        for seen in (len(expected) // 4, len(expected) // 2):
            process = started(teacher, out)
            try:
                deadline = time.monotonic() + 200
                while len(teacher.requests) < seen and time.monotonic() < deadline:
                    time.sleep(0.002)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            time.sleep(0.5)  # what was on the wire arrives
        recorded = len((out / "calls.jsonl").read_bytes().split(b"\n")) - 2
        assert len(expected) // 2 - 2 * 4 <= recorded < len(expected)
        before = len(teacher.requests)
        teacher.latency = 0
        assert started(teacher, out).wait(200) == 0
        asked = len(teacher.requests) - before

    assert asked == len(expected) - recorded  # no finished call is repeated …
    again = bodies(teacher) - expected
    assert sum(again.values()) <= 2 * 4  # … only those that a kill caught on the wire
    assert set(bodies(teacher)) == set(expected)
    report = DistilReport.model_validate_json((out / "report.json").read_text())
    assert (report.calls, report.resumed) == (len(expected), recorded)
    for expert in ("extraction", "update"):
        assert (out / f"{expert}.jsonl").read_bytes() == (tmp_path / "whole" / f"{expert}.jsonl").read_bytes()
