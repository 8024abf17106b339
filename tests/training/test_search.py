"""The expert search: what is trained, what is measured, what is kept, and that nothing finished is done twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from scripted import WordEmbedder
from tiny_model import TinyModel

from memlora_plugins import AdapterError, BackendUnavailableError, Message
from memlora_plugins.errors import DatasetError, InvalidInputError, MissingDependencyError, TrainingError
from memlora_plugins.evaluation.conversations import Conversation, Question
from memlora_plugins.evaluation.harness.usage import ExpertUsage
from memlora_plugins.evaluation.metrics import Metric, exact_match, metric_name
from memlora_plugins.evaluation.pipeline import CategoryScore, FailureCount, PipelineResult, ScoredAnswer
from memlora_plugins.training import search as module
from memlora_plugins.training import search_report
from memlora_plugins.training.dataset import ChatLine, Sample
from memlora_plugins.training.options import TrainingOptions
from memlora_plugins.training.runs import SearchOptions, SearchReport
from memlora_plugins.training.trainer import TrainedExpert

STAGES = ("extraction", "update", "generation")
QUESTIONS = 20
LOSSES = {1e-4: 2.0, 2e-4: 1.0, 5e-4: 3.0}
GAINS = {1e-4: 1, 2e-4: 3, 5e-4: 0}
"""Questions more that a pipeline answers for an expert trained with this learning rate."""


def talk(id: str) -> Conversation:
    return Conversation(id, ((None, Message("user", "I live in Lisbon.")),), (Question("Which city?", "Lisbon"),))


def samples(stage: str, conversation: str, count: int = 2) -> list[Sample]:
    return [
        Sample(
            id=f"{conversation}-{number}",
            expert=stage,
            conversation=conversation,
            messages=(ChatLine(role="user", content=f"What is fact {number}?"),),
            reply='{"facts":["I live in Lisbon"]}',
        )
        for number in range(count)
    ]


class Trainer:
    """Stands in for `train`: an adapter is a folder, its loss is in a table; what is finished is not trained again."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, float, int]] = []
        self.failing: Mapping[tuple[str, float], Exception] = {}

    def __call__(
        self, expert: str, base: Path, train: Sequence[Sample], validation: Sequence[Sample], out: Path,
        options: TrainingOptions, *, resume: bool, on_event: Callable[[Any], None],
    ) -> TrainedExpert:  # fmt: skip
        assert {sample.expert for sample in (*train, *validation)} == {expert}
        assert resume
        if not out.exists():
            self.trained.append((expert, options.learning_rate, options.batch_size))
        if error := self.failing.get((expert, options.learning_rate)):
            raise error
        out.mkdir(parents=True, exist_ok=True)
        return TrainedExpert(out, LOSSES[options.learning_rate], 100.0, 3.0, {"metrics": {"seconds": 1.5}})


class Student:
    """Stands in for backends and for `evaluate`: a pipeline answers two questions, and what each expert gains."""

    def __init__(self) -> None:
        self.opened: list[dict[str, str]] = []
        self.gain: Callable[[dict[str, float]], int] = lambda rates: sum(GAINS[rate] for rate in rates.values())
        self.failing: Exception | None = None

    def __call__(self, adapters: Mapping[str, str | Path]) -> Any:
        self.opened.append({stage: Path(folder).parent.name for stage, folder in adapters.items()})
        return self.opened[-1]

    def evaluate(
        self, conversations: Sequence[Conversation], backend: Any, embedder: Any, *, metric: Metric,
        progress: Callable[[int, int], None], **options: Any,
    ) -> PipelineResult:  # fmt: skip
        assert options["concurrency"] == 8
        if self.failing is not None:
            raise self.failing
        [conversation] = conversations
        right = 2 + self.gain({stage: float(name.split("-bs")[0][2:]) for stage, name in backend.items()})
        answers = ["yes" if number < right else "no" for number in range(QUESTIONS)]
        scores = [metric(said, "yes") for said in answers]
        progress(QUESTIONS, QUESTIONS)
        return PipelineResult(
            backend="student",
            embedder=embedder.name,
            metric=metric_name(metric),
            score=sum(scores) / QUESTIONS,
            questions=QUESTIONS,
            by_category={1: CategoryScore(questions=QUESTIONS, score=sum(scores) / QUESTIONS)},
            conversations=1,
            turns=1,
            facts=1,
            events={"ADD": 1},
            pending=0,
            cut_off=0,
            failures=(FailureCount(stage="update", error="ReplyError", count=2, example="not JSON"),),
            usage={"extraction": ExpertUsage(calls=2, input_tokens=25, output_tokens=5, seconds=1.0)},
            remember_seconds=1.0,
            answer_seconds=2.0,
            answers=tuple(
                ScoredAnswer(conversation=conversation.id, question="?", expected="yes", answer=said, score=score)
                for said, score in zip(answers, scores, strict=True)
            ),
        )


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    made = Trainer()
    monkeypatch.setattr(module, "train", made)
    return made


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> Student:
    made = Student()
    monkeypatch.setattr(module, "evaluate", made.evaluate)
    return made


