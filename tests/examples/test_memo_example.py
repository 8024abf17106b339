"""The isles of the MeMo example: what is recorded is whole, and what is held out was never shown."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import httpx
import pytest
import report
from isles import ENTITIES
from make_model import FIRST_TEN
from material import HELD_OUT, OPTIONS, read_isles, synthesize_isles
from recorded_generator import RecordedGenerator, read_replies

from memlora_plugins.memo.merging.sweep import SWEEP
from memlora_plugins.memo.reflections import (
    STEPS,
    Reflection,
    read_held_out,
    read_reflections,
    without_steps,
    write_rows,
)


@pytest.fixture(scope="module")
def reflections(tmp_path_factory: pytest.TempPathFactory) -> list[Reflection]:
    """All that the recorded Generator makes of the isles."""
    out = tmp_path_factory.mktemp("isles")
    with RecordedGenerator() as generator:
        made = synthesize_isles(read_isles(), generator.base_url, out)
        assert generator.calls == len(generator.replies), "a recorded reply is not asked for any more"
        assert made.run is not None
        assert not made.run.failures
    return read_reflections(out / "reflections.jsonl")


def test_the_corpus_is_more_than_thirty_documents_that_refer_to_each_other(reflections: list[Reflection]) -> None:
    corpus = read_isles()
    assert len(corpus.documents) > 30
    assert {entity.kind for entity in ENTITIES.values()} == {"person", "town", "organisation", "work"}
    assert sum(len(one.documents) > 1 for one in reflections) > 100
    assert {one.step for one in reflections} == set(STEPS)


def test_no_identifier_is_in_a_pair(reflections: list[Reflection]) -> None:
    ids = [document.id for document in read_isles().documents]
    assert not [one for one in reflections if any(id in one.question + one.answer for id in ids)]


def test_every_pair_is_supported_by_the_documents_that_it_names(reflections: list[Reflection]) -> None:
    texts = {document.id: document.text for document in read_isles().documents}
    for one in reflections:
        support = " ".join(texts[id] for id in one.documents).casefold()
        assert all(part.casefold() in support for part in re.split("; | and ", one.answer)), one


def test_held_out_questions_share_no_wording_with_the_training(reflections: list[Reflection]) -> None:
    held_out = {_template(question.question) for question in read_held_out(HELD_OUT)}
    learned = {_template(one.question) for one in reflections}
    assert len(held_out) > 50
    assert not held_out & learned


def test_a_removed_step_takes_what_descends_from_it(reflections: list[Reflection]) -> None:
    for step in STEPS:
        left = without_steps(reflections, [step])
        assert 0 < len(left) < len(reflections)
        kept = {one.id for one in left}
        known = {one.id for one in reflections}
        assert all(parent in kept for one in left for parent in one.parents if parent in known)


def test_ten_documents_need_no_reply_that_was_not_recorded(tmp_path: Path) -> None:
    corpus = read_isles(FIRST_TEN)
    assert len(corpus.documents) == 10
    with RecordedGenerator() as generator:
        made = synthesize_isles(corpus, generator.base_url, tmp_path)
        before = generator.calls
        again = synthesize_isles(corpus, generator.base_url, tmp_path)
        assert generator.calls == before
    assert made.run is not None
    assert not made.run.failures
    assert again.pairs == made.pairs


def test_the_recording_says_that_it_is_none_for_other_requests() -> None:
    with RecordedGenerator() as generator:
        body = {"model": "any", "messages": [{"role": "user", "content": "Write me a poem."}]}
        answer = httpx.post(f"{generator.base_url}/chat/completions", json=body)
    assert answer.status_code == 404
    assert "It is no model" in answer.json()["error"]["message"]


def test_replies_are_filed_under_what_they_reply_to() -> None:
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in read_replies())


@pytest.mark.timeout(900)
def test_the_report_measures_steps_and_merging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten documents and two steps of training: its figures say nothing, but they are all there."""
    monkeypatch.setattr(report, "read_isles", partial(read_isles, FIRST_TEN))
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    ids = set(FIRST_TEN)
    held_out = [question for question in read_held_out(HELD_OUT) if ids.issuperset(question.documents)]
    write_rows(tmp_path / "held_out.jsonl", held_out)
    monkeypatch.setattr(report, "HELD_OUT", tmp_path / "held_out.jsonl")
    monkeypatch.setattr(report, "CONFIGURATIONS", SWEEP[:3])
    options = OPTIONS.model_copy(update={"max_steps": 2, "answer_tokens": 4, "threads": 1})
    report.make_report(tmp_path / "work", options)
    text = (tmp_path / "results" / "report.md").read_text(encoding="utf-8")
    assert all(f"| {row} |" in text for row in ("nothing", *STEPS, "one half", "both, trained together", "linear"))
    found = json.loads((tmp_path / "results" / "report.json").read_text(encoding="utf-8"))
    assert found["ablation"]["5"]["reflections"] < found["full"]["reflections"]
    assert (tmp_path / "results" / "sweep.png").stat().st_size > 10_000


def _template(question: str) -> str:
    """The wording of a question, without names and values."""
    values = {value for entity in ENTITIES.values() for value in entity.facts.values()}
    types = {entity.type for entity in ENTITIES.values()} | {entity.kind for entity in ENTITIES.values()}
    names = sorted({*ENTITIES, *values, *types}, key=len, reverse=True)
    for name in names:
        question = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "_", question, flags=re.I)
    return question.casefold()
