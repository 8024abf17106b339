"""Large models that an evaluation asks, as a configuration or a command line names them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ...serving.openai_compatible import StructuredOutput

if TYPE_CHECKING:
    from ...serving.openai_compatible import OpenAIBackend

_Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class Endpoint(BaseModel):
    """A model behind an OpenAI-compatible endpoint. Its key is read from the environment variable `api_key_env`.

    `extra_body` are fields for every request, as `OpenAIBackend` takes them; `timeout` is seconds to wait for a reply.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: _Text
    model: _Text
    api_key_env: str
    structured_output: StructuredOutput = "json_schema"
    extra_body: dict[str, Any] = Field(default={}, repr=False)
    timeout: float = Field(default=120.0, gt=0)

    def backend(self) -> OpenAIBackend:
        """The endpoint, which is the caller's to close.

        Raises:
            SettingsError: the address cannot be used.
        """
        from ...serving.openai_compatible import OpenAIBackend

        return OpenAIBackend(
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

    api_key_env: str = "MEMLORA_EXECUTIVE_API_KEY"
    name: _Text | None = None
    runs: int | None = Field(default=None, ge=1)

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.name or self.model


class JudgeEndpoint(Endpoint):
    """The model that says whether an answer is right."""

    api_key_env: str = "MEMLORA_JUDGE_API_KEY"
