"""Writes the corpus and the held-out questions, and records a Generator's replies to the real synthesis.

    python examples/memo/writing/write.py

Held-out questions are written first, the replies come after. The Generator that is recorded is `author`, a program on
loopback: no large model took part. `memlora memo synthesize` reads the replies back from `recorded_generator.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import author
from isles import ENTITIES, GROUPS
from material import CORPUS, GROUPS_FILE, HELD_OUT, read_isles, synthesize_isles
from recorded_generator import REPLIES, RecordedGenerator, key

from memlora_plugins.memo.reflections import HeldOutQuestion, write_rows


def write_corpus() -> None:
    """One Markdown document for each entity, and which of them belong together."""
    CORPUS.mkdir(exist_ok=True)
    for old in CORPUS.glob("*.md"):
        old.unlink()
    for entity in ENTITIES.values():
        (CORPUS / entity.file).write_text(author.document(entity), encoding="utf-8")
    groups = {name: [ENTITIES[member].file for member in members] for name, members in GROUPS.items()}
    GROUPS_FILE.write_text(json.dumps(groups, indent=1) + "\n", encoding="utf-8")


def write_held_out() -> None:
    """Questions that share no wording with those that the Generator's replies ask."""
    found = {
        "fact": author.held_out_facts(),
        "entity": author.held_out_entities(),
        "cross": author.held_out_cross(GROUPS.values()),
    }
    rows = [
        HeldOutQuestion(
            question=pair.question,
            answers=(pair.answer,),
            kind=kind,
            documents=tuple(dict.fromkeys(fact.entity.file for fact in pair.facts)),
        )
        for kind, pairs in found.items()
        for pair in pairs
    ]
    write_rows(HELD_OUT, rows)


class Recording(RecordedGenerator):
    """Lets the author reply, and keeps what it says."""

    def __init__(self) -> None:
        super().__init__({})
        self.kept: dict[str, tuple[str, str]] = {}

    def reply(self, step: str, data: str) -> str | None:
        said = author.reply(step, data)
        self.kept[key(step, data)] = step, said
        return said


def record() -> None:
    """Run the synthesis once and write down every reply."""
    with Recording() as generator, tempfile.TemporaryDirectory() as folder:
        synthesize_isles(read_isles(), generator.base_url, Path(folder))
    REPLIES.parent.mkdir(exist_ok=True)
    with REPLIES.open("w", encoding="utf-8") as file:
        for name, (step, said) in sorted(generator.kept.items(), key=lambda item: (item[1][0], item[0])):
            row = {"key": name, "step": step, "reply": json.loads(said)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_corpus()
    write_held_out()
    record()
