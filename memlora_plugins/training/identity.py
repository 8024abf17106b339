"""What a resumable piece of work is made of, so that it is never continued with something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInputError
from ..files import write_whole
from ..store.ranking import CAPTION

if TYPE_CHECKING:
    from ..evaluation.conversations import Conversation


_SHORTEST_DIGEST = 16  # characters: what is shorter is told as it is
_MOST_TOLD = 5


def digest(value: Any) -> str:
    """The SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def conversation_row(talk: Conversation) -> dict[str, Any]:
    """What of a conversation a measurement depends on: who said what and when, with the captions of images, and what is
    asked. Ids of messages are not, they may be made up when it is read."""
    return {
        "id": talk.id,
        "messages": [
            [
                *(session, said.role, said.name, said.text, said.created_at and said.created_at.isoformat()),
                *([said.metadata[CAPTION]] if said.metadata.get(CAPTION) else []),
            ]
            for session, said in talk.messages
        ],
        "questions": [[question.text, question.answer, question.category] for question in talk.questions],
    }


def check_same(file: Path, made_of: Mapping[str, str]) -> None:
    """Compare with what `file` says the earlier work was made of, as far as both name a thing; then note the rest.

    Raises:
        InvalidInputError: something differs (the message names it), or the file cannot be read.
        OSError: it cannot be written.
    """
    try:
        before: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}. Use another folder.") from error
    if differing := [name for name in made_of if before.get(name, made_of[name]) != made_of[name]]:
        told = [_told(name, before[name], made_of[name]) for name in differing[:_MOST_TOLD]]
        more = f", and {len(differing) - _MOST_TOLD} more" if len(differing) > _MOST_TOLD else ""
        raise InvalidInputError(
            f"{file.parent} holds work with {', '.join(told)}{more}. Use another folder, or the same material."
        )
    if before.keys() != (before | dict(made_of)).keys():
        write_whole(file, json.dumps(before | dict(made_of), indent=1) + "\n")


def _told(name: str, before: str, now: str) -> str:
    """What differs, with the values where these are no digests."""
    short = max(len(before), len(now)) < _SHORTEST_DIGEST
    return f"another {name} ({before} there, {now} now)" if short else f"another {name}"
