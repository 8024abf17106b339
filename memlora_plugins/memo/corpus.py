"""A corpus: documents without repetitions, cut into chunks, with groups of chunks that belong together.

The Generator sees the text of a chunk and nothing else of it. Ids, titles and groups stand beside the text and serve
provenance (Section 4.1 of the MeMo paper).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from ..errors import DatasetError, InvalidInputError
from .documents import Document, Paths, Skipped, given_paths, read_documents, write_documents
from .grouping import GROUP_SIZE, MIN_SIMILARITY, by_similarity

if TYPE_CHECKING:
    from ..embedding import Embedder

__all__ = ["Chunk", "Corpus", "Document", "Skipped", "read_corpus", "read_documents", "windows", "write_documents"]

CHUNK_WORDS = 6400
OVERLAP = 0.1
"""Share of a chunk that the next one repeats (Appendix D: 640 of 6,400 words)."""

GroupBy = Literal["label", "document", "similarity"]

_WORD = re.compile(r"\S+")
_TOLD = 10  # of what was skipped, in an error


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a document. `document` is its id; the chunk's own is that, "#" and a number from 1."""

    id: str
    document: str
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a Memory model is to learn. `groups` are names and the ids of two or more chunks each.

    `skipped` is what was no document: unreadable, empty, or the same text as another one.
    """

    documents: tuple[Document, ...]
    chunks: tuple[Chunk, ...]
    groups: Mapping[str, tuple[str, ...]]
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def of(
        cls,
        documents: Iterable[Document],
        *,
        chunk_words: int = CHUNK_WORDS,
        overlap_words: int | None = None,
        whole_documents: bool = False,
        group_by: GroupBy | None = "label",
        groups: Mapping[str, Iterable[str]] | None = None,
        embedder: Embedder | None = None,
        group_size: int = GROUP_SIZE,
        min_similarity: float = MIN_SIMILARITY,
    ) -> Corpus:
        """`read_corpus`, of documents that are there already.

        Raises:
            DatasetError, InvalidInputError, EmbeddingError: as `read_corpus`.
        """
        options = _Options(
            chunk_words, overlap_words, whole_documents, group_by, groups, embedder, group_size, min_similarity
        )
        return _corpus(documents, options, "what was passed")


def read_corpus(
    paths: Paths,
    *,
    chunk_words: int = CHUNK_WORDS,
    overlap_words: int | None = None,
    whole_documents: bool = False,
    group_by: GroupBy | None = "label",
    groups: Mapping[str, Iterable[str]] | None = None,
    embedder: Embedder | None = None,
    group_size: int = GROUP_SIZE,
    min_similarity: float = MIN_SIMILARITY,
) -> Corpus:
    """The corpus in files and folders; which kinds of files, and what they hold, see `read_documents`.

    Documents whose text is the same but for white space are one; it is in the groups of all of them.

    Args:
        chunk_words: the most words of a chunk (Appendix D). Words are what stands between white space.
        overlap_words: how many of them the next chunk repeats, by default a tenth.
        whole_documents: every document is one chunk, however long.
        group_by: which chunks are a group: those of documents with the same label (`"label"`), those of one
            document (`"document"`), those that are about the same thing (`"similarity"`, see
            `grouping.by_similarity`), or none.
        groups: the groups by name, as ids of documents, in the place of `group_by`.
        embedder: for `"similarity"`. It is only lent.
        group_size: the most chunks of a group made by similarity; the default is about the mean of Table 8 for
            MuSiQue, 5.3. Groups given by label, document or name have the size that they have.
        min_similarity: cosine below which chunks are not about the same thing.

    Raises:
        DatasetError: a path does not exist; nothing is left, the message says what of it was skipped and why; two
            texts have one id; `groups` names a document that there is none of. InvalidInputError: options that
            contradict each other. MissingDependencyError: a PDF, and the extra `memo` is not installed.
        EmbeddingError: the embedder failed.
    """
    options = _Options(
        chunk_words, overlap_words, whole_documents, group_by, groups, embedder, group_size, min_similarity
    )
    where = ", ".join(str(path) for path in given_paths(paths))
    return _corpus(read_documents(paths), options, where)


def windows(text: str, words: int, overlap: int) -> Iterator[str]:
    """Stretches of at most `words` words that begin `words - overlap` words apart, with the white space between them.

    The last one has more than the overlap; a text without words has none.
    """
    if len(text) < 2 * words or len(text.split()) <= words:  # so many words take twice as many characters
        if text := text.strip():
            yield text
        return
    step = words - overlap
    begins: list[int] = []
    cut = done = end = 0
    for number, word in enumerate(_WORD.finditer(text)):
        end = word.end()
        if number % step == 0:
            begins.append(word.start())
        if number >= words - 1 and (number - (words - 1)) % step == 0:
            yield text[begins[cut] : end]
            cut, done = cut + 1, end
    if end > done:
        yield text[begins[cut] : end]


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of `read_corpus`.

    Raises:
        InvalidInputError: they contradict each other.
    """

    chunk_words: int
    overlap_words: int | None
    whole_documents: bool
    group_by: GroupBy | None
    groups: Mapping[str, Iterable[str]] | None
    embedder: Embedder | None
    group_size: int
    min_similarity: float

    def __post_init__(self) -> None:
        if self.chunk_words < 1 or not 0 <= self.overlap < self.chunk_words:
            raise InvalidInputError(
                f"A chunk needs at least one word more than its overlap: chunk_words is {self.chunk_words}, "
                f"overlap_words {self.overlap}."
            )
        if self.group_by is not None and self.group_by not in get_args(GroupBy):
            raise InvalidInputError(f"group_by must be one of {', '.join(get_args(GroupBy))}, got {self.group_by!r}.")
        if self.group_by == "similarity" and self.groups is None and self.embedder is None:
            raise InvalidInputError('group_by="similarity" compares texts by their embeddings: pass an embedder.')
        if self.group_size < 2:
            raise InvalidInputError(f"group_size must be at least 2, got {self.group_size}: one chunk is no group.")

    @property
    def overlap(self) -> int:
        return int(self.chunk_words * OVERLAP) if self.overlap_words is None else self.overlap_words


