"""Each measured figure of the README is in a results file that its section names: `<!-- figures: FILE … -->`.

A line of a table has its figures from one line of the file, or, after `figures by cell`, each cell has; those of
running text are anywhere in the files of their section.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_MARK = re.compile(r"<!-- figures( by cell)?: (.+?) -->\n")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_TOLD = re.compile(r"\d+\.\d+|\d+(?= %)")
_BARS = re.compile(r"\(bars?\b[^)]*\)")
_CODE = re.compile(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->")


def sections(readme: str) -> dict[str, str]:
    """What is under each heading of "Measured", that part's own beginning included."""
    measured = readme.partition("\n## Measured\n")[2].partition("\n## ")[0]
    titles = ["Measured", *re.findall(r"^### (.*)$", measured, re.M)]
    return dict(zip(titles, re.split(r"^### .*$", measured, flags=re.M), strict=True))


def blocks(section: str) -> tuple[list[tuple[str, str]], str]:
    """The tables, each with what stands right above it, and the rest."""
    tables = re.findall(r"([^\n]*\n)((?:\|.*\n)+)", section)
    return tables, re.sub(r"(?:^\|.*\n)+", "", section, flags=re.M)


def figures(text: str) -> list[str]:
    """The numbers of a text, without separators of thousands."""
    return [number.replace(",", "") for number in _NUMBER.findall(text)]


def rows(table: str, *, by_cell: bool = False) -> list[list[str]]:
    """The figures of each line of a table, or of each cell. What is measured stands in the first column, and what it is
    held to under "bar"; neither is a figure."""
    head, _, *lines = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in table.splitlines()]
    kept = [place for place, name in enumerate(head) if place and name != "bar"]
    if by_cell:
        return [figures(line[place]) for line in lines for place in kept]
    return [[said for place in kept for said in figures(line[place])] for line in lines]


def prose(text: str) -> list[str]:
    """The figures of running text: numbers with decimals, and percentages; bars in brackets are none."""
    return _TOLD.findall(_BARS.sub("", _CODE.sub("", text)))


def unknown(said: list[str], source: str) -> list[str]:
    """The figures that no number of `source` rounds to, as it is or in percent."""
    known = {float(number) for number in figures(source)}
    known |= {100 * number for number in known}
    return [one for one in said if not any(f"{number:.{len(one.partition('.')[2])}f}" == one for number in known)]


SECTIONS = sections(README)


@pytest.mark.parametrize("title", SECTIONS)
def test_the_figures_of_a_section_are_in_its_files(title: str) -> None:
    tables, rest = blocks(SECTIONS[title])
    for above, table in tables:
        mark = _MARK.search(above)
        assert mark, f"no file is named for the table that begins {table.splitlines()[0]}"
        lines = _read(mark[2]).splitlines()
        for row in rows(table, by_cell=mark[1] is not None):
            assert any(not unknown(row, line) for line in lines), f"no line of {mark[2]} has {row}"
    assert not unknown(prose(rest), _read(" ".join(files for _, files in _MARK.findall(SECTIONS[title]))))


def _read(files: str) -> str:
    return "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files.split())


def test_a_figure_of_nowhere_is_noticed() -> None:
    table = "| what | all | bar |\n|---|---|---|\n| of 7 | 68.8 % and 1,957 | ≥ 60 % |\n"
    assert rows(table) == rows(table, by_cell=True) == [["68.8", "1957"]]
    assert unknown(["68.8", "1957"], "0.6881 in 1957") == []
    assert unknown(["68.8", "1957"], "0.6871 in 1957") == ["68.8"]
    assert unknown(prose("`make 0.5` takes 3.5 s (bar 4.1) on 2 cores, 17 % of it idle"), "3.5") == ["17"]


def test_the_sections_are_found() -> None:
    assert {"Measured", "Evidence found", "LoCoMo", "nano", "MeMo"} <= set(SECTIONS)
    assert all(blocks(section)[0] for section in SECTIONS.values())
