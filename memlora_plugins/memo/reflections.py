"""Reflections: the question-answer pairs that a Memory model is trained on, and where each of them came from.

Provenance stands beside a pair and never in its text: a Memory model that could read an identifier would learn it in
place of what was asked (Section 4.1 of the MeMo paper).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..errors import DatasetError
from ..files import write_whole
from ..rows import read_rows

Step = Literal["1a", "1b", "2", "3", "4", "5"]
"""1a direct facts, 1b indirect ones, 2 consolidated, 3 rewritten to stand alone, 4 entities, 5 across documents."""
STEPS: tuple[Step, ...] = get_args(Step)

_Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class Reflection(BaseModel):
    """A question and its answer. `id` is unique in its file.

    `step` made the pair; `steps` are that one and all that it descends from. `documents` support it, by id; `group` is
    the one it was found in (step 5), `parents` are the ids of the pairs it was made from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    question: _Text
    answer: _Text
    step: Step
    steps: tuple[Step, ...]
    documents: tuple[str, ...] = Field(min_length=1)
    group: str | None = None
    parents: tuple[str, ...] = ()


class HeldOutQuestion(BaseModel):
    """A question that no Memory model is trained on, to measure what it knows. `answers` are all that count as right.

    `kind` is what results are counted by: a fact, an entity, across documents, or a name of your own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: _Text
    answers: tuple[_Text, ...] = Field(min_length=1)
    kind: str = "fact"
    documents: tuple[str, ...] = ()


def read_reflections(path: str | os.PathLike[str]) -> list[Reflection]:
    """The reflections of a JSONL file, in its order.

    Raises:
        DatasetError: the file cannot be read, is empty, a line is no reflection, or an id occurs twice; the message
            says which line.
    """
    rows = read_rows(path, Reflection, "is empty. `memlora memo synthesize` writes them.")
    repeated = [id for id, count in Counter(row.id for row in rows).items() if count > 1]
    if repeated:
        raise DatasetError(f"{path} has the id {repeated[0]!r} more than once.")
    return rows


def read_held_out(path: str | os.PathLike[str]) -> list[HeldOutQuestion]:
    """The questions of a JSONL file, in its order.

    Raises:
        DatasetError: as `read_reflections`.
    """
    return read_rows(path, HeldOutQuestion, 'is empty. A line is {"question": "…", "answers": ["…"], "kind": "fact"}.')


def write_rows(path: str | os.PathLike[str], rows: Iterable[Reflection | HeldOutQuestion]) -> None:
    """Write reflections or questions to a JSONL file, all or nothing.

    Raises:
        DatasetError: the file cannot be written; one that was there before is unchanged.
    """
    try:
        write_whole(Path(path), "".join(f"{row.model_dump_json()}\n" for row in rows))
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error}") from error


def without_steps(reflections: Iterable[Reflection], left_out: Collection[Step]) -> list[Reflection]:
    """The reflections that descend from none of the steps `left_out` (the ablation of Appendix E.1)."""
    return [one for one in reflections if not set(one.steps) & set(left_out)]
