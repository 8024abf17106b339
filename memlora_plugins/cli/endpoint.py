"""The large model that a command asks many questions: options that name it, and the backend they describe."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .eval_options import Api

if TYPE_CHECKING:
    from ..serving.base import Backend
    from ..settings import Settings

_MODEL = "The large model"


class Structure(StrEnum):
    """How a model is held to JSON."""

    json_schema = "json_schema"
    json_object = "json_object"
    none = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the model is, how it is asked, and what it costs."""

    base_url: Annotated[
        str | None,
        typer.Option(envvar="MEMLORA_BASE_URL", help="Its server, up to /v1.", rich_help_panel=_MODEL),
    ] = None
    model: Annotated[
        str | None, typer.Option(envvar="MEMLORA_MODEL", help="Its name there.", rich_help_panel=_MODEL)
    ] = None
    api: Annotated[Api, typer.Option(help="What speaks there.", rich_help_panel=_MODEL)] = Api.openai
    structured_output: Annotated[
        Structure, typer.Option(help="How JSON is asked for (openai).", rich_help_panel=_MODEL)
    ] = Structure.json_schema
    thinking_tokens: Annotated[
        int, typer.Option(min=0, help="Extra room for thinking before each reply.", rich_help_panel=_MODEL)
    ] = 0
    timeout: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds to wait for a reply.", show_default="120", rich_help_panel=_MODEL),
    ] = None
    extra_body: Annotated[
        str | None,
        typer.Option(
            metavar="JSON", help="Fields for every request (openai); null removes one.", rich_help_panel=_MODEL
        ),
    ] = None
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at once.", rich_help_panel=_MODEL)] = 8
    price_in: Annotated[float | None, typer.Option(min=0, help="Per million input tokens.", rich_help_panel=_MODEL)] = (
        None
    )
    price_out: Annotated[
        float | None, typer.Option(min=0, help="Per million output tokens.", rich_help_panel=_MODEL)
    ] = None

    def settings(self, **more: Any) -> Settings:
        """What these options set, and the environment.

        Raises:
            SettingsError: they contradict each other.
        """
        from ..settings import load_settings

        return load_settings(
            base_url=self.base_url,
            model=self.model,
            api=self.api.value if self.base_url else Api.vllm.value,
            adapters={},
            read_timeout=self.timeout,
            **more,
        )

    def backend(self, settings: Settings) -> Backend | None:
        """The model; None where no server is named.

        Raises:
            BadParameter: `extra_body` is no JSON object.
        """
        from ..core import build_backend
        from ..serving.openai_compatible import OpenAIBackend

        extra = self._extra()
        if settings.base_url is None:
            return None
        if settings.api == "vllm":
            return build_backend(settings)
        return OpenAIBackend(
            settings.base_url,
            settings.model or "",
            api_key=settings.api_key,
            structured_output=self.structured_output.value,
            extra_body=extra,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
        )

    def recorded_name(self, settings: Settings) -> str:
        """What a record of calls has as the model: asked in another way, a call is another one."""
        from ..training.identity import digest

        name = settings.model or ""
        if self.structured_output is not Structure.json_schema:
            name += f" {self.structured_output.value}"
        if extra := self._extra():
            name += f" {digest(extra)[:12]}"  # not the fields themselves: one may be a key
        return name

    def _extra(self) -> dict[str, Any]:
        try:
            value = jsonlib.loads(self.extra_body or "{}")
        except ValueError as error:
            raise typer.BadParameter(f"--extra-body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise typer.BadParameter("--extra-body must be a JSON object")
        return value
