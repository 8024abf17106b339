"""Choosing when to abstain: on made-up answers, and on a Memory model that is asked."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import FakeBackend

from memlora_plugins import InvalidInputError, MemoryAnswer, MemoryModel, SettingsError
from memlora_plugins.memo.calibration import acalibrate, calibrate, choose, judged, note, thresholds
from memlora_plugins.memo.card import MemoCard, TrainedDocument, read_card, write_card
from memlora_plugins.memo.reflections import HeldOutQuestion
from memlora_plugins.serving.base import Completion, Request

POINTS = st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=1)


@given(POINTS)
def test_a_cut_does_what_it_says(points: list[tuple[float, bool]]) -> None:
    cuts = thresholds(points)
    assert len(cuts) == len({value for value, _ in points}) + 1
    assert [cut.threshold for cut in cuts] == sorted({cut.threshold for cut in cuts})
    for cut in cuts:
        kept = [is_right for value, is_right in points if value >= cut.threshold]
        assert (cut.kept, cut.right_kept) == (len(kept), sum(kept))
        assert cut.right + cut.wrong == len(points)
    assert cuts[0].kept == len(points)
    assert cuts[-1].kept == 0


@given(POINTS)
def test_the_balanced_threshold_is_the_best_and_the_lowest_of_equals(points: list[tuple[float, bool]]) -> None:
    cuts = thresholds(points)
    best = choose(cuts, "balanced")
    assert all(cut.balanced <= best.balanced for cut in cuts)
    assert all(cut.threshold >= best.threshold for cut in cuts if cut.balanced == best.balanced)
    assert best.balanced >= 0.5
    assert choose(thresholds(list(reversed(points))), "balanced") == best


@given(POINTS, st.floats(0, 1))
def test_a_precision_is_reached_at_the_lowest_threshold(points: list[tuple[float, bool]], target: float) -> None:
    cuts = thresholds(points)
    reached = [cut for cut in cuts if cut.right_among_kept is not None and cut.right_among_kept >= target]
    if not reached:
        with pytest.raises(InvalidInputError, match="At no threshold"):
            choose(cuts, target)
    else:
        assert choose(cuts, target) == reached[0]


@given(st.lists(st.floats(0, 1), min_size=2, unique=True), st.integers(0))
def test_answers_that_can_be_told_apart_are(values: list[float], where: int) -> None:
    values.sort()
    border = 1 + where % (len(values) - 1)
    points = [(value, place >= border) for place, value in enumerate(values)]
    best = choose(thresholds(points), "balanced")
    assert values[border - 1] < best.threshold <= values[border]
    assert (best.right_among_kept, best.kept_among_right, best.abstained_among_wrong) == (1, 1, 1)
    assert choose(thresholds(points), 1.0).threshold == best.threshold


def test_where_all_is_right_nothing_is_withheld() -> None:
    assert choose(thresholds([(0.5, True), (0.9, True)]), "balanced").threshold == 0.0
    nothing = choose(thresholds([(0.5, False), (1.0, False)]), "balanced")
    assert nothing.kept == 0
    assert nothing.threshold > 1.0


@pytest.mark.parametrize("target", [-0.1, 1.1, "best", True, float("nan")])
def test_targets_that_are_none(target: Any) -> None:
    with pytest.raises(InvalidInputError, match="target"):
        choose(thresholds([(0.5, True)]), target)


KNOWN = {"Where does Ana live?": ("She lives in Porto.", 0.9), "What does Ana do?": ("Nurse", 0.8)}
HELD_OUT = [
    HeldOutQuestion(question="Where does Ana live?", answers=("porto", "Oporto")),
    HeldOutQuestion(question="What does Ana do?", answers=("nurse",)),
    HeldOutQuestion(question="What does Bo do?", answers=("pilot",)),
    HeldOutQuestion(question="What does Cy do?", answers=("I don't know",)),
]


def reply(request: Request) -> Completion:
    question = str(request.messages[0]["content"])
    if "Cy" in question:
        return Completion("I don't know.", logprobs=(0.0,))
    text, sure = KNOWN.get(question, ("A baker, a nurse or a pilot" if "Dee" in question else "Baker", 0.4))
    return Completion(text, logprobs=(log(sure), log(sure)))


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("before", [None, 0.85])
async def test_it_is_found_on_held_out_questions(way: str, before: float | None) -> None:
    model = MemoryModel(FakeBackend(memory=reply), abstain_below=before)
    unanswerable = ["Where does Dee live?"]
    if way == "sync":
        found = calibrate(model, HELD_OUT, unanswerable=unanswerable)
    else:
        found = await acalibrate(model, HELD_OUT, unanswerable=unanswerable)
    assert found.threshold == pytest.approx(0.6)
    assert (found.questions, found.admitted, found.failed) == (5, 1, 0)
    assert (found.cut.right, found.cut.wrong, found.cut.kept) == (2, 2, 2)
    assert found.cut.right_among_kept == found.cut.abstained_among_wrong == 1.0
    told = found.table()
    assert "5 questions, 1 not known" in told.title
    assert [row for row in told.rows if "*" in row[0]] == [("0.600 *", "2", "1.000", "1.000", "1.000", "1.000")]
    assert model.abstain_below == before


def test_what_failed_is_told_and_left_out() -> None:
    answers = [
        MemoryAnswer("q", "Porto", confidence=0.9),
        MemoryAnswer("q", "", error="BackendTimeoutError: no answer"),
        MemoryAnswer("q", "I don't know.", abstained=True, withheld="Lisbon", confidence=0.2),
        MemoryAnswer("q", "", confidence=0.0),
    ]
    held_out = [HeldOutQuestion(question="q", answers=("Porto",))] * 4
    found = judged(held_out, answers, "balanced")
    assert (found.failed, found.admitted, found.cut.kept, found.threshold) == (1, 1, 1, pytest.approx(0.55))


def test_a_table_is_short() -> None:
    held_out = [HeldOutQuestion(question="q", answers=("a" if number > 500 else "b",)) for number in range(1000)]
    answers = [MemoryAnswer("q", "a", confidence=number / 1000) for number in range(1000)]
    told = judged(held_out, answers, 0.9).table()
    assert len(told.rows) <= 13
    assert sum("*" in row[0] for row in told.rows) == 1


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([MemoryAnswer("q", "Porto")], "logprobs"),
        ([MemoryAnswer("q", "", error="BackendTimeoutError: no")], "No question was answered"),
        ([MemoryAnswer("q", "I don't know", confidence=0.9)], "No question was answered"),
    ],
)
def test_where_nothing_can_be_calibrated(answers: Sequence[MemoryAnswer], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        judged(HELD_OUT[:1], answers, "balanced")


def test_no_question_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="no held-out question"):
        calibrate(MemoryModel(FakeBackend(memory=reply)), [])


def test_it_is_kept_in_the_models_card(tmp_path: Path) -> None:
    document = TrainedDocument(id="atlas", sha256="0" * 64)
    found = calibrate(MemoryModel(FakeBackend(memory=reply)), HELD_OUT, target=1.0)
    with pytest.raises(SettingsError):
        note(tmp_path, found)
    write_card(tmp_path, MemoCard(documents=(document,)))
    note(tmp_path, found)
    assert read_card(tmp_path).abstain_below == found.threshold
    assert read_card(tmp_path).documents == (document,)
