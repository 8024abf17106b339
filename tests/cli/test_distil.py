"""`memlora distil` over a fake teacher on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Memlora
from fake_server import FakeModelServer, Fault
from fake_teacher import fake_teacher

from memlora_plugins.training.dataset import read_samples
from memlora_plugins.training.teacher import DistilReport


@pytest.fixture
def teacher() -> Iterator[FakeModelServer]:
    with fake_teacher() as server:
        yield server


@pytest.fixture
def at(teacher: FakeModelServer) -> list[str]:
    """The options that point at the fake teacher."""
    return ["--base-url", teacher.base_url, "--model", "base", "--out", "samples"]


@pytest.fixture
def chats(tmp_path: Path) -> str:
    rows: list[dict[str, Any]] = []
    for id in ("a", "b", "c"):
        for number, (role, text) in enumerate(
            (("assistant", "Tell me."), ("user", f"I like {id}1. I have {id}2."), ("user", "Bye."))
        ):
            rows.append(
                {"conversation": id, "role": role, "content": text, "created_at": f"2025-05-0{number + 1}", "name": id}
            )
        rows.append({"conversation": id, "question": f"What does {id} like?", "answer": f"{id}1"})
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def locomo(tmp_path: Path) -> str:
    sample = {
        "sample_id": "talk",
        "conversation": {
            "speaker_a": "Ana",
            "speaker_b": "Ben",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ana", "dia_id": "D1:1", "text": "I bought a boat."},
                {"speaker": "Ben", "dia_id": "D1:2", "text": "Lovely!"},
            ],
        },
        "qa": [
            {"question": "What did Ana buy?", "answer": "a boat", "evidence": ["D1:1"], "category": 4},
            {"question": "Whose plane?", "adversarial_answer": "Ana's", "evidence": [], "category": 5},
        ],
        "observation": {"session_1_observation": {"Ana": [["Ana owns a boat.", "D1:1"]]}},
    }
    file = tmp_path / "locomo.json"
    file.write_text(json.dumps([sample]))
    return str(file)


def test_samples_and_what_they_cost(memlora: Memlora, chats: str, at: list[str]) -> None:
    said = memlora("distil", chats, *at, "--price-in", "2", "--price-out", "10")
    assert "6 call(s) (0 from earlier runs, 0 retries)" in said.stdout
    assert "cost 0.00" in said.stdout
    assert "warning: no sample of update" in said.stderr  # nothing was like anything else
    assert [sample.conversation for sample in read_samples("samples/extraction.jsonl")] == list("aabbcc")
    assert [sample.reply for sample in read_samples("samples/generation.jsonl")] == ["a1", "b1", "c1"]
    again = json.loads(memlora("distil", chats, *at, "--json").stdout)
    report = DistilReport.model_validate(again)
    assert (report.calls, report.resumed, report.cost) == (6, 6, None)
    assert json.loads(Path("samples/report.json").read_text()) == again


def test_splits_go_into_folders_and_what_is_held_out_is_not_asked_about(
    memlora: Memlora, chats: str, at: list[str], teacher: FakeModelServer
) -> None:
    words = ("--train", "a", "--validation", "b", "--expert", "extraction")
    said = memlora("distil", chats, *at, *words, "--json")
    assert list(json.loads(said.stdout)) == ["train", "validation"]
    assert "1 conversation(s) are in no split" in said.stderr
    assert {sample.conversation for sample in read_samples("samples/train/extraction.jsonl")} == {"a"}
    assert {sample.conversation for sample in read_samples("samples/validation/extraction.jsonl")} == {"b"}
    before = len(teacher.requests)
    memlora("distil", chats, *at, "--train", "a,b", "--test", "c", "--expert", "extraction")
    assert len(teacher.requests) == before  # one record of calls for every split
    assert {sample.conversation for sample in read_samples("samples/train/extraction.jsonl")} == {"a", "b"}


def test_a_conversation_in_two_splits_is_refused_by_name(
    memlora: Memlora, chats: str, at: list[str], teacher: FakeModelServer
) -> None:
    refused = memlora("distil", chats, *at, "--train", "a,b", "--validation", "b", "--test", "c", code=1).stderr
    assert "b in both train and validation" in refused
    assert teacher.requests == []
    assert not Path("samples").exists()


def test_only_some_conversations(memlora: Memlora, chats: str, at: list[str]) -> None:
    memlora("distil", chats, *at, "--conversation", "c", "--conversation", "a")
    assert {sample.conversation for sample in read_samples("samples/extraction.jsonl")} == {"a", "c"}


def test_an_endpoint_that_knows_no_schemas(
    memlora: Memlora, chats: str, at: list[str], teacher: FakeModelServer
) -> None:
    memlora("distil", chats, *at)
    before = len(teacher.requests)
    memlora("distil", chats, *at, "--structured-output", "none")  # another way of asking is another call
    asked = teacher.requests[before:]
    assert asked
    assert all("response_format" not in body for body in asked)


def test_observations_without_a_teacher(memlora: Memlora, tmp_path: Path) -> None:
    said = memlora("distil", locomo(tmp_path), "--out", "samples", "--use-observations", "--unanswerable")
    assert "0 call(s)" in said.stdout
    assert "without a teacher there are no samples of update" in said.stderr
    [sample] = read_samples("samples/extraction.jsonl")
    assert sample.reply == '{"facts":["Ana owns a boat."]}'
    assert [one.reply for one in read_samples("samples/generation.jsonl")] == ["a boat", "I do not know."]
    assert not Path("samples/update.jsonl").exists()
    needs = memlora(
        "distil", locomo(tmp_path), "-o", "samples", "--use-observations", "--expert", "update", code=1
    ).stderr
    assert "Samples of update need a teacher" in needs


def test_what_is_lost_is_said(memlora: Memlora, chats: str, at: list[str], teacher: FakeModelServer) -> None:
    teacher.fail(Fault(raw="nonsense"))
    said = memlora("distil", chats, *at, "--concurrency", "1")
    assert "no chat completion 1" in said.stdout
    assert "1 message(s) are missing from the teacher's memory (extraction: BackendRequestError 1)" in said.stderr
    assert "1 question(s) got no reply; run the same again" in said.stderr


def test_a_teacher_that_is_not_there(memlora: Memlora, chats: str, teacher: FakeModelServer, at: list[str]) -> None:
    teacher.fail(*[Fault(status=401)] * 10)
    refused = memlora("distil", chats, *at, code=1).stderr
    assert refused.startswith("error: The teacher cannot be asked any more.")
    assert "Check api_key." in refused
    assert "run the same again" in refused


def test_fields_for_every_request(memlora: Memlora, chats: str, at: list[str], teacher: FakeModelServer) -> None:
    fields = {"max_tokens": None, "max_completion_tokens": 99, "key": "sk-secret"}
    memlora("distil", chats, *at, "--extra-body", json.dumps(fields))
    assert {body.get("max_completion_tokens") for body in teacher.requests} == {99}
    assert all("max_tokens" not in body for body in teacher.requests)
    assert not any(b"sk-secret" in path.read_bytes() for path in Path("samples").rglob("*") if path.is_file())
    before = len(teacher.requests)
    memlora("distil", chats, *at)
    assert len(teacher.requests) == 2 * before


def test_vllm_as_the_teacher(memlora: Memlora, chats: str, at: list[str], teacher: FakeModelServer) -> None:
    memlora("distil", chats, *at, "--api", "vllm", "--timeout", "60")
    assert len(teacher.requests) == 6


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("--base-url", "http://127.0.0.1:1"), 1, "model is not"),
        ((), 1, "Without a teacher there is nothing to distil"),
        (("--conversation", "x"), 1, "No conversation x. There are: a, b, c."),
        (("--test", "a"), 2, "--train or --validation"),
        (("--extra-body", "{"), 2, "not JSON"),
        (("--extra-body", "[1]"), 2, "must be a JSON object"),
        (("--concurrency", "0"), 2, "--concurrency"),
        (("--expert", "vision"), 2, "--expert"),
    ],
)
def test_words_that_cannot_be_followed(
    memlora: Memlora, chats: str, words: tuple[str, ...], code: int, complaint: str
) -> None:
    assert complaint in memlora("distil", chats, "--out", "samples", *words, code=code).stderr
