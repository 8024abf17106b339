"""`memlora memo synthesize` and `report` over a fake Generator on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Memlora
from fake_generator import FakeGenerator, pairs_of
from fake_server import Fault

from memlora_plugins.memo.reflections import read_reflections
from memlora_plugins.memo.synthesis.report import SynthesisReport


@pytest.fixture
def generator() -> Iterator[FakeGenerator]:
    with FakeGenerator() as server:
        yield server


@pytest.fixture
def at(generator: FakeGenerator) -> list[str]:
    """The options that point at the fake Generator."""
    return ["--base-url", generator.base_url, "--model", "base", "--out", "pairs"]


@pytest.fixture
def corpus(clean_environment: None) -> str:
    for name, place in (("Ada", "Porto"), ("Ben", "Braga"), ("Eva", "Faro")):
        text = f"{name} lives in {place}. {name} plays chess."
        Path("corpus").mkdir(exist_ok=True)
        Path(f"corpus/{name}.md").write_text(f"---\ngroup: people\n---\n{text}\n")
    return "corpus"


def reflections() -> list[str]:
    return [one.question for one in read_reflections("pairs/reflections.jsonl")]


def test_pairs_of_a_folder_and_what_they_cost(
    memlora: Memlora, generator: FakeGenerator, corpus: str, at: list[str]
) -> None:
    prices = ("--price-in", "2", "--price-out", "10", "--concurrency", "2")
    said = memlora("memo", "synthesize", corpus, *at, *prices, "--max-cross-calls", "2")
    for told in ("1a direct facts", "5 across documents", "gzip ratio", "occupancy", "Left out in step 5", "people"):
        assert told in said.stdout
    assert "warning: Step 5 left out 1 of 3 pairs of chunks" in said.stderr
    assert {"Ada lives in what?", "Who lives in Faro?"} < set(reflections())
    asked = len(generator.requests)
    again = memlora("memo", "synthesize", corpus, *at, "--max-cross-calls", "2", "--json")
    assert len(generator.requests) == asked
    report = SynthesisReport.model_validate_json(again.stdout)
    assert report.run is not None
    assert (report.run.resumed, report.run.calls) == (asked, asked)
    assert json.loads(Path("pairs/report.json").read_text()) == json.loads(again.stdout)
    assert json.loads(memlora("memo", "report", "pairs", "--json").stdout) == json.loads(again.stdout)
    assert "1a direct facts" in memlora("memo", "report", "pairs").stdout


def test_how_the_corpus_is_cut_and_grouped(
    memlora: Memlora, generator: FakeGenerator, corpus: str, at: list[str]
) -> None:
    words = ("--chunk-words", "4", "--overlap-words", "0", "--group-by", "document", "--step", "1a", "--step", "5")
    memlora("memo", "synthesize", corpus, *at, *words)
    assert sorted(generator.asked_of("memo_direct"))[:2] == ["Ada lives in Porto.", "Ada plays chess."]
    assert [len(pairs_of(data)) for data in generator.asked_of("memo_cross")] == [2, 2, 2]
    generator.requests.clear()
    similar = ("--group-by", "similarity", "--group-size", "2", "--whole-documents", "--leave-out", "5")
    memlora("memo", "synthesize", corpus, *at, *similar)
    assert len(generator.asked_of("memo_direct")) == 3
    assert generator.asked_of("memo_cross") == []
    said = memlora("memo", "synthesize", corpus, *at, "--group-by", "none")
    assert "The corpus has no groups, so step 5 compared nothing." in said.stderr


def test_how_it_is_asked(memlora: Memlora, generator: FakeGenerator, corpus: str, at: list[str]) -> None:
    words = ["--temperature", "0.7", "--max-tokens", "500", "--thinking-tokens", "9", "--verify-batch", "1"]
    words += ["--leave-out", "1b", "--leave-out", "2"]
    memlora("memo", "synthesize", corpus, *at, *words)
    assert {body["max_tokens"] for body in generator.requests} == {509}
    assert {body["temperature"] for body in generator.asked("memo_direct")} == {0.7}
    assert {len(pairs_of(data)) for data in generator.asked_of("memo_verify")} == {1}
    before = len(generator.requests)
    memlora("memo", "synthesize", corpus, *at, *words, "--extra-body", '{"a":1}')
    assert len(generator.requests) == 2 * before  # asked in another way, a call is another one


def test_what_fails_is_said(memlora: Memlora, generator: FakeGenerator, corpus: str, at: list[str]) -> None:
    generator.fail(Fault(status=400, message="This model's maximum context length is 8 tokens."))
    Path("corpus/odd.bin").write_bytes(b"\0")
    said = memlora("memo", "synthesize", corpus, *at)
    assert "1 document(s) were skipped" in said.stderr
    assert "1 time(s) a step failed" in said.stderr
    assert "Chunk the corpus smaller" in said.stderr
    generator.reply("memo_direct", '{"pairs": []}')
    said = memlora("memo", "synthesize", corpus, *at, "--out", "none", "--step", "1a", code=1)
    assert "warning: No pair came of it." in said.stderr
    assert "No pair came of it." in memlora("memo", "report", "none").stderr


def test_a_generator_that_is_not_there(memlora: Memlora, generator: FakeGenerator, corpus: str, at: list[str]) -> None:
    generator.fail(*[Fault(status=401)] * 10)
    refused = memlora("memo", "synthesize", corpus, *at, code=1).stderr
    assert refused.startswith("error: The Generator cannot be asked any more.")
    assert "run the same again" in refused


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("corpus",), 1, "No Generator is named: pass --base-url and --model."),
        (("corpus", "--base-url", "http://127.0.0.1:1"), 1, "model is not"),
        (("corpus", "--step", "2"), 1, "without the steps 1a and 1b there is nothing"),
        (("corpus", "--temperature", "1.9"), 1, "temperature: Input should be less than or equal to 1.5"),
        (("corpus", "--step", "6"), 2, "--step"),
        (("corpus", "--base-url", "http://127.0.0.1:1", "--model", "m", "--extra-body", "{"), 2, "not JSON"),
        (("nowhere", "--base-url", "http://127.0.0.1:1", "--model", "m"), 1, "nowhere does not exist"),
    ],
)
def test_words_that_cannot_be_followed(
    memlora: Memlora, corpus: str, words: tuple[str, ...], code: int, complaint: str
) -> None:
    assert complaint in memlora("memo", "synthesize", *words, "--out", "pairs", code=code).stderr
    assert not Path("pairs").exists()


def test_a_run_never_reads_what_it_writes(
    memlora: Memlora, generator: FakeGenerator, corpus: str, at: list[str]
) -> None:
    """The record of calls has a text on each line: resumed, the Generator's replies would be documents."""
    for out in ("corpus/pairs", "corpus"):
        said = memlora("memo", "synthesize", corpus, *at, "--out", out, code=1).stderr
        assert f"error: {out} is in the corpus corpus: " in said
    assert generator.requests == []
    memlora("memo", "synthesize", corpus, *at, "--out", "corpus/.pairs")
    memlora("memo", "synthesize", "corpus/Ada.md", *at, "--out", "corpus")


def test_a_folder_without_pairs(memlora: Memlora) -> None:
    assert "cannot be read" in memlora("memo", "report", "nowhere", code=1).stderr
