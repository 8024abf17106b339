"""The recipe from an empty folder to the card, on a very small scale: real training, real serving, real pipeline."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import NamedWordEmbedder

from memlora_plugins.errors import InvalidInputError
from memlora_plugins.evaluation.pipeline import PipelineSummary
from memlora_plugins.experts import extraction, generation, update
from memlora_plugins.nano.recipe import blank, conversations, corpus, make
from memlora_plugins.nano.recipe.card import card
from memlora_plugins.nano.recipe.make import Kitchen, NanoScores, Recipe, TaskScores, install
from memlora_plugins.nano.recipe.measure import ExtractionScores, GenerationScores, UpdateScores
from memlora_plugins.serving.base import Request
from memlora_plugins.serving.local import LocalBackend

LITTLE = Recipe()
LITTLE = dataclasses.replace(
    LITTLE,
    copy_samples=24,
    compare_samples=24,
    first_samples=24,
    base_samples=36,
    expert_samples=dict.fromkeys(corpus.EXPERTS, 12),
    validation_samples=3,
    test_samples=6,
    conversations=2,
    eval_every=2,
    copy=LITTLE.copy.model_copy(update={"threads": 1}),
    first=LITTLE.first.model_copy(update={"threads": 1}),
    base=LITTLE.base.model_copy(update={"threads": 1}),
    expert=LITTLE.expert.model_copy(update={"rank": 4, "threads": 1}),
)
STEPS = ("copy", "compare", "first", "base", *corpus.EXPERTS, "shared")


@dataclass
class Cooked:
    work: Path
    made: Path
    said: list[str]


@pytest.fixture(scope="module")
def small(monkeypatch_module: pytest.MonkeyPatch) -> None:
    """A smaller model, short replies and short conversations: an untrained model talks until it is stopped."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    monkeypatch_module.setattr(blank, "_SHAPE", {**blank._SHAPE, **shape})
    for expert in (extraction, update, generation):
        monkeypatch_module.setattr(expert, "MAX_TOKENS", 8)
    monkeypatch_module.setattr(conversations, "_TOLD", 3)
    monkeypatch_module.setattr(conversations, "_CHANGED", 1)
    monkeypatch_module.setattr(make, "SentenceTransformerEmbedder", NamedWordEmbedder)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def cooked(small: None, chats_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Cooked:
    work = tmp_path_factory.mktemp("work")
    said: list[str] = []
    return Cooked(work, Kitchen(LITTLE, work, chats_file, NamedWordEmbedder("words"), said.append).cook(), said)


def test_a_recipe_ends_in_a_model_its_experts_scores_and_a_card(cooked: Cooked) -> None:
    assert {path.name for path in cooked.made.iterdir()} == {"base", *corpus.EXPERTS, "scores.json", "CARD.md"}
    assert [line for line in cooked.said if line.endswith(": begins")] == [f"{step}: begins" for step in STEPS]
    assert any("validation loss" in line for line in cooked.said)
    scores = NanoScores.model_validate_json((cooked.made / "scores.json").read_text())
    assert list(scores.tasks) == ["base", "experts", "one shared adapter"]
    assert scores.tasks["experts"].extraction_values.samples == LITTLE.test_samples
    assert list(scores.training) == list(STEPS)
    assert scores.training["base"]["samples"] == LITTLE.base_samples
    assert scores.parameters["base"] == blank.parameters(cooked.made / "base")
    assert 0 < scores.megabytes < 20
    assert all(row.conversations == 2 and row.questions == 6 for row in scores.pipeline.values())
    text = (cooked.made / "CARD.md").read_text()
    for title in ("Extraction", "Update", "Generation", "Training", "one shared adapter"):
        assert title in text


def test_what_was_made_answers_with_its_experts(cooked: Cooked) -> None:
    backend = LocalBackend(cooked.made / "base", {name: cooked.made / name for name in corpus.EXPERTS})
    try:
        for expert in corpus.EXPERTS:
            request = Request(expert, [{"role": "user", "content": "Hello"}], max_tokens=2)
            assert backend.complete(request).model.startswith(f"{expert}@")
    finally:
        backend.close()


def test_a_second_run_trains_nothing_again(
    cooked: Cooked, chats_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, which goes on in the same folder and then installs what was made."""
    before = NanoScores.model_validate_json((cooked.made / "scores.json").read_text())
    weights = (cooked.made / "base" / "model.safetensors").read_bytes()
    installed: list[tuple[Path, Path, bool]] = []

    def no_training(*_: Any, **__: Any) -> None:
        raise AssertionError("this was trained already")

    monkeypatch.setattr(make, "train", no_training)
    monkeypatch.setattr(make, "Recipe", lambda: LITTLE)
    monkeypatch.setattr(make, "install", lambda made, package, force, say: installed.append((made, package, force)))
    monkeypatch.setattr("sys.argv", ["nano", "--dialogues", str(chats_file), "--work", str(cooked.work), "--force"])
    with pytest.raises(SystemExit) as end:
        make.main()
    assert not end.value.code
    assert "begins" not in capsys.readouterr().out
    after = NanoScores.model_validate_json((cooked.made / "scores.json").read_text())
    assert (after.tasks, after.training) == (before.tasks, before.training)
    assert (cooked.made / "base" / "model.safetensors").read_bytes() == weights
    assert installed == [(cooked.made, Path(make.__file__).parents[1], True)]


def test_the_work_of_another_recipe_is_not_continued(cooked: Cooked, chats_file: Path) -> None:
    other = dataclasses.replace(LITTLE, seed=LITTLE.seed + 1)
    with pytest.raises(InvalidInputError, match="another recipe"):
        Kitchen(other, cooked.work, chats_file, NamedWordEmbedder("words"), cooked.said.append).cook()


def test_a_step_that_fails_is_done_again(tmp_path: Path, chats_file: Path) -> None:
    kitchen = Kitchen(LITTLE, tmp_path, chats_file, NamedWordEmbedder("words"), lambda line: None)

    def fails() -> dict[str, float]:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        kitchen._step("base", fails)
    kitchen._step("base", lambda: {"samples": 1.0})
    kitchen._step("base", fails)  # it is done
    assert json.loads((tmp_path / "base.json").read_text())["samples"] == 1


# --- scores, card and installation -----------------------------------------------------------------------------------


def scores(f1: float) -> NanoScores:
    found = ExtractionScores(samples=500, unreadable=1, exact=f1, precision=f1, recall=f1, f1=f1)
    by_operation = {"ADD": 0.9, "UPDATE": 0.8, "NONE": 0.7}
    decided = UpdateScores(samples=500, unreadable=2, accuracy=0.875, by_operation=by_operation, facts={"ADD": 9})
    answered = GenerationScores(samples=500, unreadable=0, accuracy=0.75, by_kind={"known": 0.625})
    task = TaskScores(
        extraction_values=found,
        extraction_phrasings=found,
        update=decided,
        generation=answered,
        generation_phrasings=answered,
    )
    row = PipelineSummary(
        backend="b",
        embedder="e",
        metric="token_f1",
        score=0.5,
        questions=2,
        by_category={},
        conversations=1,
        turns=4,
        facts=1,
        events={"ADD": 1},
        pending=0,
        cut_off=0,
        failures=(),
        usage={},
        remember_seconds=1.0,
        answer_seconds=1.0,
    )
    figures = {"samples": 10.0, "validation_loss": 0.125, "tokens_per_second": 2_000.0, "seconds": 90.0}
    return NanoScores(
        tasks={"base": task, "experts": task, "one shared adapter": task},
        pipeline={"base": row},
        parameters={"base": 4_900_000, "extraction": 100_000, "update": 100_000, "generation": 100_000},
        megabytes=13.5,
        training={"base": figures},
    )


def test_the_card_says_what_was_measured() -> None:
    text = card(scores(0.9375), LITTLE, 180)
    for figure in ("4.9 million", "0.3 million", "13.5 MB", "180 kinds", "0.938", "0.875", "0.625", "0.1250", "1.5"):
        assert figure in text, figure
    assert "{" not in text
    assert "500 exchanges each" in text


def finished(folder: Path, f1: float) -> Path:
    for name in ("base", *corpus.EXPERTS):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_text(str(f1))
    (folder / "scores.json").write_text(scores(f1).model_dump_json())
    (folder / "CARD.md").write_text(f"card {f1}")
    return folder


@pytest.mark.parametrize(
    ("there", "new", "force", "expected"),
    [(None, 0.5, False, 0.5), (0.5, 0.6, False, 0.6), (0.6, 0.5, False, 0.6), (0.5, 0.5, False, 0.5)],
)
def test_only_a_better_one_is_installed(
    tmp_path: Path, there: float | None, new: float, force: bool, expected: float
) -> None:
    made, package = finished(tmp_path / "made", new), tmp_path / "package"
    package.mkdir()
    said: list[str] = []
    if there is not None:
        install(finished(tmp_path / "old", there), package, force=False, say=said.append)
        (package / "base" / "left-over").write_text("x")
    better = there is None or new > there
    assert install(made, package, force=force, say=said.append) == better
    assert (package / "CARD.md").read_text() == f"card {expected}"
    for name in ("base", *corpus.EXPERTS):
        assert (package / name / "weights").read_text() == str(expected)
    assert (package / "base" / "left-over").exists() == (not better)
    assert said[-1].startswith("installed" if better else "kept what was there")


def test_a_worse_one_is_installed_by_force(tmp_path: Path) -> None:
    package = finished(tmp_path / "package", 0.9)
    assert install(finished(tmp_path / "made", 0.2), package, force=True, say=lambda line: None)
    assert (package / "base" / "weights").read_text() == "0.2"
