"""The best way to merge certain models, found by trying: each configuration is merged, scored, and kept if it is best.

The paper's sweep has 14 configurations (Table 12): linear, task arithmetic, and SLERP, TIES, DARE-linear and DARE-TIES
at 0.3, 0.5 and 0.7.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import DatasetError, InvalidInputError, SettingsError
from ...serving.adapters import NOTES_FILE
from ...training.identity import check_same, digest
from ...training.journal import Journal
from ..memory_model import MemoryModel
from ..reflections import HeldOutQuestion
from . import sweep_report
from .methods import MergeMethod, Recipe
from .run import MergeEvent, merge_opened, open_all
from .task_vectors import Opened

log = logging.getLogger(__name__)

SHARES = (0.3, 0.5, 0.7)
_DENSE: tuple[MergeMethod, ...] = ("ties", "dare_linear", "dare_ties")
SWEEP: tuple[Recipe, ...] = (
    Recipe(method="linear"),
    Recipe(method="task_arithmetic"),
    *(Recipe(method="slerp", t=share) for share in SHARES),
    *(Recipe(method=method, density=share) for method in _DENSE for share in SHARES),
)
"""The paper's 14 configurations."""

Score = Callable[[Path], Mapping[str, float]]
"""From the folder of a merged model to its scores, higher is better; the first one decides."""


