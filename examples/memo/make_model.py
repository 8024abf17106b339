"""A corpus becomes a Memory model, offline: documents, reflections, a small model that has learned them.

    python examples/memo/make_model.py                      # the model goes to build/memo/model
    memlora memo ask build/memo/model "Where does Ilse Varga live?" "Who founded the Kelp Archive?"
    memlora memo serve build/memo/model --port 8000

The documents are about isles that do not exist. The large Generator is a recording (`recorded_generator.py`), the
rest is real: the synthesis, the training, the model. On two cores it takes six to seven minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from material import HELD_OUT, OPTIONS, read_isles, synthesize_isles
from recorded_generator import RecordedGenerator

from memlora_plugins import nano
from memlora_plugins.memo.calibration import calibrate, note
from memlora_plugins.memo.card import TrainedDocument
from memlora_plugins.memo.memory_model import MemoryModel
from memlora_plugins.memo.reflections import read_held_out, read_reflections
from memlora_plugins.memo.training import train_memory_model

FIRST_TEN = (
    "ilse-varga.md",
    "the-kelp-archive.md",
    "calder-quay.md",
    "lena-moravec.md",
    "marrowgate.md",
    "mirela-dunn.md",
    "the-glass-guild.md",
    "the-blue-window.md",
    "bruno-achterberg.md",
    "felix-onwudi.md",
)
"""Documents that have much to do with each other, for a model that is made in three minutes."""


def make_model(work: Path, *, ten_documents: bool = False, threads: int = 1) -> Path:
    """Make the reflections and the Memory model; returns its folder."""
    corpus = read_isles(FIRST_TEN if ten_documents else None)
    with RecordedGenerator() as generator:
        report = synthesize_isles(corpus, generator.base_url, work / "synthesis")
    print(f"{len(corpus.documents)} documents became {report.pairs.total} reflections in {generator.calls} calls.")
    ids = {document.id for document in corpus.documents}
    held_out = [question for question in read_held_out(HELD_OUT) if ids.issuperset(question.documents)]
    trained = train_memory_model(
        nano.BASE,
        read_reflections(work / "synthesis" / "reflections.jsonl"),
        work / "model",
        OPTIONS.model_copy(update={"threads": threads, "epochs": 20 if ten_documents else OPTIONS.epochs}),
        held_out=held_out,
        documents=[TrainedDocument(id=one.id, title=one.title, sha256=one.sha256) for one in corpus.documents],
        resume=True,
        on_event=lambda event: None if event.validation_loss is None else print(f"epoch {event.epoch:.0f} is over"),
    )
    with MemoryModel.open(trained.folder, device="cpu") as model:
        found = calibrate(model, held_out)
    note(trained.folder, found)
    if trained.recall is not None:
        told = ", ".join(f"{kind} {one.contained:.0%}" for kind, one in trained.recall.kinds.items())
        print(f"Of {len(held_out)} held-out questions it answers {trained.recall.overall.contained:.0%} ({told}).")
    return trained.folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build") / "memo")
    parser.add_argument("--ten-documents", action="store_true", help="half the time, a quarter of the isles")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    folder = make_model(given.work, ten_documents=given.ten_documents, threads=given.threads)
    print(f"The Memory model is in {folder}.")