def _corpus(found: Iterable[Document | Skipped], options: _Options, where: str) -> Corpus:
    kept = _Kept(found)
    if not kept.documents:
        raise DatasetError(_nothing(where, kept.skipped))
    chunks = tuple(
        Chunk(f"{document.id}#{number}", document.id, text)
        for document in kept.documents.values()
        for number, text in enumerate(_texts(document, options), start=1)
    )
    groups = {name: ids for name, ids in _groups(kept, chunks, options).items() if len(ids) > 1}
    return Corpus(tuple(kept.documents.values()), chunks, groups, tuple(kept.skipped))


class _Kept:
    """Documents by id, each text once, in their order; `same` has the ids of repetitions and the one that stays."""

    def __init__(self, found: Iterable[Document | Skipped]) -> None:
        self.documents: dict[str, Document] = {}
        self.skipped: list[Skipped] = []
        self.same: dict[str, str] = {}
        texts: dict[bytes, str] = {}
        for one in found:
            if isinstance(one, Skipped):
                self.skipped.append(one)
            elif not (words := one.text.split()):
                self.skipped.append(Skipped(one.id, "empty"))
            else:
                # of a large corpus the digests fit into memory a second time, the texts might not
                digest = hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
                if digest in texts:
                    self._repeated(one, texts[digest])
                else:
                    self._new(one)
                    texts[digest] = one.id

    def _new(self, document: Document) -> None:
        if document.id in self.documents or document.id in self.same:
            raise _two_texts(document.id)
        self.documents[document.id] = document

    def _repeated(self, document: Document, first: str) -> None:
        taken = document.id in self.documents or self.same.setdefault(document.id, first) != first
        if taken and document.id != first:
            raise _two_texts(document.id)
        self.skipped.append(Skipped(document.id, f"the same text as {first}"))
        stays = self.documents[first]
        if more := [label for label in document.groups if label not in stays.groups]:
            self.documents[first] = replace(stays, group=(*stays.groups, *more))


def _two_texts(id: str) -> DatasetError:
    return DatasetError(f"Two documents have the id {id!r}, and their texts differ. Rename one.")


def _nothing(where: str, skipped: list[Skipped]) -> str:
    """What is said when no document is left."""
    if not skipped:
        return f"The corpus is empty: there is no document in {where}."
    rest = f"; and {len(skipped) - _TOLD} more" if len(skipped) > _TOLD else ""
    told = "; ".join(map(str, skipped[:_TOLD]))
    return f"The corpus is empty: nothing in {where} can be used. Skipped: {told}{rest}."


def _texts(document: Document, options: _Options) -> Iterable[str]:
    if options.whole_documents:
        return [document.text.strip()]
    return windows(document.text, options.chunk_words, options.overlap)


def _groups(kept: _Kept, chunks: tuple[Chunk, ...], options: _Options) -> dict[str, tuple[str, ...]]:
    if options.groups is None and options.group_by == "similarity" and options.embedder is not None:
        vectors = options.embedder.embed([chunk.text for chunk in chunks])
        found = by_similarity(vectors, size=options.group_size, at_least=options.min_similarity)
        return {f"similar {n}": tuple(chunks[at].id for at in one) for n, one in enumerate(found, start=1)}
    parts: dict[str, list[str]] = {}
    for chunk in chunks:
        parts.setdefault(chunk.document, []).append(chunk.id)
    members: dict[str, list[str]] = {}
    if options.groups is not None:
        for name, ids in options.groups.items():
            members[name] = [kept.same.get(id, id) for id in ids]
            if missing := [id for id in members[name] if id not in parts]:
                raise DatasetError(f"The group {name!r} names the document {missing[0]!r}, which the corpus lacks.")
    elif options.group_by == "label":
        for document in kept.documents.values():
            for label in document.groups:
                members.setdefault(label, []).append(document.id)
    elif options.group_by == "document":
        members = {id: [id] for id in parts}
    return {name: tuple(part for id in dict.fromkeys(ids) for part in parts[id]) for name, ids in members.items()}
