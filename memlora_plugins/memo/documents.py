"""Documents: what a corpus is made of, read from text, Markdown, JSONL and PDF files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..conversation_file import json_object
from ..errors import DatasetError, InvalidInputError, MissingDependencyError
from ..files import write_whole
from ..types import clean_text

SUFFIXES = (".txt", ".md", ".markdown", ".jsonl", ".pdf")
"""The kinds of files that are read."""

_FRONT = re.compile(r"---[ \t]*\r?\n(?:(.*?)\r?\n)?---[ \t]*(?:\r?\n|$)", re.S)
_FRONT_FIELD = re.compile(r"([A-Za-z_][\w-]*)[ \t]*:(?:[ \t]+(.*?))?[ \t]*\r?")
_HEADING = re.compile(r"#[ \t]+(.+?)[ \t]*#*")
_NAMED = ("id", "text", "title", "group", "metadata")


@dataclass(frozen=True, slots=True)
class Document:
    """A text to remember.

    `id` is for provenance and is never shown to a model. `title` is for people: a text that cannot be understood
    without its title should begin with it. `group` is the label of the group that the document belongs to, or several.
    `metadata` is anything else that is known of it, in JSON's types. Half characters, as in file names that are not
    UTF-8, become U+FFFD in all but the metadata: no file could hold them.

    Raises:
        DatasetError: a blank id, or a field of another type.
    """

    id: str
    text: str
    title: str | None = None
    group: str | tuple[str, ...] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip():
            raise DatasetError(f"A document's id must be a non-blank string, got {self.id!r}.")
        if not isinstance(self.text, str) or not isinstance(self.title, str | None):
            raise DatasetError(f"Text and title of the document {self.id!r} must be strings.")
        if isinstance(self.group, list):
            object.__setattr__(self, "group", tuple(self.group))
        if not all(isinstance(label, str) and label.strip() for label in self.groups):
            raise DatasetError(f"The group of the document {self.id!r} must be one label or more, got {self.group!r}.")
        labels = tuple(map(clean_text, self.groups))
        cleaned = {
            "id": clean_text(self.id),
            "text": clean_text(self.text),
            "title": None if self.title is None else clean_text(self.title),
            "group": labels if isinstance(self.group, tuple) else labels[0] if labels else None,
        }
        for name, value in cleaned.items():
            object.__setattr__(self, name, value)

    @property
    def groups(self) -> tuple[str, ...]:
        """The labels, none to many."""
        if self.group is None:
            return ()
        return self.group if isinstance(self.group, tuple) else (self.group,)

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the text: what a Memory model keeps of a document that it was trained on."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is no document of the corpus, and why. `path` may name a line, or be the id of a document."""

    path: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", clean_text(self.path))
        object.__setattr__(self, "reason", clean_text(self.reason))

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One file or folder, or several."""


def given_paths(paths: Paths) -> list[Path]:
    """`paths` as a list.

    Raises:
        DatasetError: there is none, or one does not exist.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not several:
        raise DatasetError("No path is given: name the files and folders that the corpus is in.")
    for path in several:
        if not os.path.exists(path):
            raise DatasetError(f"{os.fspath(path)} does not exist.")
    return [Path(path) for path in several]


def read_documents(paths: Paths) -> Iterator[Document | Skipped]:
    """The documents of files and of all files under folders, by name; hidden ones in folders are left out.

    Text and Markdown files (UTF-8) and PDF files are one document each: its id is the path below the folder that was
    given, or the file's name; where that is taken, with a number. Markdown may begin with `title:` and `group:`
    between two lines `---`, else a leading `# Heading` is its title. A line of JSONL is one document:

        {"text": "…", "id": "…", "title": "…", "group": "…" or ["…", …], "metadata": {…}}

    Only `text` is needed; other keys count as metadata, and a line without an id has the file's, a colon and its
    number. What cannot be used comes as `Skipped`, at its place. PDF files are read with pypdf; their pages are
    paragraphs.

    Raises:
        DatasetError: no path, or one that does not exist. MissingDependencyError: a PDF, and the extra `memo` is not
            installed.
    """
    taken: set[str] = set()
    for path in given_paths(paths):
        for file, found in _files(path) if path.is_dir() else [(path, path.name)]:
            name, number = clean_text(found), 1
            id = name
            while id in taken:
                number += 1
                id = f"{name} ({number})"
            taken.add(id)
            try:
                yield from _documents(file, id)
            except DatasetError as error:
                yield Skipped(str(file), str(error))


def write_documents(path: str | os.PathLike[str], documents: Iterable[Document]) -> None:
    """Write documents as JSONL that `read_documents` reads back, all or nothing.

    Raises:
        DatasetError: the file cannot be written, or metadata is not of JSON's types; a file that was there before is
            unchanged.
    """
    try:
        write_whole(Path(path), "".join(f"{_line(one)}\n" for one in documents))
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error}") from error


