"""Trying all ways to merge: what is kept, what a stopped sweep goes on with, and what it tells."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from merge_models import trained, weights
from reflections_by_heart import held_out
from tiny_model import TinyModel

from memlora_plugins.errors import DatasetError, InvalidInputError, MissingDependencyError, SettingsError
from memlora_plugins.memo.merging import merge, sweep_report
from memlora_plugins.memo.merging.methods import Recipe
from memlora_plugins.memo.merging.sweep import SWEEP, SweepRow, by_recall, sweep


@pytest.fixture(scope="module")
def models(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [trained(tiny_model.path, folder / f"m{n}", seed=n, documents=[f"d{n}"]) for n in range(3)]


class Scores:
    """Scores by what the card of a merged model says; remembers what it was asked."""

    def __init__(self, best: str = "ties", stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self._best = best
        self._stop_after = stop_after

    def __call__(self, folder: Path) -> Mapping[str, float]:
        if len(self.asked) == self._stop_after:
            raise KeyboardInterrupt
        assert (folder / "model.safetensors").is_file() or (folder / "adapter_model.safetensors").is_file()
        told = json.loads((folder / "memlora.json").read_text())["merge"]
        self.asked.append(told["method"])
        return {"recall": (told["method"] == self._best) * 0.5 - 0.1 * told.get("density", 0), "other": 1.0}


def test_the_paper_tries_14() -> None:
    assert len(SWEEP) == 14
    assert len({recipe.label for recipe in SWEEP}) == 14
    assert {recipe.method for recipe in SWEEP} == {
        "linear", "task_arithmetic", "slerp", "ties", "dare_linear", "dare_ties",
    }  # fmt: skip


def test_the_best_is_kept_and_told_of(tiny_model: TinyModel, models: list[Path], tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    rows = sweep(
        tiny_model.path, models[:2], tmp_path, score=Scores(), full_training=0.9,
        on_step=lambda *step: steps.append(step),
    )  # fmt: skip
    assert [row.recipe.label for row in rows] == [recipe.label for recipe in SWEEP]
    [best] = [row for row in rows if row.folder is not None]
    assert best.recipe.label == "ties, density 0.3"
    assert best.folder == tmp_path / "best"
    assert steps[0] == ("linear", 0, 14)
    assert steps[-1] == ("", 14, 14)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "best", "report.json", "runs.jsonl", "summary.md", "sweep.json", "sweep.png",
    ]  # fmt: skip
    expected = weights(merge(tiny_model.path, models[:2], tmp_path / "x" / "y", density=0.3).folder)
    found = weights(tmp_path / "best")
    assert all(found[name].equal(expected[name]) for name in expected)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["full_training"] == 0.9
    assert [one["folder"] for one in report["configurations"] if one["folder"]] == ["best"]
    summary = (tmp_path / "summary.md").read_text()
    assert "Best of 14: ties, density 0.3" in summary
    assert "+0.4300 against the best merge" in summary
    assert "| slerp | t = 0.7 | 0.0000 | 1.0000 |" in summary
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_stopped_sweep_goes_on(tiny_model: TinyModel, models: list[Path], tmp_path: Path) -> None:
    configurations = [Recipe(method="ties", density=0.5), Recipe(method="linear"), Recipe(method="ties", density=0.5)]
    with pytest.raises(KeyboardInterrupt):
        sweep(tiny_model.path, models, tmp_path, score=Scores(stop_after=1), configurations=configurations)
    again = Scores()
    rows = sweep(tiny_model.path, models, tmp_path, score=again, configurations=configurations)
    assert again.asked == ["linear"]
    assert [row.folder is not None for row in rows] == [True, False]
    assert not (tmp_path / "tried").exists()
    (tmp_path / "best" / "memlora.json").write_text("{}")  # spoilt since
    none = Scores()
    sweep(tiny_model.path, models, tmp_path, score=none, configurations=configurations)
    assert none.asked == []
    assert json.loads((tmp_path / "best" / "memlora.json").read_text())["merge"]["method"] == "ties"


def test_only_the_same_sweep_goes_on(tiny_model: TinyModel, models: list[Path], tmp_path: Path) -> None:
    one = [Recipe(method="linear")]
    sweep(tiny_model.path, models, tmp_path, score=Scores(), configurations=one, scored_by="these questions")
    with pytest.raises(InvalidInputError, match="another scoring"):
        sweep(tiny_model.path, models, tmp_path, score=Scores(), configurations=one, scored_by="others")
    with pytest.raises(InvalidInputError, match="another models"):
        sweep(tiny_model.path, models[:2], tmp_path, score=Scores(), configurations=one, scored_by="these questions")


def test_slerp_is_left_out_where_there_are_three(
    tiny_model: TinyModel, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memlora_plugins.memo.merging.sweep.SWEEP", (Recipe(method="linear"), Recipe(method="slerp")))
    rows = sweep(tiny_model.path, models, tmp_path, score=Scores())
    assert [row.recipe.method for row in rows] == ["linear"]
    with pytest.raises(SettingsError, match="slerp merges two"):
        sweep(tiny_model.path, models, tmp_path, score=Scores(), configurations=[Recipe(method="slerp")])
    with pytest.raises(SettingsError, match="no configuration"):
        sweep(tiny_model.path, models, tmp_path, score=Scores(), configurations=[])


def test_adapters_of_a_rank(tiny_model: TinyModel, tmp_path: Path) -> None:
    adapters = [tiny_model.adapters["extraction"], tiny_model.adapters["update"]]
    sweep(tiny_model.path, adapters, tmp_path, score=Scores(), configurations=[Recipe(method="linear")], rank=4)
    assert (tmp_path / "best" / "adapter_config.json").is_file()


@pytest.mark.parametrize("scores", [{}, {"recall": math.nan}])
def test_a_score_is_a_number(
    tiny_model: TinyModel, models: list[Path], tmp_path: Path, scores: dict[str, float]
) -> None:
    with pytest.raises(InvalidInputError, match="finite number"):
        sweep(tiny_model.path, models, tmp_path, score=lambda folder: scores, configurations=[Recipe(method="linear")])


def test_rows_that_are_none(tiny_model: TinyModel, models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text('{"recipe": {"method": "average"}}\n')
    with pytest.raises(DatasetError, match="line 1 is no row of a sweep"):
        sweep(tiny_model.path, models, tmp_path, score=Scores(), configurations=[Recipe(method="linear")])


def test_a_folder_that_cannot_be_written(
    tiny_model: TinyModel, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweep_report, "write", no_room)
    with pytest.raises(DatasetError, match="No space left"):
        sweep(tiny_model.path, models, tmp_path, score=Scores(), configurations=[Recipe(method="linear")])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweep_report, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        sweep(tmp_path, [tmp_path], tmp_path, score=Scores())


def test_recall_of_held_out_questions(tiny_model: TinyModel, models: list[Path], tmp_path: Path) -> None:
    merged = merge(tiny_model.path, models, tmp_path / "merged", rank=None)
    found = by_recall(held_out(), device="cpu")(merged.folder)
    assert found.keys() == {"recall", "exact", "recall, entity", "recall, fact"}
    assert all(0 <= value <= 1 for value in found.values())
    with pytest.raises(DatasetError, match="no held-out"):
        by_recall([])


def test_a_plot_without_lines_over_density(tmp_path: Path) -> None:
    row = SweepRow(Recipe(method="linear"), {"recall": 0.5}, 1, 1, 1, tmp_path / "best")
    sweep_report.write([row], tmp_path)
    assert "Full training" not in (tmp_path / "summary.md").read_text()
