"""Asking models about images: every answer is recorded before it is used, so that a run that was killed goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...errors import BackendError, ReplyError
from ...experts import vision
from ...serving.base import Completion, Request
from ...training.calls import Call, CallLog
from ...training.recorded import RecordedModel
from ...types import ImagePart
from ..harness.steps import FailureCount
from .images import part

Problem = Literal["unreadable", "failed"]
"""Why a question has no answer: the reply says none, or the server gave no reply."""


class ImageCallLog(CallLog):
    """A record of calls that leaves the images out of what it writes: they would be most of it."""

    def add(self, key: str, request: Request, call: Call) -> None:
        """Keep a finished call."""
        super().add(key, replace(request, messages=[_without_images(one) for one in request.messages]), call)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model made of a question: its answer, or the problem and what the error said."""

    answer: str | None
    reason: str = ""
    problem: Problem | None = None
    error: str = ""
    said: Completion | None = None


def no_reply(stage: str, error: BackendError) -> FailureCount:
    """A call without a reply, as a count of one."""
    return FailureCount(stage=stage, error=type(error).__name__, count=1, example=str(error))


class Pictures:
    """Reads images off the event loop, for at most `concurrency` calls at once: so many are held in memory."""

    def __init__(self, folder: Path, max_side: int, concurrency: int) -> None:
        self._folder, self._max_side = folder, max_side
        self.gate = asyncio.Semaphore(concurrency)

    async def load(self, path: str, sha256: str) -> ImagePart:
        """
        Raises:
            DatasetError: the file cannot be read as an image any more, or is another one.
        """
        return await asyncio.to_thread(part, self._folder / path, sha256=sha256, max_side=self._max_side)


async def see(
    model: RecordedModel, messages: Sequence[Mapping[str, Any]], expert: str, failures: list[FailureCount], stage: str
) -> Seen:
    """The answer to `messages`, asked for and read as the vision expert's; a call without a reply is noted in
    `failures` as one of `stage`.

    Raises:
        BackendError: the model cannot be asked any more. DatasetError: the record of calls cannot be written.
    """
    try:
        said = await model.ask(Request(expert, messages, vision.SCHEMA, vision.MAX_TOKENS))
    except BackendError as error:
        model.check()
        failures.append(no_reply(stage, error))
        return Seen(None, problem="failed", error=f"{type(error).__name__}: {error}")
    try:
        read = vision.read(said.text)
    except ReplyError as error:
        return Seen(None, problem="unreadable", error=str(error), said=said)
    return Seen(read.answer, read.reason, said=said)


def _without_images(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return message
    return {**message, "content": [part if part["type"] == "text" else {"type": part["type"]} for part in content]}
