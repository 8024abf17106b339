"""The judge on the command line: the large model that says whether an answer is right."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..serving.openai_compatible import OpenAIBackend

_JUDGE = "The judge"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions:
    """Where it is."""

    judge_url: Annotated[
        str | None,
        typer.Option(
            envvar="MEMLORA_JUDGE_URL",
            help="Its OpenAI-compatible endpoint; its key is read from MEMLORA_JUDGE_API_KEY.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    judge_model: Annotated[
        str | None, typer.Option(envvar="MEMLORA_JUDGE_MODEL", help="Its name there.", rich_help_panel=_JUDGE)
    ] = None

    @property
    def named(self) -> bool:
        """Whether there is one.

        Raises:
            BadParameter: only one of address and name was given.
        """
        if (self.judge_url is None) != (self.judge_model is None):
            raise typer.BadParameter("--judge-url and --judge-model belong together; give both")
        return self.judge_url is not None

    def backend(self) -> OpenAIBackend:
        """The endpoint, which is the caller's to close; only where one is `named`.

        Raises:
            SettingsError: the address cannot be used.
        """
        from ..serving.openai_compatible import OpenAIBackend

        key = os.environ.get("MEMLORA_JUDGE_API_KEY")
        return OpenAIBackend(self.judge_url or "", self.judge_model or "", api_key=key)