def by_recall(held_out: Sequence[HeldOutQuestion], *, base: Path | str | None = None, device: str = "auto") -> Score:
    """Scores by the share of `held_out` questions that the model answers, in process; by kind as well.

    `base` is the base of merged adapters, where the name that they note does not lead to it. The model never abstains:
    a merged one is not calibrated yet.

    Raises:
        DatasetError: there are no questions.
    """
    from ..training import recalled

    if not held_out:
        raise DatasetError("There are no held-out questions to score by.")

    def score(folder: Path) -> dict[str, float]:
        with MemoryModel.open(folder, base=base, abstain_below=None, device=device) as model:
            answers = model.ask([one.question for one in held_out])
        overall, kinds = recalled(held_out, [answer.text for answer in answers])
        return {
            "recall": overall.contained,
            "exact": overall.exact,
            **{f"recall, {kind}": one.contained for kind, one in kinds.items() if len(kinds) > 1},
        }

    return score


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One configuration. `folder` is where it was kept, of the best only; `seconds` are those of merging."""

    recipe: Recipe
    scores: Mapping[str, float]
    seconds: float
    score_seconds: float
    megabytes_per_second: float
    folder: Path | None = None

    @property
    def score(self) -> float:
        """The score that decides."""
        return next(iter(self.scores.values()))


def sweep(
    base: Path | str,
    models: Sequence[Path | str],
    out: Path | str,
    *,
    score: Score,
    configurations: Sequence[Recipe] | None = None,
    scored_by: str = "",
    full_training: float | None = None,
    seed: int = 7,
    rank: int | None = None,
    on_step: Callable[[str, int, int], None] | None = None,
    on_event: Callable[[MergeEvent], None] | None = None,
) -> list[SweepRow]:
    """Merge `models` in every configuration, score each, and keep the best in `out/best`; returns them as tried.

    `configurations` are those of `SWEEP` where none are given (without SLERP unless there are two models). `seed` is
    that of all random choices. `rank` is as in `merge`. `score` is asked about each merged model, which is removed then
    unless it is the best so far; of equals the first one wins. `full_training` is the score of a model trained on all
    corpora at once, drawn for comparison. `on_step` is called with (configuration, done, of how many).

    A scored configuration is a row of `out/runs.jsonl`: a sweep that was stopped goes on where it was when it is called
    again. `scored_by` names what scores, such as a hash of the questions, so that a sweep is never continued with
    something else. `out` also gets `report.json`, `summary.md` and `sweep.png`.

    Raises:
        SettingsError, AdapterInvalidError, MissingDependencyError, TrainingError: see `merge`.
        InvalidInputError: `out` holds a sweep of something else, or `score` returned nothing, or no finite number.
        DatasetError: `out` cannot be written, or another process uses it.
    """
    sweep_report.check_packages()
    out = Path(out).expanduser().absolute()
    recipes = _recipes(configurations, len(models), seed)
    opened = open_all(base, models)
    work = _Sweep(opened, base, out, score, rank, on_event)
    try:
        with Journal(out / "runs.jsonl") as journal:
            check_same(out / "sweep.json", _identity(opened, scored_by, rank))
            rows = work.run(recipes, journal, on_step or (lambda what, done, total: None))
            sweep_report.write(rows, out, full_training)
            return rows
    except OSError as error:
        raise DatasetError(
            f"{out} cannot be written: {error}. What was scored is kept; make room, run it again."
        ) from error


class _Sweep:
    def __init__(
        self,
        opened: Opened,
        base: Path | str,
        out: Path,
        score: Score,
        rank: int | None,
        on_event: Callable[[MergeEvent], None] | None,
    ) -> None:
        self._opened = opened
        self._base = base
        self._score = score
        self._rank = rank
        self._on_event = on_event
        self._tried = out / "tried"
        self._best = out / "best"

    def run(self, recipes: Sequence[Recipe], journal: Journal, tell: Callable[[str, int, int], None]) -> list[SweepRow]:
        known = {digest(row.recipe.row()): row for row in _read(journal)}
        rows: list[SweepRow] = []
        for number, recipe in enumerate(recipes):
            tell(recipe.label, number, len(recipes))
            row = known.get(digest(recipe.row()))
            if row is None:
                row = self._scored(recipe)
                if all(row.score > other.score for other in known.values()):
                    shutil.rmtree(self._best, ignore_errors=True)
                    self._tried.rename(self._best)
                journal.add(_row(row))
                known[digest(recipe.row())] = row
            rows.append(row)
        tell("", len(recipes), len(recipes))
        shutil.rmtree(self._tried, ignore_errors=True)
        best = max(rows, key=lambda row: row.score)  # of equals the first
        if not self._is_best(best.recipe):  # a sweep that was stopped, or had other configurations
            merge_opened(self._opened, self._base, self._best, best.recipe, rank=self._rank, on_event=self._on_event)
        return [replace(row, folder=self._best) if row is best else row for row in rows]

    def _scored(self, recipe: Recipe) -> SweepRow:
        merged = merge_opened(self._opened, self._base, self._tried, recipe, rank=self._rank, on_event=self._on_event)
        started = time.perf_counter()
        scores = dict(self._score(merged.folder))
        if not scores or not all(math.isfinite(value) for value in scores.values()):
            raise InvalidInputError(
                f"A score is at least one finite number by name; for {recipe.label} it is {scores}."
            )
        return SweepRow(recipe, scores, merged.seconds, time.perf_counter() - started, merged.megabytes_per_second)

    def _is_best(self, recipe: Recipe) -> bool:
        try:
            told = json.loads((self._best / NOTES_FILE).read_bytes())["merge"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return isinstance(told, dict) and recipe.row().items() <= told.items()


def _recipes(configurations: Sequence[Recipe] | None, models: int, seed: int) -> list[Recipe]:
    chosen = list(SWEEP if configurations is None else configurations)
    if configurations is None and models != 2:
        chosen = [recipe for recipe in chosen if recipe.method != "slerp"]
        log.info("slerp is left out of the sweep: it merges two models, and these are %d", models)
    if not chosen:
        raise SettingsError("There is no configuration to try.")
    for recipe in chosen:
        recipe.check(models)
    return list({digest(one.row()): one for one in (replace(recipe, seed=seed) for recipe in chosen)}.values())


def _identity(opened: Opened, scored_by: str, rank: int | None) -> dict[str, str]:
    """What the scores depend on, the configurations aside."""
    return {
        "base model": opened.base_sha256,
        "models": digest([model.sha256 for model in opened.models]),
        "scoring": digest(scored_by),
        "rank": str(rank),
    }


def _row(row: SweepRow) -> dict[str, Any]:
    return {
        "recipe": row.recipe.row(),
        "scores": dict(row.scores),
        "seconds": row.seconds,
        "score_seconds": row.score_seconds,
        "megabytes_per_second": row.megabytes_per_second,
    }


def _read(journal: Journal) -> Iterator[SweepRow]:
    for number, row in enumerate(journal.rows, start=1):
        try:
            yield SweepRow(
                Recipe.from_row(row["recipe"]),
                *(row[name] for name in ("scores", "seconds", "score_seconds", "megabytes_per_second")),
            )
        except (KeyError, TypeError, SettingsError) as error:
            raise DatasetError(
                f"{journal.path}, line {number} is no row of a sweep: {error}. Delete that line; it is tried again."
            ) from error
