"""Reading files of conversation: plain chat JSONL, or this library's own exported rows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import InvalidInputError, MessageError
from .types import Message

_NAMESPACE = uuid.UUID("0f0f4a6e-2f0e-4f0d-9d0b-696d706f7274")


def rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a JSONL file with their line numbers; blank lines are skipped.

    Raises:
        InvalidInputError: the file cannot be read, or a line is no JSON object.
    """
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json_object(line)
                except InvalidInputError as error:
                    raise InvalidInputError(f"{file}, line {number}: {error}") from error
                yield number, row
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} is not UTF-8 text.") from error


def json_object(line: str) -> dict[str, Any]:
    """The JSON object in a line of JSONL.

    Raises:
        InvalidInputError: the line is something else; the message says what, not where.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"not JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without an end
        raise InvalidInputError(f"not JSON that can be read ({error}).") from error
    if not isinstance(row, dict):
        raise InvalidInputError("a JSON object is needed, one per line.")
    return row


def is_export(row: Mapping[str, Any]) -> bool:
    """True for a row that `memlora export` wrote."""
    return row.get("kind") in ("turn", "fact") and "user_id" in row


def chat_message(file: Path, number: int, row: Mapping[str, Any]) -> Message:
    """A message from `{"role", "content"}` and, optionally, `id`, `name`, `created_at` and `metadata`.

    `created_at` is ISO 8601 or Unix seconds. Without an id the message gets one made of file name, line number and
    text, so that a repeated import adds nothing.

    Raises:
        InvalidInputError: the line is something else; the message names it.
    """
    try:
        role, content = row["role"], row["content"]
        if not isinstance(content, str):
            raise MessageError(f"content must be text, got {type(content).__name__}.")
        identity = "\x1f".join((file.name, str(number), str(role), content)).encode("utf-8", "replace").decode()
        return Message(
            role,
            content,
            id=str(row.get("id") or uuid.uuid5(_NAMESPACE, identity)),
            name=row.get("name"),
            created_at=moment(row.get("created_at")),
            metadata=row.get("metadata") or {},
        )
    except KeyError as error:
        raise InvalidInputError(
            f'{file}, line {number}: {error} is missing; write {{"role": "user", "content": "…"}}, one per line.'
        ) from error
    except MessageError as error:
        raise InvalidInputError(f"{file}, line {number}: {error}") from error


def moment(given: object) -> datetime | None:
    """A time from ISO 8601 or Unix seconds.

    Raises:
        MessageError: it is neither.
    """
    try:
        if given is None:
            return None
        if isinstance(given, int | float) and not isinstance(given, bool):
            return datetime.fromtimestamp(given, UTC)
        if isinstance(given, str):
            return datetime.fromisoformat(given)
    except (ValueError, OverflowError, OSError):
        pass  # said below, with an example
    raise MessageError(f"{given!r} is no time; write ISO 8601, e.g. 2025-06-15 or 2025-06-15T18:30+01:00.")
