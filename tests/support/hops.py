"""Questions of two steps in the form of MuSiQue's files, about people and towns that there are none of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PEOPLE = {"Ada Quill": "Brimmel", "Otto Vane": "Castor Bay", "Mina Oak": "Dunmere"}
"""Who was born in which town."""
RIVERS = {"Brimmel": "Lessa", "Castor Bay": "Moir", "Dunmere": "Nandra"}
"""Which river runs through a town."""


def paragraph(title: str, text: str, supporting: bool = False) -> dict[str, Any]:
    return {"idx": 0, "title": title, "paragraph_text": text, "is_supporting": supporting}


def rows() -> list[dict[str, Any]]:
    """A question for each person, with two paragraphs of evidence among six; all share one that does not help, and
    those of the others' evidence.
    """
    made = []
    for number, (person, town) in enumerate(PEOPLE.items()):
        other, other_town = list(PEOPLE.items())[number - 1]
        made.append(
            {
                "id": f"2hop__{number}",
                "question": f"Which river runs through the town where {person} was born?",
                "answer": RIVERS[town],
                "answer_aliases": [f"River {RIVERS[town]}", RIVERS[town]],
                "answerable": True,
                "question_decomposition": [{"id": 1}, {"id": 2}],
                "paragraphs": [
                    paragraph("Weather", "It rains in many towns."),
                    paragraph(other, f"He was a painter, born in {other_town}."),
                    paragraph(person, f"She was a baker,  born in {town}.", True),
                    paragraph("Baking", f"Bread needs time; batch {number}."),
                    paragraph(town, f"The river {RIVERS[town]} runs through {town}.", True),
                    paragraph("Rivers", f"A river ends in the sea; note {number}."),
                ],
            }
        )
    return made


def write_rows(file: Path, content: list[dict[str, Any]] | None = None) -> Path:
    """A file as it is published: one question a line."""
    file.write_text("".join(f"{json.dumps(row)}\n" for row in content or rows()))
    return file