@pytest.fixture
def run(tmp_path: Path, trainer: Trainer, student: Student) -> Callable[..., SearchReport]:
    """Runs a search in `tmp_path / "out"`; keywords override what is searched over, and fields of the options."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")

    def run(**changed: Any) -> SearchReport:
        given = {
            "base": base,
            "train_samples": {stage: samples(stage, "train-1") for stage in STAGES},
            "validation_samples": {stage: samples(stage, "validation-1") for stage in STAGES},
            "validation": [talk("validation-1")],
            "test": [talk("test-1")],
            "out": tmp_path / "out",
            "embedder": WordEmbedder(),
            "metric": exact_match,
            "open_backend": student,
        }
        options = {"learning_rates": (1e-4, 2e-4, 5e-4), "batch_sizes": (8,)}
        extras = {name: changed.pop(name) for name in [*given, "settings", "on_step"] if name in changed}
        return module.search(**(given | extras), options=SearchOptions(**(options | changed)))

    return run


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]


def test_stages_are_searched_in_order_each_over_the_best_before_it(
    run: Callable[..., SearchReport], student: Student, trainer: Trainer, tmp_path: Path
) -> None:
    report = run(top=2, tolerance=0.5)
    best = "lr0.0002-bs8"
    assert trainer.trained == [(stage, rate, 8) for stage in STAGES for rate in (1e-4, 2e-4, 5e-4)]
    assert student.opened[:4] == [
        {},
        {"extraction": "lr0.0001-bs8"},
        {"extraction": best},
        {"extraction": "lr0.0005-bs8"},
    ]
    assert student.opened[4] == {"extraction": best, "update": "lr0.0001-bs8"}
    assert student.opened[7] == {"extraction": best, "update": best, "generation": "lr0.0001-bs8"}
    assert report.candidates == dict.fromkeys(STAGES, (best, "lr0.0001-bs8"))
    assert report.best == dict.fromkeys(STAGES, best)
    assert {stage: folder.parent.name for stage, folder in report.adapters.items()} == report.best
    assert (report.base.score, report.validation.score, report.held_out.score) == (0.1, 0.55, 0.55)
    assert (report.held_out_looks, report.notes) == (1, ())
    combinations = [run for run in report.runs if run.split == "validation" and run.expert is None and run.pipeline]
    assert len(combinations) == 8 - 2  # two of them were measured while searching generation
    assert len(student.opened) == len(report.runs) == len(rows(tmp_path)) == 1 + 9 + 6 + 1


def test_a_row_tells_everything_about_its_run(run: Callable[..., SearchReport], tmp_path: Path) -> None:
    run(experts=("update",), learning_rates=(2e-4,), batch_sizes=(4,))
    base, update, held_out = rows(tmp_path)
    assert (base["pipeline"], base["split"], base["score"]) == ({}, "validation", 0.1)
    told = {
        name: update[name] for name in ("expert", "learning_rate", "batch_size", "seed", "validation_loss", "score")
    }
    assert told == {
        "expert": "update",
        "learning_rate": 2e-4,
        "batch_size": 4,
        "seed": 7,
        "validation_loss": 1.0,
        "score": 0.25,
    }
    assert (update["tokens_per_second"], update["epochs"], update["metric"]) == (100.0, 3.0, "exact_match")
    assert update["training_seconds"] == 1.5
    assert update["seconds"] == 3.0
    assert (tmp_path / "out" / update["folder"]).is_dir()
    assert len(json.loads((tmp_path / "out" / update["details"]).read_text())["answers"]) == QUESTIONS
    assert update["result"]["by_category"]["1"]["questions"] == QUESTIONS
    assert (held_out["split"], held_out["pipeline"]) == ("held-out", {"update": "lr0.0002-bs4"})


def test_candidates_are_near_the_best(run: Callable[..., SearchReport]) -> None:
    assert run(experts=("extraction",), top=3, tolerance=0.0).candidates == {"extraction": ("lr0.0002-bs8",)}
    assert len(run(experts=("extraction",), top=3, tolerance=0.1).candidates["extraction"]) == 2
    assert len(run(experts=("extraction",), top=2, tolerance=1.0).candidates["extraction"]) == 2


def test_the_lower_validation_loss_decides_between_equals(run: Callable[..., SearchReport], student: Student) -> None:
    student.gain = lambda rates: 5 * len(rates)
    report = run(experts=("extraction",), top=3)
    assert report.candidates == {"extraction": ("lr0.0002-bs8", "lr0.0001-bs8", "lr0.0005-bs8")}
    assert report.best == {"extraction": "lr0.0002-bs8"}


def test_a_combination_of_the_second_best_may_win(run: Callable[..., SearchReport], student: Student) -> None:
    def gain(rates: dict[str, float]) -> int:
        together = rates.get("extraction") == rates.get("generation") == 1e-4
        return 10 if together else sum(GAINS[rate] for rate in rates.values())

    student.gain = gain
    report = run(experts=("generation", "extraction"), top=2, tolerance=1.0, learning_rates=(1e-4, 2e-4))
    assert report.best == {"extraction": "lr0.0001-bs8", "generation": "lr0.0001-bs8"}
    assert report.held_out.pipeline == report.best
    assert report.validation.score == 0.6


def test_nothing_finished_is_done_twice(
    run: Callable[..., SearchReport], student: Student, trainer: Trainer, tmp_path: Path
) -> None:
    first = run(experts=("extraction", "update"))
    file = tmp_path / "out" / "runs.jsonl"
    whole = file.read_bytes()
    student.opened.clear()
    trainer.trained.clear()
    less_memory = TrainingOptions(device_batch_size=4, gradient_checkpointing=True)
    assert run(experts=("extraction", "update"), training=less_memory) == first
    assert (student.opened, trainer.trained, file.read_bytes()) == ([], [], whole)

    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:40])  # killed while it wrote the fourth row
    assert run(experts=("extraction", "update")).best == first.best
    assert trainer.trained == []  # the expert of that row was trained to its end
    assert student.opened[0] == first.runs[3].pipeline
    assert len(rows(tmp_path)) == len(first.runs)


def test_a_larger_grid_goes_on_and_counts_the_looks_at_held_out(
    run: Callable[..., SearchReport], trainer: Trainer
) -> None:
    first = run(experts=("extraction",), learning_rates=(1e-4,))
    assert (first.best, first.held_out_looks) == ({"extraction": "lr0.0001-bs8"}, 1)
    second = run(experts=("extraction",), learning_rates=(1e-4, 2e-4))
    assert trainer.trained == [("extraction", 1e-4, 8), ("extraction", 2e-4, 8)]
    assert (second.best, second.held_out_looks) == ({"extraction": "lr0.0002-bs8"}, 2)
    assert "2 combinations were measured on the held-out conversations" in second.notes[0]


def test_a_run_that_fails_is_a_row_and_the_search_goes_on(
    run: Callable[..., SearchReport], trainer: Trainer, tmp_path: Path
) -> None:
    trainer.failing = {("extraction", 2e-4): TrainingError("the loss is not a number")}
    report = run(experts=("extraction",))
    assert report.best == {"extraction": "lr0.0001-bs8"}
    [failed] = [run for run in report.runs if run.error]
    assert failed.error == "TrainingError: the loss is not a number"
    assert (failed.score, failed.learning_rate) == (None, 2e-4)
    assert report.notes == ("1 of 3 runs of extraction failed; their rows say why.",)
    assert "the loss is not a number" in (tmp_path / "out" / "summary.md").read_text()
    trainer.failing = {}
    assert run(experts=("extraction",)).best == {"extraction": "lr0.0002-bs8"}  # tried again
    assert len([row for row in rows(tmp_path) if row.get("learning_rate") == 2e-4]) == 2


def test_a_stage_without_a_usable_expert_is_left_to_the_base(
    run: Callable[..., SearchReport], trainer: Trainer, student: Student
) -> None:
    trainer.failing = {("extraction", rate): TrainingError("no") for rate in LOSSES}
    report = run(experts=("extraction", "update"))
    assert report.candidates["extraction"] == ()
    assert report.best == {"update": "lr0.0002-bs8"}
    assert "that stage is the base model" in report.notes[0]
    with pytest.raises(TrainingError, match=r"Every configuration failed; .*runs\.jsonl .*: no"):
        run(experts=("extraction",))
    assert {"extraction"} not in [set(names) for names in student.opened]


def test_experts_that_do_not_help_are_said_not_to(run: Callable[..., SearchReport], student: Student) -> None:
    student.gain = lambda rates: 0
    assert "no better than the base model" in run(experts=("update",)).notes[0]


def test_a_backend_that_fails_later_is_a_failed_run_only_where_the_adapter_is_why(
    run: Callable[..., SearchReport], trainer: Trainer, student: Student
) -> None:
    run(experts=("extraction",), learning_rates=(1e-4,))
    student.failing = BackendUnavailableError("nobody there")
    with pytest.raises(BackendUnavailableError):
        run(experts=("extraction",))
    student.failing = AdapterError("its rank is too high")
    report = run(experts=("extraction",))
    assert [run.error for run in report.runs if run.error] == ["AdapterError: its rank is too high"] * 2
    assert len(trainer.trained) == 3


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"test": [talk("validation-1")]}, DatasetError, "validation-1 in both validation and held-out"),
        ({"test": [talk("train-1")]}, DatasetError, "train-1 in both training and held-out"),
        ({"validation": [talk("train-1")]}, DatasetError, "train-1 in both training and validation"),
        ({"test": []}, DatasetError, "held-out split is empty"),
        ({"train_samples": {}}, DatasetError, "no training sample for extraction"),
        (
            {"validation_samples": {"extraction": samples("extraction", "v")}},
            DatasetError,
            "validation sample for update",
        ),
    ],
)
def test_splits_are_checked_before_anything_is_trained(
    run: Callable[..., SearchReport], trainer: Trainer, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(**changed)
    assert trainer.trained == []


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"test": [talk("test-2")]}, "held-out conversations"),
        ({"train_samples": {stage: samples(stage, "train-1", 3) for stage in STAGES}}, "training samples of update"),
        ({"training": TrainingOptions(rank=4)}, "training options"),
        ({"metric": lambda answer, gold: 1.0}, "metric"),
    ],
)
def test_a_folder_with_another_search_is_refused(
    run: Callable[..., SearchReport], changed: dict[str, Any], what: str
) -> None:
    run(experts=("update",), learning_rates=(1e-4,))
    with pytest.raises(InvalidInputError, match=f"another .*{what}"):
        run(experts=("update",), learning_rates=(1e-4,), **changed)


def test_damaged_files_are_named(run: Callable[..., SearchReport], tmp_path: Path) -> None:
    run(experts=("update",), learning_rates=(1e-4,))
    file = tmp_path / "out" / "runs.jsonl"
    whole = file.read_text()
    file.write_text("{\n" + whole)
    with pytest.raises(DatasetError, match=r"runs\.jsonl, line 1 is damaged"):
        run()
    file.write_text('{"split": "elsewhere"}\n' + whole)
    with pytest.raises(DatasetError, match=r"runs\.jsonl, line 1 is no run of a search"):
        run()
    (tmp_path / "out" / "search.json").write_text("[")
    with pytest.raises(InvalidInputError, match=r"search\.json cannot be read"):
        run()


def test_one_search_at_a_time(run: Callable[..., SearchReport], tmp_path: Path) -> None:
    from memlora_plugins.training.journal import Journal

    with Journal(tmp_path / "out" / "runs.jsonl"), pytest.raises(DatasetError, match="Another process"):
        run()
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        run(out=tmp_path / "file" / "out")


def test_a_disk_that_is_full_costs_one_row(
    run: Callable[..., SearchReport], trainer: Trainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = module.write_whole

    def full(file: Path, text: str) -> None:
        if "held-out" in file.parts:
            raise OSError(28, "No space left on device")
        kept(file, text)

    monkeypatch.setattr(module, "write_whole", full)
    with pytest.raises(DatasetError, match="No space left"):
        run(experts=("update",))
    monkeypatch.setattr(module, "write_whole", kept)
    trainer.trained.clear()
    assert run(experts=("update",)).held_out.score == 0.25
    assert trainer.trained == []
    assert len(rows(tmp_path)) == 5


def test_steps_are_told(run: Callable[..., SearchReport]) -> None:
    heard: dict[str, tuple[int, int]] = {}
    run(
        experts=("update",),
        learning_rates=(1e-4,),
        on_step=lambda what, done, total: heard.update({what: (done, total)}),
    )
    assert heard == {
        "base: validation": (QUESTIONS, QUESTIONS),
        "update lr0.0001-bs8: validation": (QUESTIONS, QUESTIONS),
        "update lr0.0001-bs8: held-out": (QUESTIONS, QUESTIONS),
    }


def test_the_summary_and_the_plot(run: Callable[..., SearchReport], trainer: Trainer, tmp_path: Path) -> None:
    trainer.failing = {("update", 5e-4): TrainingError("a | b")}
    report = run(experts=("extraction", "update"), batch_sizes=(8, 16))
    out = tmp_path / "out"
    summary = (out / "summary.md").read_text()
    written = SearchReport.model_validate_json((out / "report.json").read_text())
    assert {stage: out / folder for stage, folder in written.adapters.items()} == report.adapters
    assert written.model_copy(update={"adapters": report.adapters}) == report
    assert (out / "search.png").read_bytes().startswith(b"\x89PNG")
    assert "Best combination: extraction lr0.0002-bs8, update lr0.0002-bs8." in summary
    assert "| extraction | 0.0002 | 8 | 1.0000 | 0.2500 | 1 | 3.0 | 100 |" in summary
    assert "TrainingError: a \\| b" in summary
    assert "| best, held-out | 0.4000 |" in summary
    assert "| base, validation | 12.50 |" in summary
    assert "| best, held-out | update | ReplyError | 2 | not JSON |" in summary
    assert {path.name for path in out.iterdir()} == {
        ".runs", "extraction", "held-out", "report.json", "runs.jsonl", "search.json", "search.png", "summary.md",
        "update",
        "validation",
    }  # fmt: skip


def test_missing_packages_are_named_at_once(
    run: Callable[..., SearchReport], trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_report, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"matplotlib, trl.*memlora-plugins\[train\]"):
        run()
    assert trainer.trained == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rates": (0.0,)}, "learning_rates"),
        ({"batch_sizes": ()}, "batch_sizes"),
        ({"experts": ("vision",)}, "experts"),
        ({"top": 0}, "top"),
        ({"batch_sizes": (8, 6), "training": TrainingOptions(device_batch_size=4, batch_size=8)}, "bs6: .* multiple"),
    ],
)
def test_impossible_options(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchOptions(**wrong)
    assert SearchOptions(batch_sizes=(8, 4, 8)).batch_sizes == (8, 4)


# For real: the tiny model, trained by TRL, measured in a memory -----------------------------------------------------


def real_search(base: Path, out: Path, on_step: Callable[[str, int, int], None]) -> SearchReport:
    """Two learning rates for the generation expert, four steps each; only that expert is asked, so it is quick."""
    said = ((None, Message("assistant", "The boat is red.", created_at=datetime(2025, 5, 2, tzinfo=UTC))),)
    questions = (Question("Which colour is the boat?", "red", category=4),)
    return module.search(
        base,
        {"generation": samples("generation", "train-1", 4)},
        {"generation": samples("generation", "validation-1")},
        [Conversation("validation-1", said, questions)],
        [Conversation("test-1", said, questions)],
        out,
        WordEmbedder(),
        SearchOptions(
            learning_rates=(1e-3, 1e-2),
            batch_sizes=(2,),
            experts=("generation",),
            training=TrainingOptions(max_steps=4, eval_every=1, threads=1),
        ),
        on_step=on_step,
    )


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
import test_search

def on_step(what, done, total):
    if what == "generation lr0.01-bs2: training" and done == 3:
        os.kill(os.getpid(), 9)

test_search.real_search(Path(sys.argv[1]), Path(sys.argv[2]), on_step)
"""


