"""Options that name one model by its address and its name there: what judge, Executive and validator share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import typer

from .options import named_if_unusable

if TYPE_CHECKING:
    from ..evaluation.harness.endpoints import Endpoint
    from ..serving.openai_compatible import OpenAIBackend


def url_option(who: str, panel: str) -> Any:
    """The option for the field `WHO_url: str | None`."""
    key = f"MEMLORA_{who.upper()}_API_KEY"
    told = f"Its OpenAI-compatible endpoint; its key is read from {key}."
    return typer.Option(envvar=f"MEMLORA_{who.upper()}_URL", help=told, rich_help_panel=panel)


def model_option(who: str, panel: str) -> Any:
    """The option for the field `WHO_model: str | None`."""
    return typer.Option(envvar=f"MEMLORA_{who.upper()}_MODEL", help="Its name there.", rich_help_panel=panel)


class LargeModelOptions(ABC):
    """Base of a group with the fields `WHO_url` and `WHO_model`."""

    __slots__ = ()
    who: ClassVar[str]

    @property
    def _given(self) -> tuple[str | None, str | None]:
        return getattr(self, f"{self.who}_url"), getattr(self, f"{self.who}_model")

    @property
    def named(self) -> bool:
        """Whether there is one.

        Raises:
            BadParameter: only one of address and name was given.
        """
        url, model = self._given
        if (url is None) != (model is None):
            raise typer.BadParameter(f"--{self.who}-url and --{self.who}-model belong together; give both")
        return url is not None

    def endpoint(self, **more: Any) -> Endpoint:
        """It, as a configuration has it, with `more` of what that may say; only where one is `named`.

        Raises:
            SettingsError: the address or the name is blank.
        """
        url, model = self._given
        with named_if_unusable():
            return self._kind()(base_url=url or "", model=model or "", **more)

    def backend(self, **more: Any) -> OpenAIBackend:
        """Its backend, which is the caller's to close; else as `endpoint`.

        Raises:
            SettingsError: the address cannot be used.
        """
        return self.endpoint(**more).backend()

    @abstractmethod
    def _kind(self) -> Callable[..., Endpoint]:
        """What a configuration has it as."""
