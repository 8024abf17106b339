"""What `memlora eval memo` measures: questions, a corpus at several noise levels, models, and ways to answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ...memo.protocol import Budgets, Temperatures
from ...memo.protocol import Method as ProtocolName
from ..harness.config_file import BesideName, BesidePath, KeyVariable
from ..harness.endpoints import ExecutiveEndpoint, JudgeEndpoint
from .reading import TOP_K

Baseline = Literal["no context", "perfect retrieval", "BM25", "dense"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
PROTOCOLS: tuple[ProtocolName, ...] = ("structured", "single_turn", "unstructured")

_Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


def _warm(temperatures: Temperatures) -> Temperatures:
    if not all(0 <= one < math.inf for one in astuple(temperatures)):
        raise ValueError("a temperature is a finite number of at least 0")
    return temperatures


_Temperatures = Annotated[Temperatures, AfterValidator(_warm)]


class MemoryEntry(BaseModel):
    """A Memory model: in `folder`, in process or (with `base_url`) on a vLLM server; or only on a server, as `model`.

    `base` is the base model of a LoRA adapter where its folder does not tell, or what a server of its own calls it.
    `size`, `family` and `epoch` are what tables call it by; where `size` is missing, parameters are counted in the
    folder. `noise` says which corpus it was trained on. `budgets` and `temperatures` are what the protocol has with
    this model, None for those of the whole configuration; in a file, what a table of them leaves out is the whole
    configuration's too.

    Entries of one `name` may differ in `noise` and `epoch`, and in these they must; one model that is asked in two ways
    is two entries of two names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: _Text
    folder: BesidePath | None = None
    base_url: _Text | None = None
    model: _Text | None = None
    base: BesideName | None = None
    api_key_env: KeyVariable = "MEMLORA_API_KEY"
    size: str | None = None
    family: str | None = None
    epoch: float | None = Field(default=None, ge=0)
    noise: int | None = Field(default=None, ge=0)
    protocols: tuple[ProtocolName, ...] = Field(default=PROTOCOLS, min_length=1)
    budgets: Budgets | None = None
    temperatures: _Temperatures | None = None
    device: str = "auto"

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.folder is None and (self.base_url is None or self.model is None):
            raise ValueError("a Memory model needs its folder, or base_url and the model's name there")
        return self


def _several(given: object) -> object:
    return [given] if isinstance(given, dict) else given


def _with_whole(entry: object, whole: Mapping[str, Any]) -> object:
    """An entry of a file; what its tables leave out is what the tables of the `whole` say."""
    if not isinstance(entry, dict):
        return entry
    made = dict(entry)
    for key in ("budgets", "temperatures"):
        own, shared = entry.get(key), whole.get(key)
        if isinstance(own, dict) and isinstance(shared, dict):
            made[key] = {**shared, **own}
    return made


class MemoConfig(BaseModel):
    """One measurement; see `answering.aanswered`.

    Args:
        questions: JSONL (see `material`), or without a `corpus` a MuSiQue file, which brings its own.
        corpus: the documents, a file or folder as `read_documents` reads it.
        negatives: documents that do not help, in the order in which noise takes them.
        noise: levels, as negatives per document of evidence (the paper's 0N, 1N, 2N); by default these three where
            there are negatives, else 0.
        limit: answer the first so many questions only.
        runs: how often every question is answered; by sampling alone the runs differ.
        temperature: of a reader. The paper gives none; 0.3 is what it answers from evidence at in its last stage
            (Table 14).
        top_k: documents that a reader is given, fewer where they are too long (Section 5).
        baselines: those to measure.
        executive, judge, memory: the models. Without a judge, accuracy is not available.
        budgets, temperatures: of the protocol, for each Memory model that has none of its own; the paper's by default.
        embedder, embedder_url: for dense retrieval.
        concurrency: questions under way at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    questions: BesidePath
    corpus: BesidePath | None = None
    negatives: BesidePath | None = None
    noise: tuple[int, ...] | None = Field(default=None, min_length=1)
    limit: int | None = Field(default=None, ge=1)
    runs: int = Field(default=3, ge=1)
    temperature: float = Field(default=0.3, ge=0)
    top_k: int = Field(default=TOP_K, ge=1)
    baselines: tuple[Baseline, ...] = BASELINES
    executive: Annotated[tuple[ExecutiveEndpoint, ...], BeforeValidator(_several)] = Field(min_length=1)
    judge: JudgeEndpoint | None = None
    budgets: Budgets = Budgets()
    temperatures: _Temperatures = Temperatures()
    memory: Annotated[tuple[MemoryEntry, ...], BeforeValidator(_several)] = ()
    embedder: BesideName | None = None
    embedder_url: str | None = None
    concurrency: int = Field(default=8, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _inherited(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        entries = _several(given.get("memory"))
        if not isinstance(entries, list):
            return given
        return {**given, "memory": [_with_whole(entry, given) for entry in entries]}

    @field_validator("noise")
    @classmethod
    def _levels(cls, noise: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if noise is not None and (min(noise) < 0 or len(set(noise)) < len(noise)):
            raise ValueError("levels are whole numbers of at least 0, each once")
        return noise

    @field_validator("executive")
    @classmethod
    def _named_apart(cls, executives: tuple[ExecutiveEndpoint, ...]) -> tuple[ExecutiveEndpoint, ...]:
        if len({one.label for one in executives}) < len(executives):
            raise ValueError("two Executives of one name; give each a name of its own")
        return executives

    @field_validator("memory")
    @classmethod
    def _told_apart(cls, memory: tuple[MemoryEntry, ...], info: ValidationInfo) -> tuple[MemoryEntry, ...]:
        if len({(one.name, one.noise, one.epoch) for one in memory}) < len(memory):
            raise ValueError(
                "two Memory models of one name, noise and epoch; tables could not tell them apart. Give each a name of "
                "its own, also where it is one model with other budgets or temperatures"
            )
        whole = (info.data.get("budgets"), info.data.get("temperatures"))
        asked: dict[str, object] = {}
        for one in memory:
            how = (one.budgets or whole[0], one.temperatures or whole[1])
            if asked.setdefault(one.name, how) != how:
                raise ValueError(
                    f"{one.name!r} has other budgets or temperatures in one entry than in another; tables could not "
                    "tell them apart. Give each a name of its own"
                )
        return memory

    @model_validator(mode="after")
    def _answerable(self) -> Self:
        if self.corpus is None and self.negatives is not None:
            raise ValueError("negatives belong to a corpus; a MuSiQue file brings its own")
        if self.corpus is not None and self.negatives is None and max(self.noise or (0,)) > 0:
            raise ValueError("noise above 0 takes negatives: name the file or folder they are in")
        if not self.baselines and not self.memory:
            raise ValueError("nothing is to be measured: name baselines, or a Memory model")
        return self

    def of(self, entry: MemoryEntry) -> tuple[Budgets, Temperatures]:
        """What the protocol has with a Memory model."""
        return entry.budgets or self.budgets, entry.temperatures or self.temperatures

    @property
    def levels(self) -> tuple[int, ...]:
        """The noise levels, lowest first."""
        given = (0,) if self.corpus is not None and self.negatives is None else (0, 1, 2)
        return tuple(sorted(self.noise or given))
