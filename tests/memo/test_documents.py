"""Reading documents from files: what each kind gives, and what is said of the files that give nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from pdf_files import blank_pdf, encrypted_pdf, text_pdf

from memlora_plugins.errors import DatasetError, MissingDependencyError
from memlora_plugins.memo.documents import Document, Skipped, read_documents, write_documents


def documents(path: Path) -> list[Document]:
    return [one for one in read_documents(path) if isinstance(one, Document)]


def skipped(path: Path) -> dict[str, str]:
    found = [one for one in read_documents(path) if isinstance(one, Skipped)]
    return {str(Path(one.path).relative_to(path)): one.reason for one in found}


def test_a_folder_is_read_by_name_and_its_hidden_files_are_not(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/y.TXT", ".hidden.txt", ".git/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"\nThis is {name}.\n")
    assert [(one.id, one.text) for one in documents(tmp_path)] == [
        ("a/y.TXT", "This is a/y.TXT."),
        ("a/z.md", "This is a/z.md."),
        ("b.txt", "This is b.txt."),
    ]
    assert [one.id for one in documents(tmp_path / "a" / "z.md")] == ["z.md"]
    assert [one.id for one in documents(tmp_path / ".git")] == ["c.txt"]


def test_files_of_the_same_name_get_different_ids(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
        (folder / "README.md").write_text(folder.name)
    found = [one for one in read_documents(folders) if isinstance(one, Document)]
    assert [(one.id, one.text) for one in found] == [
        ("README.md", "one"),
        ("README.md (2)", "two"),
        ("README.md (3)", "three"),
    ]


@pytest.mark.parametrize(
    ("content", "title", "group", "text"),
    [
        ("# The river #\n\nIt is long.", "The river", None, "# The river #\n\nIt is long."),
        ("## Not a title\n# Nor this", None, None, "## Not a title\n# Nor this"),
        (
            '---\ntitle: "The sea"\ngroup: water\nauthor: Ana\ntags:\n  - wet\n---\n# Other\nIt is wide.',
            "The sea",
            "water",
            "# Other\nIt is wide.",
        ),
        ("---\ngroup: water\n---\n# The lake\n", "The lake", "water", "# The lake"),
        ("---\nWords between rules\n---\nmore", None, None, "---\nWords between rules\n---\nmore"),
        ("---\n---\nmore", None, None, "---\n---\nmore"),
        ("\ufeff# With a mark\r\nx", "With a mark", None, "# With a mark\r\nx"),
    ],
)
def test_markdown(tmp_path: Path, content: str, title: str | None, group: str | None, text: str) -> None:
    (tmp_path / "a.md").write_bytes(content.encode())
    [found] = documents(tmp_path)
    assert (found.title, found.group, found.text) == (title, group, text)
    assert found.metadata == ({"author": "Ana", "tags": ""} if "tags" in content else {})


def test_a_line_of_jsonl_is_a_document(tmp_path: Path) -> None:
    rows = [
        {"id": "d1", "text": " one ", "title": "One", "group": "g", "url": "u", "metadata": {"year": 2020}},
        {"id": 2, "text": "two", "group": ["g", "h"]},
        {"text": "three \ud83d"},
    ]
    (tmp_path / "c.jsonl").write_text("".join(f"{json.dumps(row)}\n\n" for row in rows))
    assert documents(tmp_path) == [
        Document("d1", " one ", "One", "g", {"url": "u", "year": 2020}),
        Document("2", "two", group=("g", "h")),
        Document("c.jsonl:5", "three \ufffd"),
    ]


def test_written_documents_are_read_back(tmp_path: Path) -> None:
    kept = [
        Document("a", "some\u2028text", "A", ("g", "h"), {"text": 1, "list": [1]}),
        Document("b", "", group="g"),
        Document("c", "ünï"),
    ]
    write_documents(tmp_path / "out" / "c.jsonl", kept)
    assert documents(tmp_path / "out") == kept
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        write_documents(tmp_path / "file" / "c.jsonl", kept)


def test_pdf(tmp_path: Path) -> None:
    text_pdf(tmp_path / "a.pdf", ["The river is long.", "The sea is wide."], title="Waters")
    text_pdf(tmp_path / "b.pdf", ["No title."])
    assert documents(tmp_path) == [
        Document("a.pdf", "The river is long.\n\nThe sea is wide.", "Waters"),
        Document("b.pdf", "No title."),
    ]


def test_a_pdf_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text_pdf(tmp_path / "a.pdf", ["x"])
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(MissingDependencyError, match=r"a\.pdf is a PDF.*memlora-plugins\[memo\]"):
        documents(tmp_path)


def test_what_gives_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "latin.md").write_bytes("é".encode("latin-1"))
    (tmp_path / "binary.jsonl").write_bytes(b"\0" * 10)
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing")
    encrypted_pdf(tmp_path / "secret.pdf")
    blank_pdf(tmp_path / "scan.pdf")
    told = skipped(tmp_path)
    assert told.pop("broken.pdf").startswith("not a PDF that can be read")
    assert told == {
        "binary.jsonl": "binary, or text that is not UTF-8",
        "binary.txt": "binary, or text that is not UTF-8",
        "gone.txt": "cannot be read: No such file or directory",
        "latin.md": "binary, or text that is not UTF-8",
        "loop": "a folder behind a link, or one that cannot be opened",
        "photo.png": "of an unknown kind; what is read is .txt, .md, .markdown, .jsonl, .pdf",
        "pipe.txt": "not a file",
        "scan.pdf": "a PDF without text; if it is scanned, recognise its text first",
        "secret.pdf": "encrypted; save it without a password",
    }
    assert documents(tmp_path) == []


def test_a_folder_that_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    opened = os.scandir

    def scandir(folder: str | Path) -> object:
        if Path(folder).name == "shut":
            raise PermissionError(13, "Permission denied")
        return opened(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert skipped(tmp_path) == {"shut": "a folder behind a link, or one that cannot be opened"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON (Expecting property name enclosed in double quotes)"),
        (b"[1]", "a JSON object is needed, one per line"),
        (b'{"title": "x"}', 'no "text"'),
        (b'{"text": 5}', 'no "text"'),
        (b'{"text": "x", "metadata": 5}', '"metadata" is no object'),
        (b'{"text": "x", "id": " "}', "A document's id must be a non-blank string, got ' '"),
        (b'{"text": "x", "id": true}', "A document's id must be a non-blank string, got True"),
        (b'{"text": "x", "title": 5}', "Text and title of the document 'c.jsonl:2' must be strings"),
        (b'{"text": "x", "group": 5}', "The group of the document 'c.jsonl:2' must be one label or more, got 5"),
        (b'{"text": "\xe9"}', "binary, or text that is not UTF-8"),
    ],
)
def test_a_line_that_is_no_document_is_told(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "first"}\n' + line + b'\n{"text": "last"}\n')
    assert [one.text for one in documents(tmp_path)] == ["first", "last"]
    assert skipped(tmp_path) == {"c.jsonl, line 2": reason}


def test_paths_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere does not exist"):
        list(read_documents(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match="No path is given"):
        list(read_documents([]))


def test_a_document_knows_its_digest() -> None:
    assert Document("a", "abc").sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Document("a", "\ud83d\ude00").sha256 == Document("b", "\U0001f600").sha256
    assert hash(Document("a", "abc", metadata={"x": 1}))


def test_half_characters_in_names_and_fields_are_replaced(tmp_path: Path) -> None:
    """What is made of them later, files of provenance among it, could not be written."""
    for name in (b"caf\xe9.txt", b"caf\xea.txt"):
        (tmp_path / os.fsdecode(name)).write_text(f"About {name!r}.")
    (tmp_path / os.fsdecode(b"pict\xe9.jpg")).touch()
    row = r'{"id": "a\ud800", "title": "b\ud800", "group": ["c\ud800"], "text": "d\ud800"}'
    (tmp_path / "z.jsonl").write_text(row)
    found = list(read_documents(tmp_path))
    assert [one.id for one in found if isinstance(one, Document)] == ["caf�.txt", "caf�.txt (2)", "a�"]
    for one in found:
        repr(one).encode()
    assert found[-1] == Document("a�", "d�", "b�", ("c�",))


def test_metadata_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    write_documents(file, [Document("a", "b", metadata={"half": "\ud800"})])
    [kept] = documents(file)
    assert kept.metadata == {"half": "\ufffd"}
    with pytest.raises(DatasetError, match="metadata of the document 'a' is not of JSON's types: Object of type set"):
        write_documents(file, [Document("a", "b", metadata={"tags": {"x"}})])
    assert documents(file) == [kept]


@pytest.mark.parametrize("unknown", [(b"/Filter /Standard", b"/Filter /Adobe.PubSec"), (b"/V 2", b"/V 9")])
def test_a_pdf_encrypted_in_an_unknown_way(tmp_path: Path, unknown: tuple[bytes, bytes]) -> None:
    encrypted_pdf(tmp_path / "a.pdf")
    (tmp_path / "a.pdf").write_bytes((tmp_path / "a.pdf").read_bytes().replace(*unknown))
    assert "not a PDF that can be read (NotImplementedError" in skipped(tmp_path)["a.pdf"]
