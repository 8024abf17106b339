"""The Executive on the command line: the large model that asks a Memory model, or reads what was found."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..serving.openai_compatible import OpenAIBackend

_EXECUTIVE = "The large model that reasons"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutiveOptions:
    """Where it is."""

    executive_url: Annotated[
        str | None,
        typer.Option(
            envvar="MEMLORA_EXECUTIVE_URL",
            help="Its OpenAI-compatible endpoint; its key is read from MEMLORA_EXECUTIVE_API_KEY.",
            rich_help_panel=_EXECUTIVE,
        ),
    ] = None
    executive_model: Annotated[
        str | None,
        typer.Option(envvar="MEMLORA_EXECUTIVE_MODEL", help="Its name there.", rich_help_panel=_EXECUTIVE),
    ] = None

    @property
    def named(self) -> bool:
        """Whether there is one.

        Raises:
            BadParameter: only one of address and name was given.
        """
        if (self.executive_url is None) != (self.executive_model is None):
            raise typer.BadParameter("--executive-url and --executive-model belong together; give both")
        return self.executive_url is not None

    def backend(self) -> OpenAIBackend:
        """The endpoint, which is the caller's to close; only where one is `named`.

        Raises:
            SettingsError: the address cannot be used.
        """
        from ..serving.openai_compatible import OpenAIBackend

        key = os.environ.get("MEMLORA_EXECUTIVE_API_KEY")
        return OpenAIBackend(self.executive_url or "", self.executive_model or "", api_key=key)
