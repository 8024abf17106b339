"""MeMo beside its bounds and what it is compared with, offline: `memlora eval memo` on the isles.

    python examples/memo/make_model.py --ten-documents
    python examples/memo/compare.py build/memo/model --ten-documents      # the report goes to build/memo/comparison

Retrieval, the Memory model and its protocols are real. The Executive is **not**: a script reads documents (it repeats
the sentence that shares most words with the question) and asks the Memory model the question as it is. No judge takes
part, so that answers are compared word by word. With ten documents, those of the other isles are the noise.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from make_model import FIRST_TEN
from material import HELD_OUT, read_isles
from recorded_generator import RecordedGenerator

from memlora_plugins.cli.app import app
from memlora_plugins.memo.documents import Document, write_documents
from memlora_plugins.memo.reflections import HeldOutQuestion, read_held_out, write_rows

CONFIG = """\
questions = "questions.jsonl"
corpus = "corpus.jsonl"
{negatives}
runs = {runs}

[executive]
base_url = "{base_url}"
model = "script"
name = "a script in place of a model"

[[memory]]
name = "nano"
noise = 0
folder = {folder}
device = "cpu"
"""


class ScriptedExecutive(RecordedGenerator):
    """An endpoint that plays the Executive by a few rules."""

    def __init__(self) -> None:
        super().__init__({})

    def reply(self, step: str, data: str) -> str:
        """What it says to a prompt; `step` is empty for a reader's."""
        question = data.rpartition("Question: ")[2].splitlines()[0]
        if not step:
            return nearest_sentence(question, re.findall(r"^\[\d+\] (.*)$", data, re.M))
        said = re.findall(r"^- .* -> (.*)$", data, re.M)
        ask = [{"question": question}]
        if "final_answer" in data:
            return json.dumps({"final_answer": said[-1] if said else "I don't know", "justification": ""})
        if "candidate_entities" in data:
            return json.dumps({"decision": "exhaust", "candidate_entities": [], "sub_questions": []})
        if "entity_pivot" in data:
            return json.dumps({"decision": "answer" if said else "ask", "sub_questions": [] if said else ask})
        return json.dumps({"sub_questions": ask})


def nearest_sentence(question: str, documents: Sequence[str]) -> str:
    """The sentence that shares most words with the question, of equals the first."""
    asked = set(re.findall(r"\w+", question.lower()))
    sentences = [one for text in documents for one in re.split(r"(?<=\.) ", text)]
    shared = [len(asked & set(re.findall(r"\w+", one.lower()))) for one in sentences]
    return sentences[shared.index(max(shared))] if any(shared) else "I don't know"


def compare(folder: Path, work: Path, *, ten_documents: bool, questions: int | None, runs: int) -> None:
    """Measure the Memory model in `folder`; everything goes to `work`."""
    isles = read_isles().documents
    known = [one for one in isles if not ten_documents or one.id in FIRST_TEN]
    others = [one for one in isles if one not in known]
    ids = {one.id for one in known}
    asked = [one for one in read_held_out(HELD_OUT) if ids.issuperset(one.documents)][:questions]
    work.mkdir(parents=True, exist_ok=True)
    write_rows(work / "questions.jsonl", asked)
    write_documents(work / "corpus.jsonl", known)
    write_documents(work / "negatives.jsonl", others)
    with ScriptedExecutive() as executive:
        text = CONFIG.format(
            negatives=noise(asked, others),
            runs=runs,
            base_url=executive.base_url,
            folder=json.dumps(str(folder.absolute())),
        )
        (work / "memo.toml").write_text(text, encoding="utf-8")
        if code := app(["eval", "memo", str(work / "memo.toml"), "--out", str(work)], standalone_mode=False):
            raise SystemExit(code)


def noise(asked: Sequence[HeldOutQuestion], others: Sequence[Document]) -> str:
    """The lines on noise: as many levels as there are documents for."""
    evidence = len({id for one in asked for id in one.documents})
    levels = [level for level in (0, 1, 2) if level * evidence <= len(others)]
    return f'negatives = "negatives.jsonl"\nnoise = {levels}' if others else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build") / "memo" / "model")
    parser.add_argument("--work", type=Path, default=Path("build") / "memo" / "comparison")
    parser.add_argument("--ten-documents", action="store_true", help="of a model that was made with the same option")
    parser.add_argument("--questions", type=int, help="the first so many only")
    parser.add_argument("--runs", type=int, default=1)
    given = parser.parse_args()
    compare(given.folder, given.work, ten_documents=given.ten_documents, questions=given.questions, runs=given.runs)