def _line(document: Document) -> str:
    row = {name: getattr(document, name) for name in _NAMED}
    told = {name: value for name, value in row.items() if value or name == "text"}
    try:
        return clean_text(json.dumps(told, ensure_ascii=False))
    except (TypeError, ValueError) as error:
        raise DatasetError(f"The metadata of the document {document.id!r} is not of JSON's types: {error}.") from error


def _files(folder: Path, prefix: str = "") -> Iterator[tuple[Path, str]]:
    """The files under a folder and their paths below it; a folder that cannot be opened is told as a file would be."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        yield folder, prefix.rstrip("/")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield Path(entry.path), f"{prefix}{entry.name}"


def _documents(file: Path, id: str) -> Iterator[Document | Skipped]:
    """
    Raises:
        DatasetError: none can be read; says why.
    """
    suffix = file.suffix.lower()
    if file.is_dir():  # a link may lead around in circles
        raise DatasetError("a folder behind a link, or one that cannot be opened")
    if suffix not in SUFFIXES:
        raise DatasetError(f"of an unknown kind; what is read is {', '.join(SUFFIXES)}")
    if file.exists() and not file.is_file():
        raise DatasetError("not a file")  # a pipe would keep its reader waiting
    try:
        if suffix == ".jsonl":
            yield from _lines(file, id)
        elif suffix == ".pdf":
            yield _pdf(file, id)
        elif suffix == ".txt":
            yield Document(id, _decoded(file.read_bytes()))
        else:
            yield _markdown(id, _decoded(file.read_bytes()))
    except OSError as error:
        raise DatasetError(f"cannot be read: {error.strerror or error}") from error


def _decoded(content: bytes) -> str:
    """
    Raises:
        DatasetError: it is not UTF-8 text.
    """
    try:
        if b"\0" not in content:
            return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        pass  # said below
    raise DatasetError("binary, or text that is not UTF-8")


def _markdown(id: str, text: str) -> Document:
    fields: dict[str, str] = {}
    if (front := _FRONT.match(text)) and (found := _front_matter(front[1] or "")):
        fields, text = found, text[front.end() :].strip()
    heading = _HEADING.fullmatch(text.partition("\n")[0].strip())
    title = fields.pop("title", "") or (heading[1] if heading else "")
    return Document(id, text, title or None, fields.pop("group", "") or None, fields)


def _front_matter(block: str) -> dict[str, str]:
    """The plain fields of YAML front matter; nothing if the block is something else between two rules."""
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        if match := _FRONT_FIELD.fullmatch(line):
            value = (match[2] or "").strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            fields[match[1].lower()] = value[1:-1].strip() if quoted else value
        elif line.strip() and not line.startswith((" ", "\t", "-", "#")):  # nested values and comments are passed over
            return {}
    return fields


def _lines(file: Path, id: str) -> Iterator[Document | Skipped]:
    with file.open("rb") as lines:
        if b"\0" in lines.read(8192):
            raise DatasetError("binary, or text that is not UTF-8")
        lines.seek(0)
        for number, line in enumerate(lines, start=1):
            try:
                if text := _decoded(line):
                    yield _from_row(json_object(text), f"{id}:{number}")
            except InvalidInputError as error:
                yield Skipped(f"{file}, line {number}", str(error).rstrip("."))


def _from_row(row: Mapping[str, Any], default_id: str) -> Document:
    given, metadata = row.get("id"), row.get("metadata")
    id = default_id if given is None else str(given) if type(given) is int else given
    if not isinstance(row.get("text"), str):
        raise DatasetError('no "text"')
    if not isinstance(metadata, dict | None):
        raise DatasetError('"metadata" is no object')
    others = {key: value for key, value in row.items() if key not in _NAMED}
    title, group = row.get("title") or None, row.get("group") or None
    return Document(id, row["text"], title, group, others | (metadata or {}))


def _pdf(file: Path, id: str) -> Document:
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError
    except ImportError as error:
        raise MissingDependencyError(
            f"{file} is a PDF, which pypdf reads. Install with: pip install 'memlora-plugins[memo]'"
        ) from error
    try:
        with PdfReader(file) as reader:
            pages = [page.extract_text() for page in reader.pages]
            title = reader.metadata.title if reader.metadata else None
    except (FileNotDecryptedError, DependencyError) as error:
        raise DatasetError("encrypted; save it without a password") from error
    except (PyPdfError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # a damaged file takes pypdf to places that it does not expect, an unusual one to what it does not implement
        raise DatasetError(f"not a PDF that can be read ({type(error).__name__}: {error})") from error
    text = "\n\n".join(page.strip() for page in pages if page.strip()).replace("\0", "")
    if not text.strip():
        raise DatasetError("a PDF without text; if it is scanned, recognise its text first")
    return Document(id, text.strip(), title.strip() or None if isinstance(title, str) else None)
