"""The search for the best experts (the paper's section B, Algorithm B1, phases 2 and 3).

Every configuration of the grid is trained, its weights chosen by validation loss; then the whole pipeline with it is
measured on the validation conversations, the stages before it filled by the best experts found so far, the stages
after it by the base model. The best candidates of each stage are tried in combination, and the best combination is
measured once on conversations that nothing was chosen by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from ..errors import AdapterError, DatasetError, TrainingError
from ..evaluation.harness.candidates import ANSWERING, REMEMBERING
from ..evaluation.metrics import Metric, metric_name, token_f1
from ..evaluation.pipeline import Opener, evaluate
from ..files import write_whole
from ..settings import load_settings
from . import search_report
from .card import samples_sha256
from .dataset import Sample, check_splits
from .identity import check_same, conversation_row, digest
from .journal import Journal
from .options import MACHINE_OPTIONS
from .runs import Configuration, Pipeline, Run, SearchOptions, SearchReport, Split, Stage, label
from .trainer import train

if TYPE_CHECKING:
    from ..embedding import Embedder
    from ..evaluation.conversations import Conversation
    from ..settings import Settings

Samples = Mapping[str, Sequence[Sample]]
"""Expert to its samples."""
OnStep = Callable[[str, int, int], None]
"""(what is being done, steps done, of how many)."""


def search(
    base: Path | str,
    train_samples: Samples,
    validation_samples: Samples,
    validation: Sequence[Conversation],
    test: Sequence[Conversation],
    out: Path,
    embedder: Embedder,
    options: SearchOptions = SearchOptions(),  # noqa: B008 (frozen)
    *,
    metric: Metric = token_f1,
    settings: Settings | None = None,
    open_backend: Opener | None = None,
    on_step: OnStep | None = None,
) -> SearchReport:
    """Search for the best experts of the model in folder `base` (or of that name in the Hugging Face cache).

    Samples are by expert. `validation` and `test` are conversations with questions. `open_backend` makes the backend of
    `base` with given adapters (default: `LocalBackend`). `settings` are those of the memory. `embedder` stays open.

    Every finished run is a row of `out/runs.jsonl`; a search that was stopped, however hard, goes on where it was when
    it is called again, and a larger grid continues it. A run that fails is a row with its error, tried again by the
    next call. `out` also gets `report.json`, `summary.md` and `search.png`.

    Raises:
        DatasetError: no samples for an expert, a conversation in two splits, `out` in use by another process.
        InvalidInputError: `out` holds a search of something else; no question to score.
        TrainingError: every configuration failed.
        BackendError: the model cannot be reached. MissingDependencyError: the extra `train` is not installed.
    """
    search_report.check_packages()
    _check_data(options, train_samples, validation_samples, validation, test)
    material = _Material(
        base,
        train_samples,
        validation_samples,
        {"validation": validation, "held-out": test},
        embedder,
        metric,
        settings or load_settings(),
        open_backend or _in_process(base, options),
    )
    with Journal(out / "runs.jsonl") as journal:
        check_same(out / "search.json", _identity(material, options))
        report = _Search(material, out, journal, options, on_step).run()
        search_report.write(report, out)
    return report


@dataclass(frozen=True, slots=True)
class _Material:
    """What is searched over."""

    base: Path | str
    train: Samples
    validation: Samples
    conversations: Mapping[Split, Sequence[Conversation]]
    embedder: Embedder
    metric: Metric
    settings: Settings
    open_backend: Opener


class _Search:
    def __init__(
        self, material: _Material, out: Path, journal: Journal, options: SearchOptions, on_step: OnStep | None
    ) -> None:
        self._material = material
        self._out = out
        self._journal = journal
        self._options = options
        self._on_step = on_step or (lambda what, done, total: None)
        self._runs = {(run.split, label(run.pipeline)): run for run in _read(journal)}
        self._notes: list[str] = []

    def run(self) -> SearchReport:
        base = self._measured("validation", {})
        candidates: dict[Stage, tuple[str, ...]] = {}
        best: Pipeline = {}
        for stage in (stage for stage in get_args(Stage) if stage in self._options.experts):
            runs = [self._tried(stage, configuration, best) for configuration in self._options.grid]
            candidates[stage] = self._chosen(stage, runs)
            if candidates[stage]:
                best = {**best, stage: candidates[stage][0]}
        if not best:
            raise TrainingError(
                f"Every configuration failed; {self._journal.path} says why. The first: {runs[0].error}"
            )
        filled = {stage: names for stage, names in candidates.items() if names}
        combined = [
            self._measured("validation", dict(zip(filled, names, strict=True))) for names in product(*filled.values())
        ]
        winner = max(combined, key=_score)  # of equals the first: experts that did better alone
        if _score(winner) <= _score(base):
            self._notes.append("On validation, the best combination is no better than the base model without experts.")
        held_out = self._measured("held-out", winner.pipeline)
        looks = sum(split == "held-out" and run.error is None for (split, _), run in self._runs.items())
        if looks > 1:
            self._notes.append(
                f"{looks} combinations were measured on the held-out conversations over time; the later scores are "
                "optimistic if the earlier ones guided anything."
            )
        return SearchReport(
            metric=base.metric,
            base=base,
            runs=tuple(self._runs.values()),
            candidates=candidates,
            best=winner.pipeline,
            adapters={stage: self._folder(stage, name) for stage, name in winner.pipeline.items()},
            validation=winner,
            held_out=held_out,
            held_out_looks=looks,
            notes=tuple(self._notes),
        )

    def _tried(self, stage: Stage, configuration: Configuration, others: Pipeline) -> Run:
        """Train a configuration and measure the pipeline with it; or the row of when that was done."""
        pipeline: Pipeline = {**others, stage: configuration.name}
        known = self._runs.get(("validation", label(pipeline)))
        if known is not None and known.expert == stage and known.error is None:
            return known
        folder = self._folder(stage, configuration.name)
        row: dict[str, Any] = {
            "split": "validation",
            "pipeline": pipeline,
            "expert": stage,
            "seed": self._options.training.seed,
            "metric": metric_name(self._material.metric),
            "folder": folder.relative_to(self._out).as_posix(),
            **configuration.model_dump(),
        }
        try:
            row |= self._train(stage, configuration, folder)
            row |= self._measure("validation", pipeline)
        except (TrainingError, AdapterError) as error:
            row["error"] = f"{type(error).__name__}: {error}"
        return self._finished(Run.model_validate(row))

    def _measured(self, split: Split, pipeline: Pipeline) -> Run:
        """Measure a pipeline; or the row of when that was done."""
        known = self._runs.get((split, label(pipeline)))
        if known is not None and known.error is None:
            return known
        measured = self._measure(split, pipeline)
        return self._finished(
            Run(split=split, pipeline=pipeline, metric=metric_name(self._material.metric), **measured)
        )

    def _train(self, stage: Stage, configuration: Configuration, folder: Path) -> dict[str, Any]:
        """Train, or go on, or find it done."""
        what = f"{stage} {configuration.name}: training"
        trained = train(
            stage,
            self._material.base,
            self._material.train[stage],
            self._material.validation[stage],
            folder,
            self._options.training_of(configuration),
            resume=True,
            on_event=lambda event: self._on_step(what, event.step, event.steps),
        )
        return {
            "validation_loss": trained.validation_loss,
            "epochs": trained.epochs,
            "tokens_per_second": trained.tokens_per_second,
            "training_seconds": trained.card["metrics"]["seconds"],
        }

    def _measure(self, split: Split, pipeline: Pipeline) -> dict[str, Any]:
        material = self._material
        result = evaluate(
            material.conversations[split],
            material.open_backend({stage: self._folder(stage, name) for stage, name in pipeline.items()}),
            material.embedder,
            metric=material.metric,
            settings=material.settings,
            concurrency=self._options.concurrency,
            progress=lambda done, total: self._on_step(f"{label(pipeline)}: {split}", done, total),
        ).model_copy(update={"backend": label(pipeline)})  # its own words name folders of this machine
        name = "_".join(f"{stage}-{configuration}" for stage, configuration in pipeline.items()) or "base"
        details = self._out / split / f"{name}.json"
        _write(details, result.model_dump_json(indent=1) + "\n")
        return {
            "score": result.score,
            "seconds": result.remember_seconds + result.answer_seconds,
            "result": result.summary,
            "details": details.relative_to(self._out).as_posix(),
        }

    def _chosen(self, stage: Stage, runs: Sequence[Run]) -> tuple[str, ...]:
        """The candidates of a stage, best first; the lower validation loss decides between equals."""
        done = [run for run in runs if run.error is None]
        if failed := len(runs) - len(done):
            left = "" if done else ", so that stage is the base model"
            self._notes.append(f"{failed} of {len(runs)} runs of {stage} failed{left}; their rows say why.")
        ranked = sorted(done, key=lambda run: (-_score(run), run.validation_loss))
        near = [run for run in ranked if _score(run) >= _score(ranked[0]) - self._options.tolerance]
        return tuple(run.pipeline[stage] for run in near[: self._options.top])

    def _folder(self, stage: Stage, name: str) -> Path:
        return self._out / stage / name / "adapter"

    def _finished(self, run: Run) -> Run:
        self._journal.add(run.model_dump(mode="json", exclude_defaults=True))
        self._runs[run.split, label(run.pipeline)] = run
        return run


def _score(run: Run) -> float:
    if run.score is None:
        raise AssertionError("only runs without an error are ranked")
    return run.score


def _read(journal: Journal) -> Iterator[Run]:
    for number, row in enumerate(journal.rows, start=1):
        try:
            yield Run.model_validate(row)
        except ValidationError as error:
            raise DatasetError(
                f"{journal.path}, line {number} is no run of a search: {error.errors()[0]['msg']}. Delete that line."
            ) from error


def _write(file: Path, text: str) -> None:
    try:
        write_whole(file, text)
    except OSError as error:
        raise DatasetError(f"{file} cannot be written: {error}. Make room and run it again.") from error


def _in_process(base: Path | str, options: SearchOptions) -> Opener:
    from ..serving.local import LocalBackend

    return lambda adapters: LocalBackend(
        base, adapters, device=options.training.device, threads=options.training.threads
    )


def _check_data(
    options: SearchOptions,
    train_samples: Samples,
    validation_samples: Samples,
    validation: Sequence[Conversation],
    test: Sequence[Conversation],
) -> None:
    for stage in options.experts:
        for split, samples in (("training", train_samples), ("validation", validation_samples)):
            if not samples.get(stage):
                raise DatasetError(f"There is no {split} sample for {stage}. Distil some, or leave that expert out.")
    told = {
        split: [sample.conversation for stage in options.experts for sample in samples[stage]]
        for split, samples in (("training", train_samples), ("validation", validation_samples))
    }
    told["validation"] += [talk.id for talk in validation]
    check_splits({**told, "held-out": [talk.id for talk in test]})


def _identity(material: _Material, options: SearchOptions) -> dict[str, str]:
    """What a search is made of, by name: digests of everything that its scores depend on, the grid aside."""
    from ..serving.adapters import weights_sha256
    from ..serving.local import model_folder

    hyper = options.training.model_dump(mode="json", exclude={"learning_rate", "batch_size", *MACHINE_OPTIONS})
    found = {
        "base model": weights_sha256(model_folder(material.base, allow_download=False)),
        "metric": metric_name(material.metric),
        "embedder": material.embedder.name,
        "training options": digest(hyper),
        "memory settings": digest(material.settings.model_dump(include={*REMEMBERING, *ANSWERING})),
    }
    for split, talks in material.conversations.items():
        found[f"{split} conversations"] = digest([conversation_row(talk) for talk in talks])
    for stage in options.experts:
        for name, samples in (("training", material.train), ("validation", material.validation)):
            found[f"{name} samples of {stage}"] = samples_sha256(samples[stage])
    return found
