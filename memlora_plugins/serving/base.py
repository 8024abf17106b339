"""The seam between the flows and whatever runs an expert."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from ..types import Usage

Expert = Literal["extraction", "update", "generation", "vision"]
PromptStyle = Literal["short", "full"]
FinishReason = Literal["stop", "length"]
ChatMessage = Mapping[str, Any]
"""A chat message in the OpenAI form: `{"role": …, "content": text or parts}`."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one expert.

    `schema` is a JSON schema the reply must follow (sent as structured output), or None for plain text. `pattern` is a
    regular expression that all of a plain reply must match, where the backend can hold it to one: in process and vLLM
    can, an OpenAI-compatible endpoint cannot.
    `max_tokens` bounds the reply; `temperature` 0 is greedy. With `logprobs`, the completion says how sure the model
    was of each token.
    """

    expert: str
    messages: Sequence[ChatMessage]
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 512
    temperature: float = 0.0
    pattern: str | None = None
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """An expert's reply. `model` is the adapter or model that answered; `length` means it was cut off.

    `logprobs` are the natural logarithms of how likely the model found each token that it said, whatever the
    temperature and the grammar; None where nobody asked, or the server does not tell. In process and on vLLM the token
    that ends a reply is among them; OpenAI leaves it out.
    """

    text: str
    finish_reason: FinishReason = "stop"
    usage: Usage = field(default_factory=lambda: Usage(calls=1))
    model: str = ""
    logprobs: tuple[float, ...] | None = None


@runtime_checkable
class Backend(Protocol):
    """Runs experts. Sync and async are both native; all methods are safe to call from many threads and tasks.

    Raises (every completing method):
        BackendUnavailableError, BackendTimeoutError, BackendRequestError, AdapterError: see `errors`.
    """

    def prompt_style(self, expert: Expert) -> PromptStyle:
        """`"short"` where a trained adapter answers, `"full"` for an untrained base model."""

    def complete(self, request: Request) -> Completion: ...

    async def acomplete(self, request: Request) -> Completion: ...

    def stream(self, request: Request) -> Iterator[str | Completion]:
        """Pieces of text as they come; the last item is the whole `Completion`."""

    def astream(self, request: Request) -> AsyncIterator[str | Completion]: ...

    def describe(self) -> str:
        """One line for people: what answers and where. No secrets."""

    def close(self) -> None: ...

    async def aclose(self) -> None: ...
