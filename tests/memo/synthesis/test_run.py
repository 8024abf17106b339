"""Whole syntheses against a fake Generator on loopback: what comes out, what fails, and what a killed run has left."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_generator import FakeGenerator, a_corpus, data_of, direct, judges, makes, pairs_of, verify, wide_corpus
from fake_server import Fault, Reply
from pydantic import ValidationError

from memlora_plugins.errors import BackendRequestError, BackendUnavailableError, DatasetError, InvalidInputError
from memlora_plugins.memo.card import read_trained_documents
from memlora_plugins.memo.corpus import Chunk, Corpus, Document, Skipped
from memlora_plugins.memo.reflections import STEPS, Reflection, Step, read_reflections, without_steps
from memlora_plugins.memo.synthesis import SynthesisEvent, SynthesisOptions, synthesize
from memlora_plugins.memo.synthesis.crossing import plan
from memlora_plugins.memo.synthesis.derivation import Discarded
from memlora_plugins.memo.synthesis.report import RunReport, SynthesisReport
from memlora_plugins.serving.openai_compatible import OpenAIBackend

ADA = "Ada lives in Porto. Ada plays chess. She works at Sonae. It rains in Porto."
BEN = "Ben lives in Braga. Ben plays chess."


@pytest.fixture
def generator() -> Iterator[FakeGenerator]:
    with FakeGenerator() as server:
        yield server


def run(
    server: FakeGenerator, out: Path, *texts: str, corpus: Corpus | None = None, on_event: Any = None, **options: Any
) -> SynthesisReport:
    if corpus is None:
        corpus = a_corpus(*(texts or (ADA, BEN)), groups={"all": range(len(texts or (ADA, BEN)))})
    backend = OpenAIBackend(server.base_url, "base", backoff=0.01)
    return synthesize(corpus, backend, out, SynthesisOptions(**options), on_event=on_event)


def work(report: SynthesisReport) -> RunReport:
    assert report.run is not None
    return report.run


def found(out: Path) -> dict[str, Reflection]:
    """Reflections by question."""
    return {one.question: one for one in read_reflections(out / "reflections.jsonl")}


def discarded(out: Path) -> list[Discarded]:
    return [Discarded.model_validate_json(line) for line in (out / "discarded.jsonl").read_text().splitlines()]


def why(out: Path) -> dict[str, str]:
    """Reasons by question."""
    return {one.pair.question: one.reason for one in discarded(out)}


# What comes out ------------------------------------------------------------------------------------------------------


def test_five_steps_make_reflections_with_their_lineage(generator: FakeGenerator, tmp_path: Path) -> None:
    report = run(generator, tmp_path)
    pairs = found(tmp_path)
    home = pairs["Ada lives in what?"]
    assert (home.answer, home.step, home.steps, home.documents, home.group, home.parents) == (
        *("Porto", "1a", ("1a",), ("d0",), None, ()),
    )
    count = pairs["How many things are told of Ben?"]
    assert (count.answer, count.step, count.steps) == ("2", "1b", ("1b",))
    about = pairs["What is Ada about?"]
    assert (about.answer, about.step, about.steps) == ("Porto, chess", "2", ("1a", "2"))
    assert about.parents == (home.id, pairs["Ada plays what?"].id)
    work = pairs["Ada works at what?"]
    assert (work.answer, work.step, work.steps, work.documents) == ("Sonae", "3", ("1a", "3"), ("d0",))
    assert len(work.parents) == 1  # the pair that it was
    who = pairs["Who works at Sonae?"]
    assert (who.answer, who.step, who.steps, who.parents) == ("Ada", "4", ("1a", "3", "4"), (work.id,))
    shared = pairs["What do Ada and Ben share?"]
    assert (shared.answer, shared.step, shared.steps) == ("plays chess?", "5", ("1a", "4", "5"))
    assert (shared.documents, shared.group) == (("d0", "d1"), "all")
    assert "It rains in what?" not in pairs
    assert why(tmp_path)["It rains in what?"] == "not self-contained"
    everything = read_reflections(tmp_path / "reflections.jsonl")
    assert len({one.id for one in everything}) == report.pairs.total == 15
    assert not without_steps(everything, ["1a", "1b"])


def test_requests_hold_the_data_alone(generator: FakeGenerator, tmp_path: Path) -> None:
    run(generator, tmp_path, max_tokens=777, thinking_tokens=100, temperature=0.5)
    assert sorted(generator.asked_of("memo_direct")) == sorted(generator.asked_of("memo_indirect")) == [ADA, BEN]
    lines = [line for data in generator.asked_of("memo_consolidate") for line in data.split("\n")]
    assert {line[:6] for line in lines} == {'{"n": '}
    assert all(data.startswith((f"{ADA}\n---\n", f"{BEN}\n---\n")) for data in generator.asked_of("memo_verify"))
    [crossed] = generator.asked_of("memo_cross")
    one, other = crossed.split("\n---\n")
    assert [pair["n"] for pair in pairs_of(crossed)] == list(range(len(pairs_of(one)) + len(pairs_of(other))))
    for body in generator.requests:
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        for told in ("d0", "d1", "Title", "#1"):  # of which document it is, stands nowhere
            assert told not in json.dumps(body["messages"])
        assert body["max_tokens"] == 877
        assert body["temperature"] == (0.0 if generator_step(body) == "memo_verify" else 0.5)
        assert body["response_format"]["json_schema"]["strict"] is True


def generator_step(body: dict[str, Any]) -> str:
    return str(body["response_format"]["json_schema"]["name"])


def test_the_report_counts_what_came_of_it(generator: FakeGenerator, tmp_path: Path) -> None:
    events: list[SynthesisEvent] = []
    report = run(generator, tmp_path, price_in=2.0, price_out=10.0, on_event=events.append)
    made = {step: one.made for step, one in work(report).steps.items()}
    assert made == {"1a": 6, "1b": 2, "2": 2, "3": 1, "4": 5, "5": 1}
    assert report.pairs.kept == {"1a": 4, "1b": 2, "2": 2, "3": 1, "4": 5, "5": 1}
    assert work(report).discarded == {"not self-contained": 1}
    assert work(report).made == 16
    assert (report.pairs.total, report.pairs.ambiguous) == (15, 1)  # Ada and Ben both play chess
    assert report.retention == pytest.approx(15 / 16)
    assert (work(report).calls, work(report).resumed, work(report).retries) == (len(generator.requests), 0, 0)
    assert work(report).steps["1a"].calls == 2
    assert work(report).cost == pytest.approx((work(report).input_tokens * 2 + work(report).output_tokens * 10) / 1e6)
    assert work(report).kinds == {"parallel": 1}
    assert SynthesisReport.model_validate_json((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "synthesis.png").read_bytes().startswith(b"\x89PNG")
    documents = read_trained_documents(tmp_path / "documents.jsonl")
    assert [(one.id, one.title) for one in documents] == [("d0", "Title 0"), ("d1", "Title 1")]
    assert [event.done for event in events] == list(range(1, 12))  # 4 steps of 2 chunks, 2 documents, 1 comparison
    assert {event.total for event in events} == {11}
    assert sum(event.pairs for event in events if event.step == "1a") == 6


@pytest.mark.parametrize("left_out", STEPS)
def test_any_step_can_be_left_out(generator: FakeGenerator, tmp_path: Path, left_out: Step) -> None:
    report = run(generator, tmp_path, steps=tuple(step for step in STEPS if step != left_out))
    pairs = found(tmp_path).values()
    assert pairs
    assert all(left_out not in one.steps for one in pairs)
    assert left_out not in work(report).steps
    assert not generator.asked_of({"1a": "memo_direct", "3": "memo_verify", "5": "memo_cross"}.get(left_out, "none"))
    if left_out == "3":
        assert "She works at what?" in found(tmp_path)  # nobody judged it


def test_without_facts_there_is_nothing(generator: FakeGenerator, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="without the steps 1a and 1b"):
        run(generator, tmp_path, steps=("2", "3"))
    assert SynthesisOptions(steps=("5", "1b", "5")).steps == ("1b", "5")
    with pytest.raises(InvalidInputError, match="corpus is empty"):
        run(generator, tmp_path, corpus=Corpus((), (), {}))
    with pytest.raises(InvalidInputError, match="'g' names the chunk 'x#1'"):
        run(generator, tmp_path, corpus=Corpus(*two_chunks(), {"g": ("x#1",)}))
    assert not list(tmp_path.iterdir())


def two_chunks() -> tuple[tuple[Document, ...], tuple[Chunk, ...]]:
    """A document of two chunks."""
    return (Document("book", f"{ADA} {BEN}"),), (Chunk("book#1", "book", ADA), Chunk("book#2", "book", BEN))


def test_chunks_of_one_document_are_compared_too(generator: FakeGenerator, tmp_path: Path) -> None:
    report = run(generator, tmp_path, corpus=Corpus(*two_chunks(), {"book": ("book#1", "book#2")}))
    [entities] = generator.asked_of("memo_entities")  # the pairs of both chunks together
    assert "Ada lives" in entities
    assert "Ben lives" in entities
    [crossed] = generator.asked_of("memo_cross")
    one, other = crossed.split("\n---\n")
    assert "Who works at Sonae?" in one  # entity pairs stand beside the chunk that they were made from
    assert "Who works at Sonae?" not in other
    assert "Who lives in Braga?" in other
    assert found(tmp_path)["What do Ada and Ben share?"].documents == ("book",)
    assert work(report).groups[0].compared == 1


def test_a_chunk_alone_and_a_corpus_without_groups(generator: FakeGenerator, tmp_path: Path) -> None:
    report = run(generator, tmp_path, corpus=a_corpus("Ben lives in Braga."))
    assert set(found(tmp_path)) == {"Ben lives in what?", "How many things are told of Ben?", "Who lives in Braga?"}
    assert generator.asked("memo_cross") == []
    assert (work(report).groups, work(report).skipped) == ((), ())


def test_what_the_corpus_skipped_is_told(generator: FakeGenerator, tmp_path: Path) -> None:
    whole = a_corpus(BEN)
    corpus = Corpus(whole.documents, whole.chunks, whole.groups, (Skipped("x.bin", "binary"),))
    report = run(generator, tmp_path, corpus=corpus)
    assert work(report).skipped == ("x.bin: binary",)


# Duplicates, sources, batches ----------------------------------------------------------------------------------------


def test_half_characters_in_names_end_no_run(generator: FakeGenerator, tmp_path: Path) -> None:
    """Names of files that are not UTF-8, say: all files of the run hold them, once everything is paid for."""
    document = Document("caf\udce9.txt", ADA, title="Caf\udce9", group=("d\udce9", "e"))
    skips = (Skipped("pict\udce9.jpg", "of an unknown kind"),)
    corpus = Corpus((document,), (Chunk(f"{document.id}#1", document.id, ADA),), {}, skips)
    report = run(generator, tmp_path, corpus=corpus)
    assert work(report).skipped == ("pict\ufffd.jpg: of an unknown kind",)
    [told] = read_trained_documents(tmp_path / "documents.jsonl")
    assert (told.id, told.title) == ("caf\ufffd.txt", "Caf\ufffd")
    assert found(tmp_path)["Ada lives in what?"].documents == (told.id,)


def test_documents_without_a_pair_are_told(generator: FakeGenerator, tmp_path: Path) -> None:
    """No step failed, and yet nothing would be known of them. What another document tells as well is known."""
    report = run(generator, tmp_path, ADA, "Nothing to ask for.", ADA)
    assert work(report).without_pairs == ("d1",)
    assert "> Of 1 of 3 document(s) no pair is left, the first: d1." in (tmp_path / "summary.md").read_text()


def test_of_equal_pairs_the_one_of_the_earliest_step_stays(generator: FakeGenerator, tmp_path: Path) -> None:
    told = (("BEN  lives in what?", "braga."), ("Same?", "yes"), ("Same?", "no"))
    generator.reply("memo_indirect", makes(*told))
    report = run(generator, tmp_path)
    pairs = read_reflections(tmp_path / "reflections.jsonl")
    assert [one.answer for one in pairs if one.question == "Same?"] == ["yes", "no"]  # another answer, another pair
    [kept] = [one for one in pairs if one.answer.casefold().rstrip(".") == "braga" and "Ben" in one.question]
    assert (kept.step, kept.steps, kept.documents) == ("1a", ("1a",), ("d1",))  # though d0 told it first, in 1b
    by_question = {one.pair.id: one for one in discarded(tmp_path) if one.reason == "duplicate"}
    assert kept.id in {one.instead for one in by_question.values()}
    assert {one.pair.steps for one in by_question.values() if one.instead == kept.id} == {("1b",)}
    assert work(report).discarded["duplicate"] == len(by_question)


def test_numbers_that_were_not_shown_mean_all_that_was_shown(generator: FakeGenerator, tmp_path: Path) -> None:
    generator.reply("memo_consolidate", makes(("All of it?", "yes", [99]), ("Nothing?", "told")))
    run(generator, tmp_path, BEN)
    pairs = found(tmp_path)
    raw = {pairs[one].id for one in ("Ben lives in what?", "Ben plays what?", "How many things are told of Ben?")}
    assert set(pairs["All of it?"].parents) == set(pairs["Nothing?"].parents) == raw
    assert pairs["All of it?"].steps == ("1a", "1b", "2")


def test_a_comparison_has_to_take_both_sides(generator: FakeGenerator, tmp_path: Path) -> None:
    generator.reply("memo_cross", makes(("One side?", "yes", [0, 1]), ("Both?", "yes", [0, 10]), ("Any?", "yes")))
    run(generator, tmp_path)
    assert {"Both?", "Any?"} <= set(found(tmp_path))
    assert why(tmp_path)["One side?"] == "from one side only"
    assert found(tmp_path)["Any?"].documents == ("d0", "d1")


def test_pairs_that_can_teach_nothing_are_left_out(generator: FakeGenerator, tmp_path: Path) -> None:
    told = json.loads(makes(("Who is named in the text?", "Ben"), ("Where is Ben?", "Braga")))
    told["pairs"].append({"question": "Empty?", "answer": ""})
    generator.reply("memo_direct", json.dumps(told))
    generator.reply("memo_entities", makes(("Is it Ben who plays?", "Ben", [0]), ("Who plays?", "Ben", [0])))
    report = run(generator, tmp_path, BEN)
    assert why(tmp_path) == {
        "Who is named in the text?": "points to its source",
        "Is it Ben who plays?": "names its answer",
    }
    assert "Who plays?" in found(tmp_path)
    assert work(report).discarded == {"points to its source": 1, "names its answer": 1, "blank": 1}


def test_pairs_are_verified_and_shown_in_batches(generator: FakeGenerator, tmp_path: Path) -> None:
    text = " ".join(f"Ada{n} lives in Town{n}." for n in range(7))
    report = run(generator, tmp_path, text, BEN, verify_batch=4, pairs_per_request=6)
    batches = [pairs_of(data) for data in generator.asked_of("memo_verify") if data.startswith("Ada")]
    assert sorted(map(len, batches)) == [2, 4, 4, 4]  # 7 direct and 7 indirect
    assert all([pair["n"] for pair in batch] == list(range(len(batch))) for batch in batches)
    assert max(len(pairs_of(data)) for data in generator.asked_of("memo_entities")) == 6
    assert [len(pairs_of(data)) for data in generator.asked_of("memo_cross")] == [6]
    assert work(report).not_shown > 0


def test_a_pair_without_a_verdict_is_asked_about_once_more(generator: FakeGenerator, tmp_path: Path) -> None:
    def forgetful(body: dict[str, Any]) -> str:
        return judges(*((pair["n"], "keep") for pair in pairs_of(data_of(body)) if "lives" in pair["question"]))

    generator.reply("memo_verify", forgetful)
    report = run(generator, tmp_path, BEN, steps=("1a", "3"))
    first, second = (pairs_of(data) for data in generator.asked_of("memo_verify"))
    assert [pair["question"] for pair in first] == ["Ben lives in what?", "Ben plays what?"]
    assert second == [{"n": 0, "question": "Ben plays what?", "answer": "chess"}]
    assert why(tmp_path) == {"Ben plays what?": "no verdict"}
    assert work(report).retries == 1
    assert work(report).failures == ()


def test_an_unreadable_second_verdict_is_none(generator: FakeGenerator, tmp_path: Path) -> None:
    generator.reply("memo_verify", judges((0, "keep")), "Hm.")
    report = run(generator, tmp_path, BEN, steps=("1a", "3"))
    assert list(found(tmp_path)) == ["Ben lives in what?"]
    assert why(tmp_path) == {"Ben plays what?": "no verdict"}
    assert [(one.step, one.error) for one in work(report).failures] == [("3", "ReplyError")]
    assert len(generator.asked("memo_verify")) == 2


def test_a_second_verdict_counts(generator: FakeGenerator, tmp_path: Path) -> None:
    generator.reply("memo_verify", judges((0, "keep")), judges((0, "rewrite", "", "Chess.")), judges((0, "keep")))
    run(generator, tmp_path, BEN, steps=("1a", "3"))
    pairs = found(tmp_path)
    assert pairs["Ben plays what?"].step == "1a"  # rewritten into what it was
    assert len(pairs) == 2


# Step 5's caps -------------------------------------------------------------------------------------------------------


def test_caps_are_drawn_the_same_each_time_and_what_is_left_out_is_told(
    generator: FakeGenerator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = wide_corpus(8, 8)
    with caplog.at_level(logging.INFO, "memlora_plugins.memo"):
        report = run(generator, tmp_path, corpus=corpus, cross_pairs_per_group=4)
    assert "group 'g0': 4 of 28 pairs of chunks are compared, 24 left out" in caplog.text
    assert (work(report).left_out, len(generator.asked("memo_cross"))) == (24, 4)
    assert len({id for one in found(tmp_path).values() if one.step == "5" for id in one.documents}) == 8  # each once
    crossings, _ = plan(corpus.groups, SynthesisOptions(cross_pairs_per_group=4))
    assert crossings == plan(corpus.groups, SynthesisOptions(cross_pairs_per_group=4))[0]
    assert crossings != plan(corpus.groups, SynthesisOptions(cross_pairs_per_group=4, seed=1))[0]


def test_a_cap_over_all_groups_is_shared(tmp_path: Path) -> None:
    groups = {"big": [f"b{n}" for n in range(9)], "small": ["x", "y"], "one": ["z"], "same": ["v", "v", "w"]}
    crossings, plans = plan(groups, SynthesisOptions(max_cross_calls=5, cross_pairs_per_group=None))
    assert Counter(one.group for one in crossings) == {"big": 3, "small": 1, "same": 1}
    assert {name: (one.pairs, one.left_out) for name, one in plans.items()} == {
        "big": (36, 33),
        "small": (1, 0),
        "one": (0, 0),
        "same": (1, 0),
    }
    everything, _ = plan(groups, SynthesisOptions(cross_pairs_per_group=None))
    assert len(everything) == len(set(everything)) == 38
    assert plan(groups, SynthesisOptions(cross_pairs_per_group=0))[0] == []


# Faults --------------------------------------------------------------------------------------------------------------


def test_prose_is_asked_for_once_more_and_then_reported(generator: FakeGenerator, tmp_path: Path) -> None:
    def moody(body: dict[str, Any]) -> str:
        return "Let me tell you about Ada." if "Ada" in data_of(body) else direct(body)

    generator.reply("memo_direct", moody)
    report = run(generator, tmp_path)
    [failure] = work(report).failures
    assert (failure.step, failure.unit, failure.error) == ("1a", "d0#1", "ReplyError")
    assert work(report).steps["1a"].failed == work(report).steps["1a"].retries == 1
    temperatures = [body["temperature"] for body in generator.asked("memo_direct") if "Ada" in data_of(body)]
    assert temperatures == [0.0, 0.3]
    pairs = found(tmp_path)
    assert "How many things are told of Ada?" in pairs  # the chunk goes on with what it has
    assert "Ben lives in what?" in pairs
    before = len(generator.requests)
    again = run(generator, tmp_path)
    assert len(generator.requests) == before  # a reply that cannot be read is a reply
    assert again.pairs == report.pairs


def test_a_second_attempt_that_can_be_read(generator: FakeGenerator, tmp_path: Path) -> None:
    generator.reply("memo_direct", "Hm.", direct)
    report = run(generator, tmp_path, BEN)
    assert "Ben lives in what?" in found(tmp_path)
    assert (work(report).failures, work(report).retries) == ((), 1)


def test_half_a_reply_keeps_what_is_complete(generator: FakeGenerator, tmp_path: Path) -> None:
    def cut(body: dict[str, Any]) -> Reply:
        whole = direct(body)
        return Reply(whole[: whole.rindex("answer")], finish_reason="length")

    generator.reply("memo_direct", cut)
    report = run(generator, tmp_path, BEN)
    assert "Ben lives in what?" in found(tmp_path)
    assert "Ben plays what?" not in found(tmp_path)
    assert (work(report).steps["1a"].cut_off, work(report).retries, work(report).failures) == (1, 0, ())


def test_a_reply_without_room_for_anything_gets_twice_the_room(generator: FakeGenerator, tmp_path: Path) -> None:
    generator.reply("memo_direct", Reply("<think>Let me", finish_reason="length"), direct)
    run(generator, tmp_path, BEN, max_tokens=100, thinking_tokens=50)
    assert [body["max_tokens"] for body in generator.asked("memo_direct")] == [150, 250]
    assert "Ben lives in what?" in found(tmp_path)


def test_a_document_that_is_too_long_is_reported_and_the_rest_goes_on(generator: FakeGenerator, tmp_path: Path) -> None:
    server = OpenAIBackend(generator.base_url, "base", backoff=0.01)
    generator.fail(*[Fault(status=400, message="This model's maximum context length is 4096 tokens.")] * 2)
    corpus = a_corpus(ADA, BEN, groups={"all": range(2)})
    report = synthesize(corpus, server, tmp_path, SynthesisOptions(concurrency=1))
    assert [(one.step, one.unit, one.error) for one in work(report).failures] == [
        ("1a", "d0#1", "PromptTooLongError"),
        ("1b", "d0#1", "PromptTooLongError"),
    ]
    assert "Chunk the corpus smaller" in work(report).failures[0].message
    assert {one.documents for one in found(tmp_path).values()} == {("d1",)}
    assert (work(report).not_compared, generator.asked("memo_cross")) == (1, [])
    assert work(run(generator, tmp_path)).failures == ()  # it was no reply: asked again
    assert "Ada lives in what?" in found(tmp_path)


def test_pairs_that_could_not_be_verified_are_left_out(generator: FakeGenerator, tmp_path: Path) -> None:
    def moody(body: dict[str, Any]) -> str:
        return "No." if "Ada" in data_of(body) else verify(body)

    generator.reply("memo_verify", moody)
    events: list[SynthesisEvent] = []
    report = run(generator, tmp_path, on_event=events.append)
    assert {one.documents for one in found(tmp_path).values()} == {("d1",)}
    assert set(why(tmp_path).values()) == {"not verified"}
    [failed] = [event for event in events if event.failures]
    assert (failed.step, failed.unit, failed.pairs) == ("3", "d0#1", 0)
    assert report.pairs.total


def test_timeouts_are_failures_and_asked_again_by_the_next_run(generator: FakeGenerator, tmp_path: Path) -> None:
    generator.fail(Fault(delay=2.0))
    backend = OpenAIBackend(generator.base_url, "base", read_timeout=1.0)
    report = synthesize(a_corpus(BEN), backend, tmp_path, SynthesisOptions(steps=("1a", "1b"), concurrency=1))
    assert [(one.step, one.error) for one in work(report).failures] == [("1a", "BackendTimeoutError")]
    again = work(run(generator, tmp_path, corpus=a_corpus(BEN), steps=("1a", "1b")))
    assert (again.calls, again.resumed, again.failures) == (2, 1, ())


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_generator_that_is_down_stops_the_run_and_the_next_one_goes_on(
    generator: FakeGenerator, tmp_path: Path, at_once: int
) -> None:
    generator.fail(*[None] * 9, *[Fault(status=500, message="gone")] * 60)
    generator.health = 0
    with pytest.raises(BackendUnavailableError, match="The Generator cannot be asked any more") as caught:
        run(generator, tmp_path, corpus=wide_corpus(12, 6), concurrency=at_once)
    assert "9 finished calls" in str(caught.value)
    assert len(generator.requests) < 9 + 8 + at_once
    assert not (tmp_path / "reflections.jsonl").exists()
    generator._faults.clear()
    report = work(run(generator, tmp_path, corpus=wide_corpus(12, 6)))
    assert report.resumed == 9


def test_a_refused_key_stops_the_run_at_once(generator: FakeGenerator, tmp_path: Path) -> None:
    generator.fail(*[Fault(status=401, message="no such key")] * 20)
    with pytest.raises(BackendRequestError, match="Check api_key"):
        run(generator, tmp_path, corpus=wide_corpus(12, 6), concurrency=1)
    assert len(generator.requests) == 1


def test_a_full_disk_stops_the_run(generator: FakeGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DatasetError("no room")

    monkeypatch.setattr("memlora_plugins.training.calls.CallLog.add", full)
    with pytest.raises(DatasetError, match="no room"):
        run(generator, tmp_path, concurrency=1)
    assert len(generator.requests) == 1


@pytest.mark.parametrize("name", ["discarded.jsonl", "documents.jsonl", "reflections.jsonl", "report.json"])
def test_files_that_cannot_be_written(generator: FakeGenerator, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DatasetError, match="cannot be written"):
        run(generator, tmp_path, BEN)


# Speed ---------------------------------------------------------------------------------------------------------------


class PatientGenerator(FakeGenerator):
    """Answers the request that has waited longest, once `house` are under way or all that are `expected` have come; or
    else when it loses patience. All of them take equally long, so, and `seen` is how many were under way each time,
    however slow this machine is."""

    def __init__(self, house: int, expected: int) -> None:
        super().__init__()
        self.house, self.expected = house, expected
        self.seen: list[int] = []
        self._changed = threading.Condition()
        self._waiting: deque[int] = deque()

    def next_fault(self) -> Fault | None:
        with self._changed:
            self._waiting.append(me := threading.get_ident())
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting[0] == me and self._enough(), timeout=2)
            self._waiting.remove(me)
            if len(self.requests) < self.expected:
                self.seen.append(len(self._waiting) + 1)
            self._changed.notify_all()
        return super().next_fault()

    def _enough(self) -> bool:
        return len(self._waiting) >= self.house or len(self.requests) >= self.expected


def test_the_endpoint_is_kept_busy(generator: FakeGenerator, tmp_path: Path) -> None:
    corpus = wide_corpus(16, 4)
    run(generator, tmp_path / "before", corpus=corpus)
    expected = len(generator.requests)
    with PatientGenerator(8, expected) as patient:
        report = run(patient, tmp_path / "busy", corpus=corpus, concurrency=8)
    assert patient.most_concurrent == 8
    assert len(patient.seen) > expected // 2
    assert sum(patient.seen) / len(patient.seen) / 8 >= 0.9
    assert work(report).occupancy is not None
    assert 0.9 <= work(report).occupancy <= 1
    assert files(tmp_path / "busy") == files(tmp_path / "before")


def test_one_slow_chunk_holds_nobody_up(generator: FakeGenerator, tmp_path: Path) -> None:
    crossed = threading.Event()
    waited: list[bool] = []

    def slow(body: dict[str, Any]) -> str:
        if "Ada0 " in data_of(body):
            waited.append(crossed.wait(30))
        return direct(body)

    def note(body: dict[str, Any]) -> str:
        crossed.set()
        return makes()

    generator.reply("memo_direct", slow)
    generator.reply("memo_cross", note)
    run(generator, tmp_path, corpus=wide_corpus(6, 2), concurrency=4)
    assert waited == [True]  # other groups were compared while the first chunk was still being read


def test_without_enough_work_there_is_no_occupancy(generator: FakeGenerator, tmp_path: Path) -> None:
    report = run(generator, tmp_path, BEN, concurrency=8)
    assert work(report).occupancy is None
    again = run(generator, tmp_path, BEN, concurrency=1)
    assert (work(again).occupancy, work(again).resumed) == (None, work(again).calls)  # nothing was asked


# What a killed run has left ------------------------------------------------------------------------------------------

MANY = """
import sys
from pathlib import Path
from fake_generator import wide_corpus
from memlora_plugins.memo.synthesis import SynthesisOptions, synthesize
from memlora_plugins.serving.openai_compatible import OpenAIBackend
backend = OpenAIBackend(sys.argv[1], "base")
synthesize(wide_corpus(9, 3), backend, Path(sys.argv[2]), SynthesisOptions(concurrency=4, verify_batch=3))
"""


def started(server: FakeGenerator, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "support")}
    return subprocess.Popen([sys.executable, "-c", MANY, server.base_url, str(out)], env=environment)


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("reflections.jsonl", "discarded.jsonl", "documents.jsonl")}


def bodies(server: FakeGenerator) -> Counter[str]:
    """The chat requests that arrived whole; a kill may cut one off."""
    return Counter(json.dumps(body, sort_keys=True) for body in server.requests if body)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    with FakeGenerator() as undisturbed:
        assert started(undisturbed, tmp_path / "whole").wait(200) == 0
    expected = bodies(undisturbed)
    assert set(expected.values()) == {1}

    out = tmp_path / "killed"
    with FakeGenerator() as generator:
        generator.latency = 0.1
        for seen in (len(expected) // 4, len(expected) // 2):
            process = started(generator, out)
            try:
                deadline = time.monotonic() + 200
                while len(generator.requests) < seen and time.monotonic() < deadline:
                    time.sleep(0.002)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            time.sleep(0.5)  # what was on the wire arrives
        recorded = len((out / "calls.jsonl").read_bytes().split(b"\n")) - 2
        assert not (out / "reflections.jsonl").exists()
        before = len(generator.requests)
        generator.latency = 0
        assert started(generator, out).wait(200) == 0
        asked = len(generator.requests) - before

    assert asked == len(expected) - recorded  # no finished call is repeated …
    assert sum((bodies(generator) - expected).values()) <= 2 * 4  # … only those that a kill caught on the wire
    assert set(bodies(generator)) == set(expected)
    assert files(out) == files(tmp_path / "whole")
    report = work(SynthesisReport.model_validate_json((out / "report.json").read_text()))
    assert (report.calls, report.resumed) == (len(expected), recorded)


def test_a_corpus_that_has_grown_asks_for_what_is_new(generator: FakeGenerator, tmp_path: Path) -> None:
    run(generator, tmp_path, BEN)
    before = len(generator.requests)
    report = run(generator, tmp_path, BEN, ADA)
    assert generator.asked_of("memo_direct") == [BEN, ADA]
    assert work(report).resumed == before
