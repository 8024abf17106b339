"""What an expert search is told, what it writes down, and what it reports."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..evaluation.pipeline import CONCURRENCY, PipelineSummary
from .options import TrainingOptions

Stage = Literal["extraction", "update", "generation"]
Pipeline = dict[Stage, str]
"""Stage to the name of the configuration whose expert fills it; a stage that is missing is the base model."""
Split = Literal["validation", "held-out"]


class Configuration(BaseModel):
    """A point of the grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float
    batch_size: int

    @property
    def name(self) -> str:
        """Names its folder, and stands for it in reports."""
        return f"lr{self.learning_rate}-bs{self.batch_size}"


class SearchOptions(BaseModel):
    """What a search tries, and what it keeps.

    Every learning rate is tried with every batch size, for each of `experts`. Of the finished runs of an expert the
    best `top` are candidates, as far as their score is within `tolerance` of the best one's. `training` holds the other
    hyper-parameters; its own learning rate and batch size are not used. `concurrency` bounds the model calls under way
    while a pipeline is measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rates: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        default=(1e-4, 2e-4, 5e-4), min_length=1
    )
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(8, 16), min_length=1)
    experts: tuple[Stage, ...] = Field(default=("extraction", "update", "generation"), min_length=1)
    top: int = Field(default=2, ge=1)
    tolerance: float = Field(default=0.02, ge=0, allow_inf_nan=False)
    training: TrainingOptions = TrainingOptions()
    concurrency: int = Field(default=CONCURRENCY, ge=1)

    @field_validator("learning_rates", "batch_sizes", "experts")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(values))

    @model_validator(mode="after")
    def _trainable(self) -> SearchOptions:
        for configuration in self.grid:
            try:
                self.training_of(configuration)
            except ValidationError as error:
                raise ValueError(f"{configuration.name}: {error.errors()[0]['msg']}") from error
        return self

    @property
    def grid(self) -> list[Configuration]:
        """Every configuration, in the order they are tried."""
        pairs = product(self.learning_rates, self.batch_sizes)
        return [Configuration(learning_rate=rate, batch_size=size) for rate, size in pairs]

    def training_of(self, configuration: Configuration) -> TrainingOptions:
        """The hyper-parameters of one run."""
        return TrainingOptions.model_validate(self.training.model_dump() | configuration.model_dump())


class Run(BaseModel):
    """One row of `runs.jsonl`: a configuration trained and measured, or a combination of experts measured.

    `pipeline` is what was measured on `split`: `score` is the mean of `metric`, `result` tells more, `details` is the
    file with every answer. `expert` and what is told of its training are None for a combination, and for the base model
    alone. `folder` is the adapter's. Paths are relative to the folder of the search. `seconds` are those of measuring.
    A run that failed has an `error` and no score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split
    pipeline: Pipeline
    expert: Stage | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    seed: int | None = None
    validation_loss: float | None = None
    epochs: float | None = None
    tokens_per_second: float | None = None
    training_seconds: float | None = None
    metric: str
    score: float | None = None
    seconds: float | None = None
    result: PipelineSummary | None = None
    folder: str | None = None
    details: str | None = None
    error: str | None = None


class SearchReport(BaseModel):
    """What a search found. `runs` are all rows, in the order they were finished; of a run that was repeated, the last.

    `candidates` are configurations by stage, best first; `best` is the best combination and `adapters` its folders.
    `base` is the base model without experts, `validation` and `held_out` the best combination, each a row of `runs`.
    `held_out_looks` counts the combinations that were ever measured on the held-out conversations: beyond the first,
    their scores are no longer those of conversations that nothing was chosen by. `notes` say what is to be known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    base: Run
    runs: tuple[Run, ...]
    candidates: dict[Stage, tuple[str, ...]]
    best: Pipeline
    adapters: dict[Stage, Path]
    validation: Run
    held_out: Run
    held_out_looks: int
    notes: tuple[str, ...] = ()


def label(pipeline: Pipeline) -> str:
    """A pipeline in one line."""
    return ", ".join(f"{stage} {name}" for stage, name in pipeline.items()) or "base"
