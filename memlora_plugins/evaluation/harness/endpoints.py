"""Large models that an evaluation asks, as a configuration or a command line names them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from ...errors import BackendError, SettingsError
from ...serving.openai_compatible import OpenAIBackend, StructuredOutput
from .config_file import KeyVariable

if TYPE_CHECKING:
    from ...serving.base import Completion, Request

_Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


@contextmanager
def speaking_of(who: str) -> Iterator[None]:
    """Errors of a model, or on how it is described, say `who` it is.

    Raises:
        BackendError, SettingsError: those that were raised within, with `who` in front.
    """
    try:
        yield
    except (BackendError, SettingsError) as error:
        told = copy(error)  # of its own type, with what else it tells
        told.args = (f"{who}: {error}",)
        raise told from error


class NamedBackend(OpenAIBackend):
    """An endpoint whose errors say `who` it is: the judge, an Executive. (Nobody streams from those.)

    Raises:
        SettingsError: as `OpenAIBackend`.
    """

    def __init__(self, who: str, base_url: str, model: str, **options: Any) -> None:
        self._who = who
        with speaking_of(who):
            super().__init__(base_url, model, **options)

    def complete(self, request: Request) -> Completion:
        with speaking_of(self._who):
            return super().complete(request)

    async def acomplete(self, request: Request) -> Completion:
        with speaking_of(self._who):
            return await super().acomplete(request)


class Endpoint(BaseModel):
    """A model behind an OpenAI-compatible endpoint. Its key is read from the environment variable `api_key_env`.

    `extra_body` are fields for every request, as `OpenAIBackend` takes them; `timeout` is seconds to wait for a reply.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    role: ClassVar[str]
    """What errors call it, before its name."""

    base_url: _Text
    model: _Text
    api_key_env: KeyVariable
    structured_output: StructuredOutput = "json_schema"
    extra_body: dict[str, Any] = Field(default={}, repr=False)
    timeout: float = Field(default=120.0, gt=0)

    @field_validator("base_url")
    @classmethod
    def _without_key(cls, base_url: str) -> str:
        if "@" in urlsplit(base_url).netloc:
            raise ValueError("an address holds no user or password; api_key_env names the variable with the key")
        return base_url

    @property
    def label(self) -> str:
        """What tables and errors call it."""
        return self.model

    def backend(self) -> OpenAIBackend:
        """The endpoint, which is the caller's to close; its errors say what it is there for.

        Raises:
            SettingsError: the address cannot be used.
        """
        return NamedBackend(
            f"{self.role} {self.label!r}",
            self.base_url,
            self.model,
            api_key=os.environ.get(self.api_key_env),
            structured_output=self.structured_output,
            extra_body=self.extra_body,
            read_timeout=self.timeout,
        )


class ExecutiveEndpoint(Endpoint):
    """An Executive: it reads what was found, or asks a Memory model. `name` is what tables call it, by default `model`.

    `runs` is how often it answers each question, by default what the whole measurement has.
    """

    role: ClassVar[str] = "The Executive"

    api_key_env: KeyVariable = "MEMLORA_EXECUTIVE_API_KEY"
    name: _Text | None = None
    runs: int | None = Field(default=None, ge=1)

    @property
    def label(self) -> str:
        """What tables and errors call it."""
        return self.name or self.model


class JudgeEndpoint(Endpoint):
    """The model that says whether an answer is right."""

    role: ClassVar[str] = "The judge"

    api_key_env: KeyVariable = "MEMLORA_JUDGE_API_KEY"


class ValidatorEndpoint(Endpoint):
    """The small vision model that says which questions about images are hard."""

    role: ClassVar[str] = "The validator"

    api_key_env: KeyVariable = "MEMLORA_VALIDATOR_API_KEY"
