"""The figures of a table of the README are in the results file that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = re.findall(r"<!-- figures: (\S+) -->\n((?:\|.*\n)+)", README)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def figures(text: str) -> list[str]:
    """The numbers of a text, without separators of thousands."""
    return [number.replace(",", "") for number in _NUMBER.findall(text)]


def unknown(table: str, source: str) -> list[str]:
    """The figures of a table that no number of `source` rounds to, as it is or in percent. What is measured stands in
    the first column, what it is held to under "bar"; neither is a figure.
    """
    head, _, *rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table.splitlines()]
    known = {float(number) for number in figures(source)}
    known |= {100 * number for number in known}
    return [
        said
        for row in rows
        for name, cell in list(zip(head, row, strict=True))[1:]
        if name != "bar"
        for said in figures(cell)
        if not any(f"{number:.{len(said.partition('.')[2])}f}" == said for number in known)
    ]


@pytest.mark.parametrize(("file", "table"), TABLES, ids=[file for file, _ in TABLES])
def test_the_figures_are_in_the_file(file: str, table: str) -> None:
    assert not unknown(table, (ROOT / file).read_text(encoding="utf-8"))


def test_a_figure_of_nowhere_is_noticed() -> None:
    table = "| what | all | bar |\n|---|---|---|\n| of 7 | 68.8 % and 1,957 | ≥ 60 % |\n"
    assert unknown(table, "0.6881 in 1957") == []
    assert unknown(table, "0.6871 in 1957") == ["68.8"]
