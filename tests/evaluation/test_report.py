"""Measurements as tables."""

from __future__ import annotations

from pathlib import Path

from memlora_plugins.evaluation import plots
from memlora_plugins.evaluation.harness.usage import ExpertUsage
from memlora_plugins.evaluation.pipeline import CategoryScore, FailureCount, PipelineSummary
from memlora_plugins.evaluation.report import Table, change, keep_private, pipeline_tables, told
from memlora_plugins.evaluation.statistics import Interval


def summary(score: float, **changed: object) -> PipelineSummary:
    values: dict[str, object] = {
        "backend": "student",
        "embedder": "words",
        "metric": "token_f1",
        "score": score,
        "questions": 4,
        "by_category": {4: CategoryScore(questions=4, score=score)},
        "conversations": 1,
        "turns": 9,
        "facts": 5,
        "events": {"ADD": 5},
        "pending": 1,
        "cut_off": 0,
        "failures": (),
        "usage": {"extraction": ExpertUsage(calls=4, input_tokens=411, output_tokens=10, seconds=2.0)},
        "remember_seconds": 3.0,
        "answer_seconds": 1.5,
    }
    return PipelineSummary.model_validate(values | changed)


def test_the_ablation_as_the_paper_has_it() -> None:
    failure = FailureCount(stage="update", error="ReplyError", count=3, example="no\nJSON")
    usage = {"update": ExpertUsage(calls=1, input_tokens=50, output_tokens=7, seconds=0.25)}
    rows = {
        "base": summary(0.0),
        "+ extraction": summary(0.2),
        "+ update": summary(
            0.25, failures=(failure,), usage=usage, by_category={7: CategoryScore(questions=4, score=1)}
        ),
    }
    scores, tokens_in, tokens_out, seconds, calls, failed = pipeline_tables(rows)
    assert scores.columns[:5] == ("pipeline", "token_f1", "change", "single-hop", "category 7")
    assert [row[1:5] for row in scores.rows] == [
        ("0.0000", "", "0.0000", ""),
        ("0.2000", "", "0.2000", ""),  # there is no percentage of nothing
        ("0.2500", "+25%", "", "1.0000"),
    ]
    assert scores.rows[2][5:] == ("4", "5", "1", "3", "4.5")
    assert tokens_in.columns == ("pipeline", "extraction", "update")
    assert [row[1:] for row in tokens_in.rows] == [("102.75", ""), ("102.75", ""), ("", "50.00")]
    assert [table.rows[0][1] for table in (tokens_out, seconds, calls)] == ["2.50", "0.500", "4"]
    assert failed.rows == (("+ update", "update", "ReplyError", "3", "no\nJSON"),)
    assert "change" not in pipeline_tables(rows, changes=False)[0].columns
    assert len(pipeline_tables({"base": summary(0.5)})) == 5


def test_markdown_keeps_every_row_on_its_line() -> None:
    told = Table("What failed", ("a", "b"), (("x | y", "two\nlines"),)).markdown()
    assert told == "## What failed\n\n| a | b |\n| --- | --- |\n| x \\| y | two lines |\n"


def test_an_interval_in_words_and_as_error_bars() -> None:
    within, rounded = (
        Interval(mean=0.5, low=0.25, high=1.0),
        Interval.model_construct(mean=0.3, low=0.3 + 1e-16, high=0.3),
    )
    assert told(within) == "0.500 [0.250, 1.000]"
    assert plots.errors([within, rounded]) == [[0.25, 0.0], [0.5, 0.0]], "a bar of less than nothing cannot be drawn"


def test_what_holds_texts_is_left_to_git_and_a_list_that_is_there_stays(tmp_path: Path) -> None:
    keep_private(tmp_path / "out", ["a.jsonl"])
    keep_private(tmp_path / "out", ["a.jsonl", "b.jsonl"])
    assert (tmp_path / "out" / ".gitignore").read_text() == "/a.jsonl\n/.*.draft\n/b.jsonl\n"
    (tmp_path / ".gitignore").write_text("*.png")
    keep_private(tmp_path, ["a.jsonl"])
    assert (tmp_path / ".gitignore").read_text() == "*.png\n/a.jsonl\n/.*.draft\n"


def test_a_change_in_percent() -> None:
    assert [change(before, now) for before, now in ((0.2, 0.25), (0.5, 0.25), (0.0, 1.0), (None, 1.0))] == [
        "+25%",
        "-50%",
        "",
        "",
    ]
