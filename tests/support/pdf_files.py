"""PDF files for tests, written with pypdf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject


def text_pdf(file: Path, pages: Sequence[str], *, title: str | None = None) -> None:
    """A page for each of `pages`, which are plain ASCII."""
    _written(pages, title=title).write(file)


def encrypted_pdf(file: Path, text: str = "secret") -> None:
    """A page that needs a password."""
    writer = _written([text])
    writer.encrypt("password", algorithm="RC4-128")
    writer.write(file)


def blank_pdf(file: Path) -> None:
    """A page with nothing on it, as a scan is."""
    _written([""]).write(file)


def _written(pages: Sequence[str], *, title: str | None = None) -> PdfWriter:
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(width=300, height=200)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(content)
    if title:
        writer.add_metadata({"/Title": title})
    return writer
