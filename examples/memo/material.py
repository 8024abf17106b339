"""What the example is made of: the corpus, its groups, the held-out questions, the synthesis, how nano is trained."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from memlora_plugins.memo.corpus import Corpus, read_corpus
from memlora_plugins.memo.documents import Document, read_documents
from memlora_plugins.memo.synthesis import SynthesisReport, synthesize
from memlora_plugins.memo.training import MemoOptions
from memlora_plugins.serving.openai_compatible import OpenAIBackend

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
GROUPS_FILE = HERE / "groups.json"
HELD_OUT = HERE / "held_out.jsonl"
OPTIONS = MemoOptions(
    epochs=12,
    batch_size=32,
    learning_rate=1e-3,
    optimizer="muon",
    embedding_rate=4.0,
    schedule="cosine",
    betas=(0.9, 0.98),
    weight_decay=0.05,
    measure_every=6,
    answer_tokens=32,
    gradient_checkpointing=False,
    device="cpu",
)
"""For nano: so small a model learns in larger steps, and more of them, than the paper's."""


def read_isles(only: Collection[str] | None = None) -> Corpus:
    """The documents with their groups; `only` those with these ids."""
    if only is None:
        return read_corpus(CORPUS, groups=json.loads(GROUPS_FILE.read_text(encoding="utf-8")))
    documents = [one for one in read_documents(CORPUS) if isinstance(one, Document) and one.id in only]
    groups = json.loads(GROUPS_FILE.read_text(encoding="utf-8"))
    return Corpus.of(documents, groups={name: [id for id in ids if id in only] for name, ids in groups.items()})


def synthesize_isles(corpus: Corpus, base_url: str, out: Path) -> SynthesisReport:
    """The five steps, with whatever Generator answers at `base_url`."""
    generator = OpenAIBackend(base_url, "recorded-generator")
    return synthesize(corpus, generator, out, model="recorded-generator")
