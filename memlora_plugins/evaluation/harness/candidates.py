"""Models that are measured as memories: a base model with its experts, and the rows that are compared of it."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator, model_validator

from ... import nano
from ...errors import SettingsError
from ..pipeline import STAGES, Adapters, stages
from .config_file import BesideName, KeyVariable

if TYPE_CHECKING:
    from ...serving.base import Backend
    from ...settings import Settings

NANO = "nano"
"""The base that means the model of this package, with its experts where no others are named."""
EXPERTS, SHARED = "experts", "one shared adapter"
"""Rows with an adapter at every stage that has one."""
REMEMBERING = ("neighbours_per_fact", "facts_per_update", "similarity_threshold", "exchange_chars", "quoted_facts")
"""The settings that what is remembered depends on."""
ANSWERING = (
    "token_budget",
    "answer_budget",
    "memories_per_answer",
    "answer_threshold",
    "quoted_answers",
    "ranking",
)
"""The settings that an answer depends on besides."""

_Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class Candidate(BaseModel):
    """A student, teacher or any other model: a base and its experts.

    `base` is a folder, or with `base_url` the name it is served under; `nano` without `base_url` is the model of this
    package. `adapters` are those of single stages, `shared` one that serves every stage; each is a folder or a name
    that the server knows. The server's key is read from the environment variable `api_key_env`. With `stages`, the
    experts are added one after the other (the paper's Table 4); `teacher` is the name of another candidate whose base
    first stands in at single stages, where the measurement has several candidates.

    Raises:
        pydantic.ValidationError: a name is missing, adapters are given to an endpoint that serves none, or a teacher
            without `stages`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: _Text
    base: Annotated[Literal["nano"] | BesideName, Field(union_mode="left_to_right")]
    base_url: _Text | None = None
    api: Literal["vllm", "openai"] = "vllm"
    api_key_env: KeyVariable = "MEMLORA_API_KEY"
    adapters: dict[str, BesideName] = {}
    shared: BesideName | None = None
    stages: bool = False
    teacher: _Text | None = None

    @field_validator("base", mode="before")
    @classmethod
    def _named(cls, base: object) -> object:
        if isinstance(base, str) and not base.strip():  # it would be the folder of the file
            raise ValueError("a folder, or the name of a model on a server, is needed")
        return base

    @field_validator("adapters")
    @classmethod
    def _stages(cls, adapters: dict[str, str]) -> dict[str, str]:
        if unknown := [stage for stage in adapters if stage not in STAGES]:
            raise ValueError(f"{unknown[0]!r} is no stage of the pipeline; those are {', '.join(STAGES)}")
        return adapters

    @model_validator(mode="after")
    def _servable(self) -> Self:
        if self.api == "openai" and self.base_url is None:
            raise ValueError("api 'openai' needs base_url")
        if self.api == "openai" and (self.adapters or self.shared):
            raise ValueError("api 'openai' serves no adapters; leave them out, or use a vLLM server")
        return self

    @model_validator(mode="after")
    def _taught_by_stages(self) -> Self:
        if self.teacher is not None and not self.stages:
            raise ValueError("a teacher stands in at single stages; add stages = true, or leave the teacher out")
        return self

    @property
    def is_nano(self) -> bool:
        """Whether it is the model of this package."""
        return self.base == NANO and self.base_url is None

    @property
    def model(self) -> str:
        """Its folder, or its name on the server."""
        return str(nano.BASE) if self.is_nano else self.base

    @property
    def experts(self) -> dict[str, str]:
        """Stage to adapter in the order of the pipeline; nano's own for nano."""
        given = self.adapters if self.adapters or not self.is_nano else nano.ADAPTERS
        return {stage: given[stage] for stage in STAGES if stage in given}

    def rows(self) -> dict[str, Adapters]:
        """What is compared, label to adapters: the base alone, then the experts at once or stage by stage."""
        every: dict[str, Adapters] = {**stages(self.experts, self.shared)}
        if self.stages:
            return every
        kept = {"base": every["base"]} | ({EXPERTS: self.experts} if self.experts else {})
        return kept | ({SHARED: every[SHARED]} if self.shared else {})

    def settings(self, adapters: Adapters) -> Settings:
        """The settings of a memory with these adapters: as `Memory.open` takes them from the environment, with nano's
        where nano's experts answer.

        Raises:
            SettingsError: nano is meant and its weights are not there, or the environment has unusable settings.
        """
        from ...core import fitted
        from ...settings import load_settings

        if self.is_nano and not nano.shipped():
            raise SettingsError(
                "nano's weights are not in this package: `make nano` makes them. Or name another base, e.g. a folder."
            )
        found = load_settings(
            model=self.model,
            adapters={stage: str(adapter) for stage, adapter in adapters.items()},
            base_url=self.base_url,
            api=self.api,
        )
        key = os.environ.get(self.api_key_env)
        # neither the address nor the key that the environment has for another model
        found = found.model_copy(update={"base_url": self.base_url, "api_key": SecretStr(key) if key else None})
        return fitted(found)

    def backend(self, adapters: Adapters) -> Backend:
        """What answers, with these adapters.

        Raises:
            SettingsError: there is no such model. AdapterInvalidError: an adapter cannot be used.
        """
        from ...core import build_backend

        return build_backend(self.settings(adapters))

    @property
    def computed(self) -> str:
        """Where its model computes, and in what: as `LocalBackend` chooses by itself, or its server."""
        if self.base_url is not None:
            return "on a server"
        import torch

        if not torch.cuda.is_available():
            return "on the CPU in float32"
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return f"on the GPU in {'bfloat16' if native else 'float32'}"

    def who(self, adapters: Adapters) -> dict[str, str]:
        """Stage to what answers there, for telling work from other work: the hash of weights, or with the candidate's
        own name what its server calls them (it may start again on another port), and the adapter's name.

        Raises:
            as `backend`.
        """
        from ...serving.local import model_folder

        if self.base_url is None:
            base = _weights(model_folder(self.model, allow_download=False))
        else:
            base = f"{self.name}: {self.model}" + ("" if self.api == "vllm" else f" ({self.api})")
        names = self.names(adapters)
        return {stage: f"{base} + {names[stage]}" if stage in names else base for stage in STAGES}

    def names(self, adapters: Adapters) -> dict[str, str]:
        """Stage to the name of its adapter: with the hash of its files, or as a server knows it.

        Raises:
            AdapterInvalidError: a folder holds no usable adapter.
        """
        from ...serving.adapters import preflight

        def name(stage: str, adapter: str | Path) -> str:
            folder = Path(adapter).expanduser()
            return preflight(stage, folder, max_rank=sys.maxsize).name if folder.is_dir() else str(adapter)

        return {stage: name(stage, adapter) for stage, adapter in adapters.items()}


def _weights(folder: Path) -> str:
    """`weights_sha256`, which reads all of them, once for files that did not change."""
    found = [(file, file.stat()) for file in sorted(folder.glob("*.safetensors"))]
    return _weights_of(folder, tuple((file.name, about.st_size, about.st_mtime_ns) for file, about in found))


@lru_cache(maxsize=64)
def _weights_of(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    from ...serving.adapters import weights_sha256

    return weights_sha256(folder)