def test_a_search_killed_while_training_goes_on(tiny_model: TinyModel, tmp_path: Path) -> None:
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_model.path), str(out), *folders], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = (out / "runs.jsonl").read_bytes()
    assert [row.get("learning_rate") for row in rows(tmp_path)] == [None, 1e-3]
    assert (out / "generation" / "lr0.01-bs2" / "adapter.checkpoints").is_dir()

    heard: list[tuple[str, int]] = []
    report = real_search(tiny_model.path, out, lambda what, done, total: heard.append((what, done)))
    assert (out / "runs.jsonl").read_bytes().startswith(finished)
    assert [row.get("learning_rate") for row in rows(tmp_path)] == [None, 1e-3, 1e-2, None]
    trained = [step for what, step in heard if what.endswith("training")]
    assert trained[0] >= 2  # from its last checkpoint
    assert trained[-1] == 4
    assert not any(what.startswith(("base", "generation lr0.001-bs2: t")) for what, _ in heard)
    assert report.held_out.split == "held-out"
    assert report.held_out.result is not None
    assert report.held_out.result.usage["generation"].calls == 1
    for folder in report.adapters.values():
        assert (folder / "adapter_model.safetensors").is_file()
    for path in out.rglob("*"):  # it may be passed on: nothing tells where it was made
        assert path.is_dir() or not any(
            str(place).encode() in path.read_bytes() for place in (tmp_path, tiny_model.path.parent)
        )
