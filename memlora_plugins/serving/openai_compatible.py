"""Any OpenAI-compatible endpoint as a backend: a teacher, an executive, a judge, or the experts themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from math import isnan
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import BackendRequestError, BackendUnavailableError, SettingsError
from ..flows.effects import CALLS_ONLY, Emit, Finished, adrive, aevents, drive, events
from ..types import Usage
from .base import Completion, Expert, FinishReason, PromptStyle, Request
from .faults import cut_off
from .http import Exchange, Transport

if TYPE_CHECKING:
    import httpx
    from pydantic import SecretStr

    from ..flows.effects import Flow

StructuredOutput = Literal["json_schema", "json_object", "none"]
"""How a JSON reply is asked for: by its schema, as any JSON object, or only in the prompt's words."""


class OpenAIBackend:
    """Experts answered by a plain model behind `/v1/chat/completions`, with the full prompts.

    `base_url` is the API's address; without a path, `/v1` is appended. `model` answers every expert that `models`
    does not name. `structured_output` is what the endpoint understands; replies are read tolerantly either way.
    `extra_body` is merged into each request; a None there removes a field
    (`{"max_tokens": None, "max_completion_tokens": 512}`). Timeouts and `backoff` are seconds.

    Connection errors, 502, 503 and 429 are tried again at most 3 times (429 after what Retry-After says), 500 once
    if the server is up, anything else never.

    Raises:
        SettingsError: an unusable address, a blank model name, or an unknown `structured_output`.
    """

    _start_hint = "Check base_url, and that the endpoint is reachable from here."

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | SecretStr | None = None,
        models: Mapping[str, str] | None = None,
        structured_output: StructuredOutput = "json_schema",
        extra_body: Mapping[str, Any] | None = None,
        connect_timeout: float = 5.0,
        read_timeout: float = 120.0,
        backoff: float = 0.25,
    ) -> None:
        if not all(isinstance(name, str) and name.strip() for name in (model, *(models or {}).values())):
            raise SettingsError("A model name is blank: name the model as the server does (see its /v1/models).")
        if structured_output not in get_args(StructuredOutput):
            raise SettingsError(f"structured_output must be one of {get_args(StructuredOutput)}.")
        self.model = model
        self._models = dict(models or {})
        self._structured_output = structured_output
        self._extra_body = dict(extra_body or {})
        self._transport = Transport(
            base_url,
            api_key=api_key,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            backoff=backoff,
            hint=self._start_hint,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.describe()}>"

    def prompt_style(self, expert: Expert) -> PromptStyle:
        """`"full"`: no adapter was trained for the short prompts."""
        return "full"

    @property
    def identity(self) -> str:
        """A digest of what replies depend on: models and options. The address is not among it, a server may start
        again on another port."""
        options = [self.model, self._models, self._structured_output, self._extra_body]
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()

    def describe(self) -> str:
        names = ", ".join(f"{expert}={name}" for expert, name in self._models.items())
        return f"{self.model} at {self._transport.root_url}" + (f" ({names})" if names else "")

    def complete(self, request: Request) -> Completion:
        return drive(self._completion(request), CALLS_ONLY)

    async def acomplete(self, request: Request) -> Completion:
        return await adrive(self._completion(request), CALLS_ONLY)

    def stream(self, request: Request) -> Iterator[str | Completion]:
        exchange = Exchange(self._transport)
        try:
            yield (yield from events(self._pieces(request, exchange), CALLS_ONLY))
        finally:
            exchange.close()

    async def astream(self, request: Request) -> AsyncIterator[str | Completion]:
        exchange = Exchange(self._transport)
        try:
            async with aclosing(aevents(self._pieces(request, exchange), CALLS_ONLY)) as items:
                async for item in items:
                    yield item.result if isinstance(item, Finished) else item
        finally:
            await exchange.aclose()

    def close(self) -> None:
        """Close the connections; the backend cannot be used afterwards. Closing twice is fine."""
        self._transport.close()

    async def aclose(self) -> None:
        """`close`, asynchronously."""
        await self._transport.aclose()

    # The flows, and what VLLMBackend does otherwise -----------------------------------------------------------------

    def _lease(self, expert: str) -> AbstractContextManager[str]:
        """The name of the model to ask, for as long as it is asked."""
        return nullcontext(self._models.get(expert, self.model))

    def _ask(self, request: Request, model: str, exchange: Exchange | None = None) -> Flow[httpx.Response]:
        body = self._body(request, model, streaming=exchange is not None)
        return (yield from self._transport.post("/chat/completions", body, stream=exchange))

    def _check_answered_by(self, asked: str, answered: str) -> None:
        """Endpoints may answer with a more exact name than was asked for."""

    def _completion(self, request: Request) -> Flow[Completion]:
        with self._lease(request.expert) as model:
            response = yield from self._ask(request, model)
        reply = self._transport.read_json(response)
        try:
            choice = reply["choices"][0]
            text, reason = choice["message"].get("content") or "", choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise self._not_chat() from None
        self._check_answered_by(model, reply.get("model") or model)
        logprobs = _logprobs(choice) if request.logprobs else None
        return self._finished(text, reason, reply.get("usage"), reply.get("model") or model, logprobs)

    def _pieces(self, request: Request, exchange: Exchange) -> Flow[Completion]:
        text: list[str] = []
        logprobs: list[float] | None = None
        reason: str | None = None
        usage: object = None
        with self._lease(request.expert) as model:
            yield from self._ask(request, model, exchange)
            answered = model
            while (line := (yield from exchange.line())) is not None:
                data = line.removeprefix("data:").strip()
                if data == line.strip() or data == "[DONE]":  # comments, blank lines, and the end marker
                    continue
                chunk = self._chunk(data)
                usage = chunk.get("usage") or usage
                answered = chunk.get("model") or answered
                self._check_answered_by(model, answered)
                for choice in chunk.get("choices") or ():
                    reason = choice.get("finish_reason") or reason
                    if request.logprobs and (told := _logprobs(choice)) is not None:
                        logprobs = [*(logprobs or ()), *told]
                    if piece := (choice.get("delta") or {}).get("content"):
                        text.append(piece)
                        yield from Emit(piece)
        if reason is None:
            raise cut_off(self._transport.root_url, "the stream ended without a finish reason")
        return self._finished("".join(text), reason, usage, answered, None if logprobs is None else tuple(logprobs))

    def _chunk(self, data: str) -> dict[str, Any]:
        try:
            chunk = json.loads(data)
        except ValueError:
            raise self._not_chat() from None
        if not isinstance(chunk, dict):
            raise self._not_chat()
        if error := chunk.get("error"):
            said = error.get("message") if isinstance(error, dict) else error
            raise cut_off(self._transport.root_url, self._transport.quote(said))
        return chunk

    def _finished(
        self, text: str, reason: str | None, usage: object, model: str, logprobs: tuple[float, ...] | None
    ) -> Completion:
        """The completion, unless the server says that it is none."""
        if reason == "content_filter":
            raise BackendRequestError(f"{self._transport.root_url} withheld the reply (content filter).", status=200)
        if reason in ("abort", "error"):
            raise BackendUnavailableError(f"{self._transport.root_url} gave up on the reply ({reason}). Ask again.")
        finish: FinishReason = "length" if reason == "length" else "stop"
        counts = usage if isinstance(usage, dict) else {}
        tokens = Usage(1, int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0))
        return Completion(text, finish, tokens, model, logprobs)

    def _not_chat(self) -> BackendRequestError:
        return BackendRequestError(
            f"{self._transport.root_url} answered something that is not an OpenAI-style chat completion. "
            f"{self._transport.hint}",
            status=200,
        )

    def _body(self, request: Request, model: str, *, streaming: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "messages": [dict(message) for message in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
        }
        if streaming:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if request.logprobs:
            body["logprobs"] = True
        if request.schema is not None and self._structured_output == "json_schema":
            schema = {"name": request.expert, "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif request.schema is not None and self._structured_output == "json_object":
            body["response_format"] = {"type": "json_object"}
        body |= self._extra_body
        return {field: value for field, value in body.items() if value is not None}


def _logprobs(choice: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The log-probabilities of the tokens in a choice, or in a piece of one; None where it does not tell them all."""
    told = choice.get("logprobs")
    tokens = told.get("content") if isinstance(told, dict) else None
    if not isinstance(tokens, list):
        return None
    values = [token.get("logprob") if isinstance(token, dict) else None for token in tokens]
    known = [float(value) for value in values if isinstance(value, int | float) and not isnan(value)]
    return tuple(known) if len(known) == len(values) else None
