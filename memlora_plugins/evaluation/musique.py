"""MuSiQue: questions that take two to four steps over paragraphs of Wikipedia, as a corpus for MeMo.

Reads a published file (Trivedi et al. 2022, CC BY 4.0; not part of this package), makes corpus, groups and questions
of it as Appendix D of the MeMo paper does, and measures how much of the evidence a search finds.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ..errors import DatasetError, InvalidInputError
from ..memo.documents import Document, write_documents
from ..memo.reflections import HeldOutQuestion, write_rows
from ..rows import read_listed
from .report import Table
from .retrieval import Search

if TYPE_CHECKING:
    from .evidence.recall import Recall
    from .memo_qa.reading import Asked

CORPUS_FILE, QUESTIONS_FILE = "corpus.jsonl", "questions.jsonl"
KS = (5, 9)
"""How many documents are looked at; the paper's baselines read 9 (Section 5)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, all answers that count as right, the number of its steps, and the ids of the paragraphs it takes.

    `negatives` are ids of paragraphs that are about something near and do not help.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    hops: int
    evidence: tuple[str, ...]
    negatives: tuple[str, ...] = ()

    @property
    def category(self) -> int:
        """What retrieval is counted by."""
        return self.hops

    @property
    def kind(self) -> str:
        """What answers are counted by."""
        return f"{self.hops} hops"

    def held_out(self) -> HeldOutQuestion:
        """As a question to measure a Memory model with."""
        return HeldOutQuestion(question=self.text, answers=self.answers, kind=self.kind, documents=self.evidence)


@dataclass(frozen=True, slots=True)
class MuSiQue:
    """Documents (one a paragraph, its title on top; `group` has the ids of its questions) and questions.

    `unanswerable` are the questions that were left out because their paragraphs do not tell.
    """

    documents: tuple[Document, ...]
    questions: tuple[Question, ...]
    unanswerable: int = 0

    def write(self, out: str | PathLike[str]) -> tuple[Path, Path]:
        """Write `corpus.jsonl` (for `read_corpus`, groups as labels) and `questions.jsonl` (for `read_held_out`).

        Raises:
            DatasetError: a file cannot be written.
        """
        corpus, questions = Path(out) / CORPUS_FILE, Path(out) / QUESTIONS_FILE
        write_documents(corpus, self.documents)
        write_rows(questions, [question.held_out() for question in self.questions])
        return corpus, questions


def load(path: str | PathLike[str], *, negatives: int = 1) -> MuSiQue:
    """Corpus, groups and questions of a MuSiQue file, JSONL as it is published or one JSON list.

    The corpus is the evidence of every question and, for each paragraph of it, up to `negatives` others of the same
    question (the paper's 0N, 1N and 2N): the first ones in the order of the file, in which evidence has no place of
    its own, without those that are evidence of another question. Equal paragraphs are one document. A question's
    paragraphs are a group.

    Raises:
        DatasetError: the file cannot be read or is not MuSiQue's, the message says where; or no question is
            answerable. InvalidInputError: `negatives` is below 0.
    """
    if negatives < 0:
        raise InvalidInputError(f"negatives must be at least 0, got {negatives}.")
    empty = "is empty; a MuSiQue file has a question on every line."
    rows = read_listed(path, _Row, empty, "is not a MuSiQue file")
    answerable = [row for row in rows if row.answerable and row.evidence]
    if not answerable:
        raise DatasetError(f"{path} has no answerable question.")
    needed = {one.id for row in answerable for one in row.evidence}
    documents: dict[str, Document] = {}
    labels: defaultdict[str, dict[str, None]] = defaultdict(dict)
    questions: list[Question] = []
    for row in answerable:
        others = {one.id: one for one in row.paragraphs if one.id not in needed}
        beside = list(others.values())[: negatives * len(row.evidence)]
        for one in (*row.evidence, *beside):
            documents.setdefault(one.id, Document(one.id, one.text, one.title.strip() or None))
            labels[one.id][row.id] = None
        questions.append(row.asked(beside))
    made = tuple(replace(document, group=tuple(labels[id])) for id, document in documents.items())
    return MuSiQue(made, tuple(questions), len(rows) - len(answerable))


