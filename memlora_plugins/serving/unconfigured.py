"""The backend of a memory that has no model: everything is kept and found, nothing is distilled or generated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import NoReturn

from ..errors import BackendNotConfiguredError
from .base import Completion, Expert, PromptStyle, Request


class UnconfiguredBackend:
    """Raises `BackendNotConfiguredError` whenever an expert is asked; turns stay pending until a model is there."""

    def prompt_style(self, expert: Expert) -> PromptStyle:
        return "full"

    def complete(self, request: Request) -> Completion:
        self._refuse(request)

    async def acomplete(self, request: Request) -> Completion:
        self._refuse(request)

    def stream(self, request: Request) -> Iterator[str | Completion]:
        self._refuse(request)

    def astream(self, request: Request) -> AsyncIterator[str | Completion]:
        self._refuse(request)

    def _refuse(self, request: Request) -> NoReturn:
        raise not_configured(request.expert)

    def describe(self) -> str:
        return "no model (turns are kept and searched, not distilled)"

    def close(self) -> None:
        """Nothing to release."""

    async def aclose(self) -> None:
        """Nothing to release."""


def not_configured(expert: str) -> BackendNotConfiguredError:
    """What is said to whoever asks an expert that is not there."""
    return BackendNotConfiguredError(
        f"No model is configured, so the {expert} expert cannot answer. Pass base_url= and model= (a vLLM server, see "
        "`memlora serve`), or model= with a folder to run one in process; what was said is kept, and flush() distils "
        "it then."
    )
