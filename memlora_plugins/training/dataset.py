"""Training samples: what an expert was asked, exactly as it is served, and the reply it should have given.

A file of samples is JSONL, one sample a line; a folder of them holds one file for each expert (`extraction.jsonl`, …).
Splits are by conversation: one that is in two splits would make the measured quality worthless, and is refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import DatasetError
from ..files import write_whole
from ..rows import read_rows
from ..serving.base import Expert


class ChatLine(BaseModel):
    """One message of a prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class Sample(BaseModel):
    """One thing for an expert to learn. `id` is unique in its file; `conversation` is what splits are made by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    expert: Expert | Literal["memory"]
    conversation: str = Field(min_length=1)
    messages: tuple[ChatLine, ...] = Field(min_length=1)
    reply: str = Field(min_length=1)


def read_samples(path: str | os.PathLike[str]) -> list[Sample]:
    """The samples of a JSONL file, in its order.

    Raises:
        DatasetError: the file cannot be read, is empty, a line is no sample, or an id occurs twice; the message says
            which line.
    """
    samples = read_rows(path, Sample, "has no samples. `memlora distil` writes them.")
    repeated = [id for id, count in Counter(sample.id for sample in samples).items() if count > 1]
    if repeated:
        raise DatasetError(f"{path} has the id {repeated[0]!r} more than once.")
    return samples


def write_samples(path: str | os.PathLike[str], samples: Iterable[Sample]) -> None:
    """Write samples to a JSONL file, all or nothing.

    Raises:
        DatasetError: the file cannot be written; one that was there before is unchanged.
    """
    try:
        write_whole(Path(path), "".join(f"{sample.model_dump_json()}\n" for sample in samples))
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error}") from error


def check_splits(splits: Mapping[str, Sequence[str]]) -> None:
    """Refuse splits (name to the conversations in it) that are empty or share a conversation.

    Raises:
        DatasetError: naming the split, or the conversations and the two splits they are in.
    """
    seen: dict[str, str] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for split, conversations in splits.items():
        if not conversations:
            raise DatasetError(f"The {split} split is empty. Name at least one conversation for it.")
        for conversation in dict.fromkeys(conversations):
            if conversation in seen:
                shared.setdefault((seen[conversation], split), []).append(conversation)
            seen.setdefault(conversation, split)
    if shared:
        told = "; ".join(f"{', '.join(ids)} in both {one} and {other}" for (one, other), ids in shared.items())
        raise DatasetError(f"Splits must not share conversations: {told}.")