# Measuring retrieval -------------------------------------------------------------------------------------------------


class RetrievalScore(BaseModel):
    """How much evidence the best `k` documents hold: its mean share, and the share of questions that have all of it.

    Both also by number of hops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: str
    k: int
    evidence: float
    complete: float
    evidence_by_hops: dict[int, float]
    complete_by_hops: dict[int, float]


def retrieval_scores(found: Mapping[str, Recall]) -> list[RetrievalScore]:
    """What each search found (`recall.measure`), by its name and the number of documents."""
    return [
        RetrievalScore(
            search=name,
            k=k,
            evidence=score.recall[k].mean,
            complete=score.complete[k].mean,
            evidence_by_hops={hops: mean.recall[k].mean for hops, mean in score.by_category.items()},
            complete_by_hops={hops: mean.complete[k].mean for hops, mean in score.by_category.items()},
        )
        for name, score in found.items()
        for k in score.recall
    ]


def evidence_search(questions: Iterable[Asked]) -> Search:
    """A search that finds the evidence of each question and nothing else: the upper bound of the paper's Table 2."""
    evidence = {question.text: question.evidence for question in questions}
    return lambda question, limit: list(evidence[question])[:limit]


def retrieval_tables(scores: Sequence[RetrievalScore]) -> list[Table]:
    """A table of the share of evidence found and one of the questions with all of it."""
    hops = sorted({hops for score in scores for hops in score.evidence_by_hops})
    columns = ("search", "documents", "all", *(f"{number} hops" for number in hops))

    def rows(of: str) -> tuple[tuple[str, ...], ...]:
        return tuple(
            (
                score.search,
                str(score.k),
                f"{getattr(score, of):.3f}",
                *(f"{getattr(score, f'{of}_by_hops')[number]:.3f}" for number in hops),
            )
            for score in scores
        )

    return [
        Table("Share of the evidence among the best documents", columns, rows("evidence")),
        Table("Share of the questions with all their evidence there", columns, rows("complete")),
    ]


# Reading the file ----------------------------------------------------------------------------------------------------


class _Paragraph(BaseModel):
    title: str
    paragraph_text: str = Field(min_length=1)
    is_supporting: bool

    @cached_property
    def text(self) -> str:
        """What is remembered: many a paragraph says "he" where only the title says who."""
        return f"{self.title.strip()}\n\n{self.paragraph_text.strip()}".strip()

    @cached_property
    def id(self) -> str:
        """The same for equal paragraphs of any file."""
        return hashlib.sha256(" ".join(self.text.split()).encode()).hexdigest()[:16]


class _Row(BaseModel):
    id: str
    question: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
    answer: str
    answer_aliases: tuple[str, ...] = ()
    answerable: bool = True
    paragraphs: tuple[_Paragraph, ...]
    question_decomposition: tuple[object, ...] = ()

    @model_validator(mode="after")
    def _answered(self) -> Self:
        if self.answerable and not self.answers:
            raise ValueError("an answerable question needs an answer")
        return self

    @property
    def answers(self) -> tuple[str, ...]:
        """All that count as right, each once."""
        given = (answer.strip() for answer in (self.answer, *self.answer_aliases))
        return tuple(dict.fromkeys(answer for answer in given if answer))

    @property
    def evidence(self) -> list[_Paragraph]:
        """Each paragraph once."""
        return list({one.id: one for one in self.paragraphs if one.is_supporting}.values())

    def asked(self, beside: Iterable[_Paragraph]) -> Question:
        evidence = tuple(one.id for one in self.evidence)
        return Question(
            self.id,
            self.question,
            self.answers,
            len(self.question_decomposition) or len(evidence),
            evidence,
            tuple(one.id for one in beside),
        )
