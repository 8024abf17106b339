"""How much of the evidence is found in real long conversations: LoCoMo, MiniLM, no language model; over what was said,
and over that together with the facts that a teacher wrote into the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from timed import report

from memlora_plugins.embedding import SentenceTransformerEmbedder
from memlora_plugins.evaluation import locomo
from memlora_plugins.evaluation.conversations import Conversation, chosen, load_conversations
from memlora_plugins.evaluation.evidence import rankings
from memlora_plugins.evaluation.evidence.cached_embedder import CachedEmbedder
from memlora_plugins.evaluation.evidence.places import edge
from memlora_plugins.store.ranking import DEFAULT, Ranking

pytestmark = [
    pytest.mark.benchmark_suite,
    pytest.mark.timeout(1800),
    pytest.mark.skipif("MEMLORA_DATA" not in os.environ, reason="MEMLORA_DATA does not name the data folder"),
]


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    return load_conversations(Path(os.environ["MEMLORA_DATA"]) / "locomo" / "locomo-dev.json")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CachedEmbedder]:
    model = SentenceTransformerEmbedder()
    cached = CachedEmbedder(model, tmp_path_factory.mktemp("embeddings"))
    yield cached
    cached.close()
    model.close()


@pytest.mark.parametrize(
    ("searched", "unit", "ranking", "split", "bars"),
    [
        ("dense: the turn alone", "turns", Ranking(context=0, context_words=0, named=0), None, None),
        ("BM25: the turn with its neighbours", "turns", Ranking(text=0, context=0, named=0), None, None),
        ("hybrid, the default", "turns", DEFAULT, None, (0.67, 0.79)),
        ("hybrid, the default", "both", DEFAULT, None, None),
        ("hybrid, the default", "both", DEFAULT, "validation", (0.75, 0.85)),
    ],
)
def test_evidence_recall(
    benchmark: Any,
    conversations: list[Conversation],
    embedder: CachedEmbedder,
    searched: str,
    unit: rankings.Unit,
    ranking: Ranking,
    split: locomo.Split | None,
    bars: tuple[float, float] | None,
) -> None:
    talks = conversations if split is None else chosen(conversations, locomo.SPLITS[split])
    settings = [rankings.Setting(searched, ranking)]
    [measured] = benchmark.pedantic(
        lambda: rankings.measure_conversations(talks, settings, [unit], embedder, edge), rounds=1
    )
    recall = measured.score.at
    over = {"turns": "turns", "both": "turns and facts"}[unit]
    what = f"LoCoMo evidence recall @10 / @30, {over}, {split or 'all'}, {searched}"
    bar = "reported" if bars is None else f"≥ {bars[0]} / ≥ {bars[1]}"
    report(benchmark, what, f"{recall[10]:.3f} / {recall[30]:.3f}", bar, questions=measured.score.questions)
    if bars is not None:
        assert recall[10] >= bars[0]
        assert recall[30] >= bars[1]
