"""The experts on a vLLM server: one base model, one LoRA adapter per expert, chosen by name in each request."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AdapterNotLoadedError
from ..flows.effects import CALLS_ONLY, adrive, drive
from .base import Expert, PromptStyle, Request
from .faults import NotServedError
from .http import Exchange
from .openai_compatible import OpenAIBackend
from .registry import AdapterRegistry

if TYPE_CHECKING:
    import httpx
    from pydantic import SecretStr

    from ..flows.effects import Flow


class VLLMBackend(OpenAIBackend):
    """Experts on the vLLM server at `base_url`, over the base model it serves as `model`.

    `adapters` maps an expert to its LoRA adapter: a folder (checked now, loaded into the server when first used and
    again after a restart; the server must see the same path) or the name of one that the server was started with.
    An expert without an adapter is the base model with the full prompt. `max_lora_rank` is the server's limit where
    it is known. Otherwise as `OpenAIBackend`.

    Raises:
        SettingsError: an unusable address or a blank model name.
        AdapterInvalidError: a folder holds no adapter that can be served.
    Raises (completing methods), besides those of `Backend`:
        AdapterNotLoadedError: the server does not have the adapter and it could not be loaded. The base model never
            answers in its place.
    """

    _start_hint = "Start a server with `memlora serve`, or check base_url."

    def __init__(
        self,
        base_url: str,
        model: str,
        adapters: Mapping[str, str | Path] | None = None,
        *,
        api_key: str | SecretStr | None = None,
        max_lora_rank: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        connect_timeout: float = 5.0,
        read_timeout: float = 120.0,
        backoff: float = 0.25,
    ) -> None:
        super().__init__(
            base_url,
            model,
            api_key=api_key,
            extra_body=extra_body,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            backoff=backoff,
        )
        self._registry = AdapterRegistry(self._transport, adapters or {}, base_model=model, max_rank=max_lora_rank)
        self._drain_seconds = read_timeout

    @property
    def adapters(self) -> dict[str, str]:
        """Expert to the name its adapter has on the server."""
        return self._registry.names

    def prompt_style(self, expert: Expert) -> PromptStyle:
        """`"short"` for an expert with an adapter, `"full"` for the base model."""
        return "short" if expert in self._registry else "full"

    def describe(self) -> str:
        experts = ", ".join(f"{expert}={name}" for expert, name in self.adapters.items()) or "no adapters"
        return f"vLLM at {self._transport.root_url}, base model {self.model}, {experts}"

    def swap_adapter(self, expert: Expert, adapter: str | Path) -> str:
        """Give an expert another adapter while requests go on; returns its name on the server.

        The new one is loaded first, then used; the old one is unloaded once its last request is answered, or stays
        if that takes longer than `read_timeout`. Its files may be deleted after this returns.

        Raises:
            AdapterInvalidError, AdapterNotLoadedError: the new one cannot be served; the old one stays in use.
        """
        return drive(self._registry.swap(expert, adapter, drain_seconds=self._drain_seconds), CALLS_ONLY)

    async def aswap_adapter(self, expert: Expert, adapter: str | Path) -> str:
        """`swap_adapter`, asynchronously."""
        return await adrive(self._registry.swap(expert, adapter, drain_seconds=self._drain_seconds), CALLS_ONLY)

    def _body(self, request: Request, model: str, *, streaming: bool) -> dict[str, Any]:
        body = super()._body(request, model, streaming=streaming)
        if request.schema is None and request.pattern is not None and "structured_outputs" not in self._extra_body:
            body["structured_outputs"] = {"regex": request.pattern}
        return body

    def _lease(self, expert: str) -> AbstractContextManager[str]:
        return self._registry.lease(expert) if expert in self._registry else super()._lease(expert)

    def _ask(self, request: Request, model: str, exchange: Exchange | None = None) -> Flow[httpx.Response]:
        if not self._registry.manages(model):
            return (yield from super()._ask(request, model, exchange))
        yield from self._registry.ensure(model)
        try:
            return (yield from super()._ask(request, model, exchange))
        except NotServedError:
            self._registry.forget(model)  # the server was restarted
        yield from self._registry.ensure(model)
        try:
            return (yield from super()._ask(request, model, exchange))
        except NotServedError as error:
            raise AdapterNotLoadedError(
                f"{self._transport.root_url} lists adapter {model} but does not answer with it: {error}"
            ) from error

    def _check_answered_by(self, asked: str, answered: str) -> None:
        if asked != answered:
            raise AdapterNotLoadedError(
                f"{self._transport.root_url} was asked for {asked} and answered with {answered}; the reply was dropped."
            )
