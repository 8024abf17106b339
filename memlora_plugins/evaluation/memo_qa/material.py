"""Questions and the corpora they are answered from: a MuSiQue file, or any JSONL of questions beside documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from ...errors import DatasetError
from ...rows import read_rows
from ..musique import load

if TYPE_CHECKING:
    from ...memo.corpus import Corpus
    from ...memo.documents import Document
    from ..musique import MuSiQue
    from .config import MemoConfig
    from .reading import Asked


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a JSONL file; `id` is the file's, or "q" and the number of its row. See `reading.Asked`."""

    id: str
    text: str
    answers: tuple[str, ...]
    kind: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """The corpus at a noise level: its documents, of which so many are evidence and so many negatives."""

    documents: tuple[Document, ...]
    evidence: int
    negatives: int


@dataclass(frozen=True, slots=True)
class Material:
    """Questions, and the corpus at each noise level. `unanswerable` questions were left out."""

    questions: tuple[Asked, ...]
    levels: Mapping[int, Level]
    unanswerable: int = 0

    @property
    def evidence(self) -> tuple[Document, ...]:
        """The documents that any question names."""
        named = _named(self.questions)
        documents = next(iter(self.levels.values())).documents
        return tuple(document for document in documents if document.id in named)

    def first(self, limit: int | None) -> Material:
        """The first so many questions over the same corpus."""
        return replace(self, questions=self.questions[:limit])


def load_material(config: MemoConfig) -> Material:
    """The questions and corpora that `config` names.

    Without a `corpus`, questions and their paragraphs come from a MuSiQue file (Appendix D of the MeMo paper). With
    one, a row of the questions' JSONL is

        {"question": "…", "answer": "…" or "answers": ["…", …], "documents" or "evidence": ["id", …], "kind": "…"}

    of which question and answer are needed; keys that are not known are passed over. The corpus is as it is given, and
    n negatives are added for each document that any question names, or where none does, for each there is.

    Raises:
        DatasetError: a file cannot be read or holds something else, a question occurs twice or names a document that
            the corpus lacks, or there are too few negatives; the message says which and where.
        MissingDependencyError: a PDF, and the extra `memo` is not installed.
    """
    if config.corpus is not None:
        return _from_jsonl(config, config.corpus).first(config.limit)
    try:
        by_level = {level: load(config.questions, negatives=level) for level in config.levels}
    except DatasetError as error:
        hint = "Without a corpus, questions is read as a MuSiQue file; name the documents of another one with corpus."
        raise DatasetError(f"{str(error).rstrip('.')}. {hint}") from error
    return of_musique(by_level).first(config.limit)


def of_musique(by_level: Mapping[int, MuSiQue]) -> Material:
    """One MuSiQue file, loaded with so many negatives."""
    one = next(iter(by_level.values()))
    needed = _named(one.questions)
    levels = {
        level: Level(data.documents, len(needed), len(data.documents) - len(needed)) for level, data in by_level.items()
    }
    return Material(one.questions, levels, one.unanswerable)


def _from_jsonl(config: MemoConfig, corpus: Path) -> Material:
    from ...memo.corpus import read_corpus

    questions = _questions(config.questions)
    found = read_corpus(corpus, group_by=None)
    _check_evidence(questions, found, config.questions, corpus)
    known = {document.sha256 for document in found.documents}
    beside = [] if config.negatives is None else read_corpus(config.negatives, group_by=None).documents
    # an id may be taken in the corpus; these are never named
    others = [replace(one, id=f"negative: {one.id}") for one in beside if one.sha256 not in known]
    count = len(_named(questions)) or len(found.documents)
    levels = {}
    for level in config.levels:
        added = level * count
        if added > len(others):
            raise DatasetError(
                f"Noise of {level} takes {added} negatives ({level} for each of {count} documents), and "
                f"{config.negatives} has {len(others)} that are not in the corpus. Add some, or measure less noise."
            )
        levels[level] = Level((*found.documents, *others[:added]), len(_named(questions)), added)
    return Material(questions, levels)


def _named(questions: Iterable[Asked]) -> set[str]:
    return {id for question in questions for id in question.evidence}


# Reading JSONL -------------------------------------------------------------------------------------------------------


def _texts(given: object) -> Any:
    """One value or several, numbers as text."""
    several = given if isinstance(given, list | tuple) else [] if given is None else [given]
    return [str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in several]


_Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
_Texts = Annotated[tuple[_Text, ...], BeforeValidator(_texts)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    id: str | None = None
    question: _Text
    answer: _Texts = ()
    answers: _Texts = ()
    kind: _Text = "question"
    documents: _Texts = Field(default=(), validation_alias=AliasChoices("documents", "evidence"))

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, row: Any) -> Any:
        if isinstance(row, dict) and "paragraphs" in row:
            raise ValueError("this is MuSiQue's form, which brings its own documents: leave out corpus")
        return row

    @model_validator(mode="after")
    def _answered(self) -> Self:
        if not self.right:
            raise ValueError("a question needs an answer or answers")
        return self

    @property
    def right(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.answer, *self.answers)))


def _questions(file: Path) -> tuple[Question, ...]:
    rows = read_rows(file, _Row, 'is empty. A line is {"question": "…", "answer": "…", "documents": ["id", …]}.')
    questions = [
        Question(row.id or f"q{number}", row.question, row.right, row.kind, row.documents)
        for number, row in enumerate(rows, start=1)
    ]
    for name in ("text", "id"):
        counted = Counter(getattr(question, name) for question in questions)
        if twice := [value for value, count in counted.items() if count > 1]:
            raise DatasetError(f"{file} has two questions with the {name} {twice[0]!r}. Leave one out, or rename it.")
    return tuple(questions)


def _check_evidence(questions: Sequence[Question], corpus: Corpus, file: Path, where: Path) -> None:
    known = {document.id for document in corpus.documents}
    for question in questions:
        for id in question.evidence:
            if id not in known:
                why = next((f" (left out: {one.reason})" for one in corpus.skipped if one.path == id), "")
                raise DatasetError(f"{file}: the question {question.text!r} names {id!r}, which {where} lacks{why}.")
