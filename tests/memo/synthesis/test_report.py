"""What is told of a synthesis: by its pairs alone, and by what its run noted."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from memlora_plugins.errors import DatasetError
from memlora_plugins.memo.reflections import Reflection, Step, write_rows
from memlora_plugins.memo.synthesis.asking import StepFailure
from memlora_plugins.memo.synthesis.crossing import GroupPlan
from memlora_plugins.memo.synthesis.derivation import derived, extracted
from memlora_plugins.memo.synthesis.options import SynthesisOptions
from memlora_plugins.memo.synthesis.report import (
    RunReport,
    StepWork,
    gzip_ratio,
    markdown,
    notes,
    read_report,
    report_of,
    tables,
    write,
)

ADA = extracted("1a", "Where was Ada born?", "Porto", "a")
BEN = extracted("1b", "Where was Ben born?", "Porto", "b")
JOINED = derived("2", "Who was Ada?", "born in Porto", [ADA])
SHARED = derived("5", "What do Ada and Ben share?", "Porto", [JOINED, BEN], "g")
PAIRS = [ADA, BEN, JOINED, SHARED]


def a_run(**changes: Any) -> RunReport:
    work: dict[Step, StepWork] = {
        "1a": StepWork(calls=2, retries=1, input_tokens=10, output_tokens=5, made=3, cost=0.5),
        "5": StepWork(calls=1, made=2),
    }
    values: dict[str, Any] = {
        "generator": "large",
        "options": SynthesisOptions(),
        "documents": 2,
        "chunks": 2,
        "skipped": (),
        "steps": work,
        "made": 5,
        "discarded": {},
        "kinds": {"parallel": 2},
        "groups": (GroupPlan(group="g", chunks=2, pairs=1, compared=1),),
        "left_out": 0,
        "not_compared": 0,
        "not_shown": 0,
        "failures": (),
        "calls": 3,
        "resumed": 1,
        "retries": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "cost": 0.5,
        "occupancy": 0.97,
        "seconds": 2.0,
    }
    return RunReport(**values | changes)


def test_pairs_tell_their_steps_their_lineage_and_how_much_they_repeat() -> None:
    report = report_of([*PAIRS, extracted("1a", "Where was Ada  born?", "Lisbon", "c")])
    pairs = report.pairs
    assert (pairs.total, pairs.ambiguous) == (5, 1)
    assert pairs.kept == {"1a": 2, "1b": 1, "2": 1, "3": 0, "4": 0, "5": 1}
    assert pairs.without == {"1a": 0.2, "1b": 0.6, "2": 0.6, "3": 1, "4": 1, "5": 0.8}
    assert pairs.documents == {1: 4, 2: 1}
    assert (report.run, report.retention) == (None, None)


def test_the_ratio_is_that_of_gzip_at_level_9() -> None:
    texts = [f"Where was Ada{n} born? In Porto, ä." for n in range(300)]
    whole = "".join(f"{text}\n" for text in texts).encode()
    assert gzip_ratio(texts) == pytest.approx(len(whole) / len(gzip.compress(whole, 9)), rel=1e-3)
    assert gzip_ratio([]) is None


def test_a_folder_with_pairs_alone_can_be_told_of(tmp_path: Path) -> None:
    write_rows(tmp_path / "reflections.jsonl", PAIRS)
    report = read_report(tmp_path)
    assert report == report_of(PAIRS)
    assert notes(report) == ["Nothing is known of the run that made these pairs: there is no report.json."]
    steps, whole = tables(report)
    assert steps.rows[0][:4] == ("1a direct facts", "", "1", "0.250")
    assert dict(whole.rows)["pairs with several documents"] == "1"  # type: ignore[arg-type]


def test_pairs_are_measured_anew_and_the_run_is_remembered(tmp_path: Path) -> None:
    write(report_of(PAIRS, a_run()), tmp_path)
    write_rows(tmp_path / "reflections.jsonl", PAIRS[:2])
    report = read_report(tmp_path)
    assert (report.pairs.total, report.run, report.retention) == (2, a_run(), 0.4)


def test_a_run_without_pairs_is_told_of(tmp_path: Path) -> None:
    write(report_of([], a_run(made=0)), tmp_path)
    write_rows(tmp_path / "reflections.jsonl", [])
    report = read_report(tmp_path)
    assert (report.pairs.total, report.pairs.gzip_ratio, report.retention) == (0, None, None)
    assert "No pair came of it." in notes(report)


@pytest.mark.parametrize("content", ["{", '{"pairs": 1}', "\udcff"])
def test_what_is_no_report(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DatasetError, match=r"report\.json cannot be read as a report"):
        read_report(tmp_path)


def test_a_folder_without_anything(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"reflections\.jsonl cannot be read"):
        read_report(tmp_path)


def test_everything_that_went_wrong_is_said() -> None:
    failure = StepFailure(step="1a", unit="a#1", error="PromptTooLongError", message="Too | long.")
    run = a_run(
        skipped=("x.bin: binary", "y.bin: binary"),
        failures=(failure,) * 30,
        discarded={"duplicate": 1, "blank": 4},
        groups=(GroupPlan(group="big", chunks=9, pairs=36, compared=15),),
        left_out=21,
        not_shown=7,
        steps={"1a": StepWork(cut_off=3, failed=30)},
    )
    told = "\n".join(notes(report_of(PAIRS, run)))
    for words in (
        "2 document(s) were skipped, the first: x.bin: binary.",
        "30 time(s) a step failed, the first: step 1a of a#1, Too | long.",
        "3 replies had no end",
        "left out 21 of 36 pairs of chunks",
        "no room for 7 pairs",
    ):
        assert words in told
    found = {table.title: table for table in tables(report_of(PAIRS, run))}
    assert found["Discarded"].rows == (("blank", "4"), ("duplicate", "1"))
    assert found["Left out in step 5"].rows == (("big", "9", "15", "21"),)
    assert len(found["What failed"].rows) == 20
    assert found["Pairs by step"].rows[0][6:8] == ("3", "30")


def test_without_groups_step_5_says_that_it_had_nothing_to_do() -> None:
    [told] = notes(report_of(PAIRS, a_run(groups=())))
    assert "no groups, so step 5 compared nothing. Group it by" in told
    assert notes(report_of(PAIRS, a_run(groups=(), steps={}))) == []


def test_the_summary_and_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(PAIRS, a_run(discarded={"duplicate": 2}))
    write(report, tmp_path)
    summary = (tmp_path / "summary.md").read_text()
    assert summary == markdown(report)
    assert "| 1a direct facts | 3 | 1 | 0.250 | 2 | 1 | 0 | 0 | 10 | 5 | 0.5000 |" in summary
    assert "| occupancy | 0.97 of 8 calls at once |" in summary
    assert "| retention | 0.800 of 5 made |" in summary
    assert "| parallel, step 5 | 2 |" in summary
    assert "(synthesis.png)" in summary
    assert (tmp_path / "synthesis.png").stat().st_size > 1000

    monkeypatch.setattr("memlora_plugins.memo.synthesis.report.find_spec", lambda name: None)
    write(report, tmp_path / "plain")
    assert "install matplotlib" in (tmp_path / "plain" / "summary.md").read_text()
    assert not (tmp_path / "plain" / "synthesis.png").exists()


def test_a_picture_of_pairs_alone_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    write(report_of(PAIRS), tmp_path)
    assert (tmp_path / "synthesis.png").exists()
    (tmp_path / "taken" / "synthesis.png").mkdir(parents=True)
    with pytest.raises(DatasetError, match="cannot be written"):
        write(report_of(PAIRS), tmp_path / "taken")
    assert not list((tmp_path / "taken").glob(".*draft"))


def test_ids_are_the_same_in_every_run() -> None:
    again: Reflection = extracted("1a", "Where was Ada born?", "Porto", "a")
    assert again == ADA
    assert extracted("1b", "Where was Ada born?", "Porto", "a").id != ADA.id
    assert extracted("1a", "Where was Ada born?", "Porto", "b").id != ADA.id
    assert SHARED.steps == ("1a", "1b", "2", "5")
