"""Means over questions and their spread over runs, against values worked out by hand; and the tables of them."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import pytest

from memlora_plugins.errors import DatasetError
from memlora_plugins.evaluation.judge import Verdict
from memlora_plugins.evaluation.memo_qa.reading import METRIC_ORDER, GivenAnswer
from memlora_plugins.evaluation.memo_qa.report import draw, write_answers
from memlora_plugins.evaluation.memo_qa.scores import ACCURACY, MethodScore, measure_of, noise_series, summaries, tables


def given(
    run: int,
    id: str,
    right: bool | None,
    *,
    said: str | None = "x",
    found: float = 0.0,
    judged: bool = True,
    method: str = "BM25",
    noise: int | None = 1,
    epoch: float | None = None,
    executive: str = "large",
    kind: str = "2 hops",
) -> GivenAnswer:
    verdict = Verdict(correct=right, error=None if right is not None else "mumbled")
    return GivenAnswer(
        method=method,
        noise=noise,
        epoch=epoch,
        executive=executive,
        run=run,
        id=id,
        question=id,
        kind=kind,
        expected=("x",),
        answer=said,
        scores=dict.fromkeys(METRIC_ORDER, found),
        input_tokens=100 if said else 0,
        documents=3 if said else None,
        error=None if said else "BackendTimeoutError: slow",
        verdict=verdict if judged and said else None,
    )


def three_runs() -> list[GivenAnswer]:
    """Right are 2 of 2, 1 of 2 (the other failed) and 0 of 1 (the other cannot be judged)."""
    return [
        given(1, "a", True, found=1.0),
        given(1, "b", True, kind="3 hops"),
        given(2, "a", True, found=1.0),
        given(2, "b", None, said=None, kind="3 hops"),
        given(3, "a", False, found=1.0),
        given(3, "b", None, kind="3 hops", found=0.5),
    ]


def test_means_and_spread_over_runs() -> None:
    [score] = summaries(three_runs())
    assert (score.runs, score.questions, score.failed, score.unjudged) == (3, 2, 1, 1)
    assert score.accuracy is not None
    assert score.accuracy.runs == (1.0, 0.5, 0.0)
    assert (score.accuracy.mean, score.accuracy.sd) == pytest.approx((0.5, 0.5))
    assert score.scores["contains"].runs == (0.5, 0.5, 0.75)
    assert score.scores["contains"].sd == pytest.approx(sqrt(((1 / 12) ** 2 * 2 + (1 / 6) ** 2) / 2))
    assert score.by_kind[ACCURACY] == {"2 hops": pytest.approx(2 / 3), "3 hops": pytest.approx(1 / 2)}
    assert score.by_kind["contains"] == {"2 hops": 1.0, "3 hops": pytest.approx(0.5 / 3)}
    assert (score.input_tokens, score.documents) == (100, 3), "of the questions that were answered"


def test_a_run_without_a_verdict_leaves_no_accuracy() -> None:
    [score] = summaries([given(1, "a", True), given(2, "a", None)])
    assert (score.accuracy, score.unjudged) == (None, 1)
    assert measure_of([score]) == "contains"
    [silent] = summaries([given(1, "a", None, said=None)])
    assert (silent.accuracy, silent.input_tokens, silent.documents) == (None, None, None)
    assert tables([silent])[0].rows[0][-3:] == ("", "", "")


def test_the_table_shows_what_there_is() -> None:
    [table, kinds] = tables(summaries(three_runs()))
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["judged accuracy"] == "0.500 ± 0.500 (1 not judged)"
    assert row["contains"] == "0.583 ± 0.144"
    assert (row["noise"], row["runs"], row["failed"], row["documents read"]) == ("1N", "3", "1", "3.0")
    assert "Executive" not in row
    assert (kinds.columns, kinds.rows) == (("method", "noise", "2 hops", "3 hops"), (("BM25", "1N", "0.667", "0.500"),))
    [alone] = tables(summaries([given(1, "a", None, judged=False, noise=None)]))
    assert not {"judged accuracy", "noise", "runs", "epoch"} & set(alone.columns)


def levels() -> list[MethodScore]:
    """BM25 at three noise levels, a Memory model at two (of one with two epochs), and one with another Executive."""
    answers = [given(1, "a", True, noise=0), given(1, "a", False, noise=1), given(1, "a", False, noise=2)]
    memo = {"method": "MeMo small, structured"}
    answers += [given(1, "a", False, noise=0, epoch=1, **memo), given(1, "a", True, noise=0, epoch=2, **memo)]  # type: ignore[arg-type]
    answers += [given(1, "a", True, noise=2, epoch=1, **memo)]  # type: ignore[arg-type]
    answers += [given(1, "a", True, noise=None, method="no context", executive="other")]
    return summaries(answers)


def test_what_noise_costs() -> None:
    table = tables(levels())[-1]
    assert table.title == "Against noise (judged accuracy)"
    assert table.columns == ("Executive", "method", "0N", "1N", "2N")
    assert table.rows == (
        ("large", "BM25", "1.000", "0.000 (-1.000)", "0.000 (-1.000)"),
        ("large", "MeMo small, structured", "1.000", "", "1.000 (+0.000)"),
    )
    assert noise_series(levels())["large", "MeMo small, structured"][0].mean == 1.0, "the best epoch"


def test_a_figure_with_noise_and_epochs(tmp_path: Path) -> None:
    draw(levels(), tmp_path / "all.png")
    draw(summaries([given(1, "a", None, said=None)]), tmp_path / "one.png")
    sizes = [(tmp_path / name).read_bytes()[:24] for name in ("all.png", "one.png")]
    widths = [int.from_bytes(head[16:20]) for head in sizes]
    assert widths[0] > 2 * widths[1], "a panel for noise and one for epochs"


def test_answers_are_written_a_line_each(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.jsonl", three_runs())
    rows = [GivenAnswer.model_validate_json(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert rows == three_runs()
    with pytest.raises(DatasetError, match="cannot be written"):
        write_answers(tmp_path / "answers.jsonl" / "x", rows)
