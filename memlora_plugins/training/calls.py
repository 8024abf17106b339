"""The finished calls of a large model, on disk: a run that was killed goes on, and no call is paid for twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from ..serving.base import Completion, Request
from ..types import Usage
from .journal import Journal


@dataclass(frozen=True, slots=True)
class Call:
    """A finished call: what was said, and how many seconds that took."""

    completion: Completion
    seconds: float


def call_key(request: Request, model: str) -> str:
    """What makes two calls the same: expert, messages, schema, room for the reply, temperature, and who is asked."""
    asked = {
        "expert": request.expert,
        "messages": [dict(message) for message in request.messages],
        "schema": request.schema,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "model": model,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class CallLog:
    """Calls by `call_key`, kept in a `Journal` before they are used; one process at a time.

    `began` is when the file was begun: the time of messages that have none, so that a later run makes the same
    prompts.

    Raises (constructor, add):
        DatasetError: as `Journal`, or the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._calls: dict[str, Call] = {}
        # power loss costs the last calls; waiting for the disk, every one. Prompts are long, and not wanted again.
        self._journal = Journal(path, sync=False, written_only=("messages",))
        try:
            self.began = self._read()
            self._journal.rows.clear()
        except BaseException:
            self._journal.close()
            raise

    def __len__(self) -> int:
        return len(self._calls)

    def get(self, key: str) -> Call | None:
        """The call, if it was made."""
        return self._calls.get(key)

    def add(self, key: str, request: Request, call: Call) -> None:
        """Keep a finished call."""
        said = call.completion
        self._journal.add(
            {
                "key": key,
                "expert": request.expert,
                "messages": [dict(message) for message in request.messages],
                "max_tokens": request.max_tokens,
                "temperature": request.temperature,
                "text": said.text,
                "finish_reason": said.finish_reason,
                "input_tokens": said.usage.input_tokens,
                "output_tokens": said.usage.output_tokens,
                "model": said.model,
                "seconds": round(call.seconds, 3),
            }
        )
        self._journal.rows.clear()
        self._calls[key] = call

    def close(self) -> None:
        """Let others have the file."""
        self._journal.close()

    def _read(self) -> datetime:
        if not self._journal.rows:
            began = datetime.now(UTC)
            self._journal.add({"began": began.isoformat()})
            return began
        first, *rows = self._journal.rows
        try:
            began = datetime.fromisoformat(first["began"])
        except (ValueError, KeyError, TypeError):
            raise DatasetError(f"{self.path} is not a record of calls. Use an empty folder.") from None
        for number, row in enumerate(rows, start=2):
            try:
                self._calls[str(row["key"])] = _call(row)
            except (ValueError, KeyError, TypeError):
                raise DatasetError(
                    f"{self.path}, line {number} is damaged. Delete that line; its call is made again."
                ) from None
        return began


def _call(row: Mapping[str, Any]) -> Call:
    text, reason = row["text"], row["finish_reason"]
    if not isinstance(text, str) or reason not in ("stop", "length"):
        raise ValueError
    usage = Usage(1, int(row["input_tokens"]), int(row["output_tokens"]))
    return Call(Completion(text, reason, usage, str(row["model"])), float(row["seconds"]))
