"""Asking one expert for a structured reply: one question, one retry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ..errors import PromptTooLongError, ReplyError
from ..serving.base import ChatMessage, Expert, Request
from ..types import Usage
from .effects import Complete, Flow


class _Readable(Protocol):
    """What an expert's `read` returns: it knows whether the reply was cut off."""

    @property
    def truncated(self) -> bool: ...


R = TypeVar("R", bound=_Readable)

RETRY_TEMPERATURE = 0.3
"""A second greedy attempt would say the same again."""


@dataclass(frozen=True, slots=True)
class Asked(Generic[R]):
    """A reading, what it cost, and whether the reply stayed cut off in spite of a retry (complete items are kept)."""

    reading: R
    usage: Usage
    truncated: bool


def ask(
    expert: Expert,
    messages: Sequence[ChatMessage],
    read: Callable[[str], R],
    *,
    schema: Mapping[str, Any],
    max_tokens: int,
) -> Flow[Asked[R]]:
    """Ask `expert`; once more if the reply cannot be read, or with twice the room if it was cut off.

    Raises:
        ReplyError: the second reply cannot be read either, or the model's window has no room for a longer one.
        PromptTooLongError: not even the first reply has room.
        BackendError: as the backend raises it.
    """
    first = yield from Complete(Request(expert, messages, schema, max_tokens))
    cut = first.finish_reason == "length"
    try:
        reading = read(first.text)
        if not (cut or reading.truncated):
            return Asked(reading, first.usage, truncated=False)
    except ReplyError:
        pass  # asked again below; the second failure is raised
    room = max_tokens * 2 if cut else max_tokens
    temperature = 0.0 if cut else RETRY_TEMPERATURE
    try:
        second = yield from Complete(Request(expert, messages, schema, room, temperature))
    except PromptTooLongError as error:  # no room for a longer reply: the first is all there is
        try:
            return Asked(read(first.text), first.usage, truncated=True)
        except ReplyError as unread:
            raise ReplyError(f"{unread} A longer reply has no room: {error}", reply=first.text) from error
    reading = read(second.text)
    truncated = reading.truncated or second.finish_reason == "length"
    return Asked(reading, first.usage + second.usage, truncated)
