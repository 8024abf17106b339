"""Answers of LoCoMo that somebody corrected: about one in sixteen of the published ones is known to be wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AliasChoices, BaseModel, Field

from ..errors import DatasetError
from ..rows import read_listed
from ..types import clean_text

if TYPE_CHECKING:
    from .locomo import Conversation, Question


@dataclass(frozen=True, slots=True)
class Corrections:
    """How many questions got another answer or other evidence, were left out, or were as the file of corrections has
    them already. A question that is asked twice counts twice."""

    changed: int = 0
    left_out: int = 0
    confirmed: int = 0


def corrected(
    conversations: Sequence[Conversation], path: str | PathLike[str]
) -> tuple[list[Conversation], Corrections]:
    """`conversations` with the answers that a file gives, and the number of changes.

    The file is JSONL, or one JSON list, of such rows:

        {"conversation": "conv-1", "question": "When did Ana buy the boat?", "answer": "7 May 2023"}
        {"conversation": "conv-1", "question": "Whose plane is it?", "answer": null}
        {"conversation": "conv-1", "question": "Who sails?", "answer": "Ben", "evidence": ["D1:3", "D2:1"]}

    `conversation` (or `sample_id`) and `question` name what is corrected; the question is worded as in LoCoMo, white
    space aside. An `answer` of null leaves the question out. `evidence`, if it is given, takes the place of the one
    there. Other fields are ignored. Correct a file first and `locomo.split` it then: a row for a conversation that is
    not there is an error.

    Raises:
        DatasetError: the file cannot be read, a row is none, names a conversation, question or turn that there is not,
            or contradicts another; the message says which.
    """
    file = Path(path)
    known = {talk.sample_id: {_wording(question.text) for question in talk.questions} for talk in conversations}
    turns = {talk.sample_id: {turn.dia_id for turn in talk.turns} for talk in conversations}
    given: dict[tuple[str, str], _Row] = {}
    unknown: list[str] = []
    empty = "is empty; it must have a corrected answer on every line."
    for row in read_listed(file, _Row, empty, "holds no corrected answers"):
        key = (row.conversation, _wording(row.question))
        if key[1] not in known.get(row.conversation, ()):
            unknown.append(f"{row.conversation}: {row.question}")
        elif strange := set(row.evidence or ()) - turns[row.conversation]:
            raise DatasetError(f"{file}: {row.conversation} has no turn {', '.join(sorted(strange))} ({row.question}).")
        if given.setdefault(key, row).correction != row.correction:
            raise DatasetError(f"{file} corrects a question in two ways: {row.conversation}: {row.question}")
    if unknown:
        some = "; ".join(unknown[:5]) + (f"; and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise DatasetError(
            f"{file} corrects {len(unknown)} that are not asked in these conversations ({', '.join(known)}): {some}. "
            "Leave these rows out, or load the conversations that they belong to."
        )
    counts: defaultdict[str, int] = defaultdict(int)

    def after(talk: Conversation, question: Question) -> Question | None:
        row = given.get((talk.sample_id, _wording(question.text)))
        if row is None:
            return question
        if row.answer is None:
            counts["left_out"] += 1
            return None
        evidence = question.evidence if row.evidence is None else row.evidence
        made = replace(question, answer=str(row.answer), evidence=evidence)
        counts["confirmed" if made == question else "changed"] += 1
        return made

    found = [
        replace(talk, questions=tuple(made for one in talk.questions if (made := after(talk, one)) is not None))
        for talk in conversations
    ]
    return found, Corrections(**counts)


class _Row(BaseModel):
    conversation: str = Field(validation_alias=AliasChoices("conversation", "sample_id"))
    question: str
    answer: str | int | float | None
    evidence: tuple[str, ...] | None = None

    @property
    def correction(self) -> tuple[object, ...]:
        return self.answer, self.evidence


def _wording(question: str) -> str:
    return " ".join(clean_text(question).split())
