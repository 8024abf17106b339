"""Scores of answers to LoCoMo's questions, by hand-computed values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted import FakeBackend

from memlora_plugins.errors import BackendUnavailableError
from memlora_plugins.evaluation.conversations import Conversation, Question
from memlora_plugins.evaluation.harness.candidates import Candidate
from memlora_plugins.evaluation.harness.steps import FailureCount, Remembered, Said
from memlora_plugins.evaluation.harness.usage import ExpertUsage
from memlora_plugins.evaluation.judge import Judge, Verdict
from memlora_plugins.evaluation.locomo_qa.abstention import abstains
from memlora_plugins.evaluation.locomo_qa.answering import RowResult, rows
from memlora_plugins.evaluation.locomo_qa.scores import (
    RowScores,
    ScoredQuestion,
    ajudged,
    change,
    scored,
    summarised,
    unavailable,
)
from memlora_plugins.evaluation.similarity import PARTS
from memlora_plugins.evaluation.statistics import Interval
from memlora_plugins.settings import load_settings
from memlora_plugins.types import Message

QUESTIONS = (
    Question("Where?", "Porto", 4),
    Question("When?", "May 2023", 2),
    Question("Who?", "Ines", 4),
    Question("Whose cello?", None, 5, adversarial_answer="the cello"),
    Question("Whose car?", None, 5),
    Question("Unanswered?", None, 1),
)
TALK = Conversation("conv-a", ((None, Message("user", "Hello.")),), QUESTIONS)
FAILED = FailureCount(stage="generation", error="ReplyError", count=1, example="what was said in the conversation")


class Parts:
    """In place of `Similarity`: every part that is there is 1 for equal texts, else 0.5, and 0 for nothing."""

    def __init__(self, *missing: str) -> None:
        self.missing = {part: f"no {part} here" for part in PARTS if part in missing}

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, float]]:
        there = [part for part in PARTS if part not in self.missing]
        return [dict.fromkeys(there, 1.0 if said == right else 0.5 if said else 0.0) for said, right in pairs]


def results(
    *answers: Sequence[str | None], student: str = "student", teacher: str | None = None, at: str = ""
) -> list[RowResult]:
    """A row for each list of answers to `QUESTIONS`; adapters are at `at`."""
    adapters = {"extraction": f"{at}e", "update": f"{at}u", "generation": f"{at}g"}
    served: dict[str, Any] = {"base": "b", "base_url": "http://127.0.0.1:9"}
    measured = [Candidate(name=student, adapters=adapters, stages=True, teacher=teacher, **served)]
    measured += [Candidate(name=teacher, **served)] if teacher else []
    kept = Remembered(
        conversation="conv-a",
        turns=1,
        facts=2,
        retired=1,
        pending=0,
        events={"ADD": 2},
        failures=(FailureCount(stage="extraction", error="UnsaidError", count=2, example="secret words"),),
        usage={"extraction": ExpertUsage(calls=1, input_tokens=10, output_tokens=5, seconds=0.5)},
        seconds=1.0,
    )
    return [
        RowResult(
            row,
            (kept,),
            tuple(
                Said(
                    conversation="conv-a",
                    question=question.text,
                    answer=answer,
                    cut_off=answer == "Porto",
                    sources=("D1:1",),
                    failure=FAILED if answer is None else None,
                    usage={"generation": ExpertUsage(calls=1, input_tokens=20, output_tokens=2)},
                )
                for question, answer in zip(QUESTIONS, said, strict=True)
            ),
        )
        for row, said in zip(rows(measured), answers, strict=False)
    ]


def of(row: RowScores, measure: str) -> float:
    return row.overall.means[measure].mean


BASE = ("Porto", "June", None, "The cello!", "It is not mentioned.", "x")
BETTER = ("Porto", "May 2023", "her sister Ines", "I do not know.", "a car", "x")


async def test_answers_are_scored_over_the_answerable_questions() -> None:
    found = results(BASE, BETTER)
    answers = scored(found, [TALK], Parts())  # type: ignore[arg-type]
    [base, better], by = summarised(found, answers)
    assert by == "L"
    assert (base.label, base.overall.questions, set(base.by_category)) == ("base", 3, {2, 4})
    assert of(base, "token_f1") == pytest.approx(1 / 3)
    assert of(better, "token_f1") == pytest.approx((1 + 1 + 2 * 1 / (3 + 1)) / 3)
    assert (of(better, "exact_match"), of(better, "contains")) == (pytest.approx(2 / 3), 1.0)
    assert of(base, "L") == pytest.approx((1 + 0.5 + 0) / 3), "an answer that failed is similar to nothing"
    assert better.by_category[4].means["contains"] == Interval(mean=1.0, low=1.0, high=1.0)
    assert better.change is not None
    assert better.change.points.mean == pytest.approx(1 / 3)
    assert better.change.points.low == 0.0
    assert better.change.share is None, "of three questions, nobody can say so"
    assert better.over_base == better.change
    assert base.change is None
    assert "J" not in base.overall.means


async def test_adversarial_questions_are_told_apart() -> None:
    found = results(BASE, BETTER)
    answers = scored(found, [TALK], Parts())  # type: ignore[arg-type]
    base, better = (row.adversarial for row in summarised(found, answers)[0])
    assert base is not None
    assert better is not None
    assert (base.questions, base.abstained.mean, base.with_bait) == (2, 0.5, 1)
    assert base.misled is not None
    assert base.misled.mean == 1.0
    assert better.abstained.mean == 0.5
    assert better.misled is not None
    assert better.misled.mean == 0.0
    whose, unanswered = answers[0][3], answers[0][5]
    assert (whose.abstained, whose.misled, whose.scores) == (False, True, {})
    assert (unanswered.abstained, unanswered.scores) == (None, {})


async def test_what_it_took_and_what_failed_without_a_word_of_the_conversation() -> None:
    [row], _ = summarised(results(BASE), scored(results(BASE), [TALK], Parts()))  # type: ignore[arg-type]
    assert (row.turns, row.facts, row.retired, row.pending, row.events) == (1, 2, 1, 0, {"ADD": 2})
    assert row.model_seconds == 0.5
    assert row.settings["token_budget"] == load_settings().token_budget
    assert row.usage["generation"].calls == 6
    assert list(row.usage) == ["extraction", "generation"]
    assert row.cut_off == 1
    assert [(one.stage, one.error, one.count, one.example) for one in row.failures] == [
        ("extraction", "UnsaidError", 2, ""),
        ("generation", "ReplyError", 1, ""),
    ]


def test_an_adapter_is_told_without_its_path(tmp_path: Path) -> None:
    found = results(BASE, BETTER, at=f"{tmp_path}/")
    [_, row], _ = summarised(found, scored(found, [TALK], Parts()))  # type: ignore[arg-type]
    assert row.experts == {"extraction": "e"}
    assert found[1].row.who["extraction"] == f"student: b + {tmp_path}/e", "what it is told apart by stays"


async def test_judged_where_there_is_a_judge() -> None:
    labels = iter(['{"label": "CORRECT"}', "no idea", '{"label": "WRONG"}'])
    backend = FakeBackend(judge=lambda request: next(labels))
    found = results(("Porto", "May", "Ines", "", "", ""))
    plain = scored(found, [TALK], Parts(*PARTS))  # type: ignore[arg-type]
    answers, unasked = await ajudged(plain, Judge(backend, attempts=1), concurrency=1)
    assert unasked is None
    [row], by = summarised(found, answers)
    assert (by, of(row, "J"), row.overall.judged, row.overall.not_judged) == ("J", 0.5, 2, 1)
    assert (row.by_category[4].judged, row.by_category[2].judged) == (2, 0)
    assert "L" not in row.overall.means
    assert [one.verdict and one.verdict.correct for one in answers[0]] == [True, None, False, None, None, None]
    assert len(backend.requests) == 3, "adversarial questions are not judged"


async def test_l_is_never_the_mean_of_some() -> None:
    metrics: Any = Parts("meteor", "bertscore")
    found = results(BASE)
    [row], by = summarised(found, scored(found, [TALK], metrics))
    assert by == "token_f1"
    assert {"rouge1", "sentence_bert"} < set(row.overall.means)
    assert "L" not in row.overall.means
    missing = unavailable(metrics, None)
    assert list(missing) == ["J", "L", "meteor", "bertscore"]
    assert "meteor, bertscore missing" in missing["L"]
    assert "--judge-url" in missing["J"]
    right, unread = Verdict(correct=True), Verdict(correct=None, failure="no label")
    assert unavailable(Parts(), [right, unread]) == {}  # type: ignore[arg-type]
    assert "the first: no label" in unavailable(Parts(), [unread])["J"]  # type: ignore[arg-type]


async def test_several_students_are_labelled_and_compared_with_themselves() -> None:
    nothing = ("x", "y", "z", "", "", "")
    found = results(nothing, BETTER) + results(BASE, BETTER, student="other")
    rows, _ = summarised(found, scored(found, [TALK], Parts(*PARTS)))  # type: ignore[arg-type]
    assert [row.label for row in rows] == [
        "student: base",
        "student: + extraction",
        "other: base",
        "other: + extraction",
    ]
    assert rows[1].change is not None
    assert rows[1].change.points.low > 0
    assert rows[1].change.share is None, "there is no share of nothing"
    assert rows[2].change is None
    assert rows[3].over_base is not None
    assert rows[3].over_base.points.mean == pytest.approx(1.5 / 3)


def test_the_first_expert_is_compared_with_the_base_and_not_with_the_teacher() -> None:
    """As in the paper's Table 4, whose column of changes begins anew below the teacher's rows."""
    right = (0, 1, 2, 3, 1, 2, 3, 3)
    said = [[*(one.answer or "" for one in QUESTIONS[:count]), *["x"] * (6 - count)] for count in right]
    found = results(*said, teacher="large")
    rows, _ = summarised(found, scored(found, [TALK], Parts(*PARTS)))  # type: ignore[arg-type]
    assert [(row.label, row.change and round(3 * row.change.points.mean)) for row in rows] == [
        ("student: base", None),
        ("student: large at extraction", 1),
        ("student: large at extraction and update", 1),
        ("student: large at every stage", 1),
        ("student: + extraction", 1),
        ("student: + update", 1),
        ("student: + generation", 1),
        ("large: base", None),
    ]
    assert [row.over_base and round(3 * row.over_base.points.mean) for row in rows] == [None, 1, 2, 3, 1, 2, 3, None]
    assert [row.teacher for row in rows][1:5] == [
        {"extraction": "large"},
        {"extraction": "large", "update": "large"},
        {"extraction": "large", "update": "large", "generation": "large"},
        {},
    ]


def test_a_change_is_told_over_the_questions_that_have_a_score_in_both() -> None:
    def judged(*labels: float | None) -> list[ScoredQuestion]:
        plain = scored(results(BASE), [TALK], Parts())[0]  # type: ignore[arg-type]
        told = [{} if label is None else {"J": label} for label in labels]
        return [one.model_copy(update={"scores": scores}) for one, scores in zip(plain, told, strict=False)]

    found = change(judged(None, 1, 0), judged(1, 1, None), "J")
    assert found is not None
    assert (found.questions, found.points.mean, found.share) == (1, 0.0, None), "not 0.5 to 1.0"
    assert change(judged(1, None), judged(None, 1), "J") is None
    sure = change(judged(1, 0, 0, 0), judged(1, 1, 1, 1), "J")
    assert sure is not None
    assert (sure.points.mean, sure.share) == (0.75, 3.0)
    for before, now in (((0.5,), (1,)), ((0.5, 0.5, 0.5), (1, 1, 1))):
        alike = change(judged(*before), judged(*now), "J")
        assert alike is not None
        assert (alike.points.mean, alike.share) == (0.5, None), "an interval without width says nothing"


async def test_a_question_that_is_asked_twice_costs_once() -> None:
    twice = Conversation(TALK.id, TALK.messages, (*QUESTIONS, QUESTIONS[0], QUESTIONS[2]))
    [found] = results(BASE)
    again = RowResult(found.row, found.remembered, (*found.said, found.said[0], found.said[2]))
    [row], _ = summarised([again], scored([again], [twice], Parts()))  # type: ignore[arg-type]
    assert (row.overall.questions, row.usage["generation"].calls, row.cut_off) == (5, 6, 1)
    assert [(one.stage, one.count) for one in row.failures] == [("extraction", 2), ("generation", 1)]


async def test_a_judge_that_cannot_be_asked() -> None:
    backend = FakeBackend(judge=lambda request: BackendUnavailableError("nobody there, said 'Porto'"))
    plain = scored(results(BASE), [TALK], Parts())  # type: ignore[arg-type]
    answers, unasked = await ajudged(plain, Judge(backend))
    assert answers == plain
    why = unavailable(Parts(), [], unasked)["J"]  # type: ignore[arg-type]
    assert "the judge cannot be asked (BackendUnavailableError); run it again" in why
    assert "Porto" not in why


async def test_without_adversarial_questions() -> None:
    [found] = results(BASE)
    few = RowResult(found.row, found.remembered, found.said[:3])
    talk = Conversation(TALK.id, TALK.messages, QUESTIONS[:3])
    [row], _ = summarised([few], scored([few], [talk], Parts()))  # type: ignore[arg-type]
    assert (row.adversarial, row.overall.questions) == (None, 3)


@pytest.mark.parametrize(
    "answer",
    [
        "I do not know.",
        "I don’t know",
        "Not mentioned in the conversation",
        "That isn't stated anywhere.",
        "The memories do not say.",
        "There is no information about a cello.",
        "Unknown",
        "It cannot be determined.",
        "No such information; unanswerable",
        "I'm not sure, maybe in May.",
        "Sorry, I do not know.",
        "Based on the memories, it is not mentioned who did.",
        "It's not mentioned, but perhaps Porto",
        "Her age is not mentioned in the provided memories.",
        "It is not clear which.",
        "Nothing is said about it.",
        "",
        "—",
    ],
)
def test_answers_that_leave_it_open(answer: str) -> None:
    assert abstains(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Porto",
        "She is not married.",
        "No",
        "Nothing but a bicycle",
        "a known singer",
        "She is not available on Mondays, so Tuesday",
        "Not clear blue, but turquoise",
        "The shop could not say no: 40 euros",
        "Nothing was given, she bought it herself",
        "Not given, she bought it",
        "She was not told, Ben kept it secret",
        "He said that he did not know her",
        "The tent is brown. It is not known who made it.",
    ],
)
def test_answers_that_do_not(answer: str) -> None:
    assert not abstains(answer)
