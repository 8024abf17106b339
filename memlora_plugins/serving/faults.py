"""What an HTTP failure of a model server means: which typed error, and whether trying again can help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BackendError, BackendRequestError, BackendUnavailableError, PromptTooLongError

if TYPE_CHECKING:
    import httpx

LONGEST_RETRY_AFTER = 60.0
"""Seconds. A server that asks for a longer pause gets an error instead of a caller that hangs."""

_LONGEST_QUOTE = 300
_TOO_LONG = re.compile(
    r"(context|model) (length|size|window)|(prompt|inputs?|messages?)\b.{0,40}\btoo (long|large|many)", re.IGNORECASE
)
_TOO_LONG_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})


class Again(Exception):
    """Inside the transport only: `error` happened, and up to `limit` more attempts are worth it.

    `after` is the pause the server asked for, in seconds.
    """

    def __init__(self, error: BackendError, *, limit: int, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.limit = limit
        self.after = after


class NotServedError(BackendRequestError):
    """The server knows no model or adapter of that name: after a restart, dynamic adapters are gone."""


def unreachable(url: str, hint: str, error: Exception) -> BackendUnavailableError:
    """Nobody answered at `url`."""
    return BackendUnavailableError(f"No model server answers at {url} ({type(error).__name__}: {error}). {hint}")


def cut_off(url: str, error: Exception | str) -> BackendUnavailableError:
    """The reply began and did not end."""
    return BackendUnavailableError(f"{url} broke off in the middle of a reply ({error}). Ask again.")


def status_error(response: httpx.Response, url: str, hint: str, secret: str = "") -> BackendError:
    """The error for a bad HTTP status. `secret` is blanked where the server echoes it."""
    status = response.status_code
    details = error_details(response)
    said = quote(details.get("message") or response.reason_phrase or "no explanation", secret)
    if status == 429 or status >= 500:
        advice = "It is asked too often; try again later." if status == 429 else "See its log, and try again later."
        return BackendUnavailableError(f"{url} answered {status}: {_sentence(said)} {advice}")
    if status == 404 and details.get("param") == "model":
        return NotServedError(
            f"{url} does not serve the model that was asked for: {_sentence(said)} Name one that its /v1/models lists.",
            status=status,
        )
    if 300 <= status < 400:
        target = response.headers.get("location", "nowhere")
        return BackendRequestError(f"{url} redirects to {target}; set base_url to the final address.", status=status)
    if status in (400, 413, 422) and _is_too_long(details):
        advice = "Shorten the messages or lower max_tokens."
        return PromptTooLongError(f"{url} refused the request with {status}: {_sentence(said)} {advice}", status=status)
    advice = {401: "Check api_key.", 403: "Check api_key.", 404: hint}.get(status, "Sending it again cannot help.")
    return BackendRequestError(f"{url} refused the request with {status}: {_sentence(said)} {advice}", status=status)


def _is_too_long(details: Mapping[str, Any]) -> bool:
    """Whether an error object says that the context window is too small; servers agree on no code for it."""
    named = {str(details.get(key)) for key in ("code", "type")}
    return bool(named & _TOO_LONG_CODES or _TOO_LONG.search(str(details.get("message"))))


def _sentence(said: str) -> str:
    return said if said.endswith((".", "!", "?", "…")) else f"{said}."


def quote(said: object, secret: str = "") -> str:
    """What a server said, short enough for an error message, with `secret` blanked."""
    text = str(said).replace(secret, "***") if secret else str(said)
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"


def error_details(response: httpx.Response) -> dict[str, Any]:
    """The error object of an OpenAI-style answer, whichever way it is wrapped; empty if there is none."""
    try:
        body = response.json()
    except ValueError:
        return {}
    if not isinstance(body, dict):
        return {}
    error = body.get("error", body)
    return error if isinstance(error, dict) else {"message": error}


def retry_delay(response: httpx.Response) -> float | Literal[False] | None:
    """Seconds that Retry-After asks for, None where it does not say, False where it is too long to wait."""
    header = response.headers.get("retry-after")
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds <= LONGEST_RETRY_AFTER else False
