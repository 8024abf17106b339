"""How much of the evidence is found in real long conversations: LoCoMo, turns only, MiniLM, no language model."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from memlora_plugins import Memory, Scope
from memlora_plugins.evaluation import locomo
from memlora_plugins.store import ranking

pytestmark = [
    pytest.mark.benchmark_suite,
    pytest.mark.timeout(1800),
    pytest.mark.skipif("MEMLORA_DATA" not in os.environ, reason="MEMLORA_DATA does not name the data folder"),
]


@pytest.fixture(scope="module")
def conversations() -> list[locomo.Conversation]:
    return locomo.load(Path(os.environ["MEMLORA_DATA"]) / "locomo" / "locomo-dev.json")


@pytest.fixture(scope="module")
def memory(conversations: list[locomo.Conversation], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    """Every conversation in the default memory, each in the scope of its own user."""
    with Memory.open(path=tmp_path_factory.mktemp("locomo"), model="none") as memory:
        for conversation in conversations:
            sessions: dict[str, list[Any]] = {}
            for session, message in locomo.messages(conversation):
                sessions.setdefault(session, []).append(message)
            for session, messages in sessions.items():
                memory.add(messages, scope=Scope(conversation.sample_id, session_id=session), distil=False)
        yield memory


@pytest.mark.parametrize(
    ("searched", "signals", "bars"),
    [
        ("dense", {"text": 1.0}, (0.0, 0.0)),
        ("BM25 with neighbours", {"context_words": 1.0}, (0.0, 0.0)),
        ("hybrid, the default", None, (0.67, 0.79)),
    ],
)
def test_evidence_recall(
    benchmark: Any,
    monkeypatch: pytest.MonkeyPatch,
    memory: Memory,
    conversations: list[locomo.Conversation],
    searched: str,
    signals: dict[str, float] | None,
    bars: tuple[float, float],
) -> None:
    if signals is not None:
        monkeypatch.setattr(ranking, "SIGNALS", signals)

    def search(conversation: locomo.Conversation, question: str, limit: int) -> Sequence[Collection[str]]:
        return [hit.sources for hit in memory.search(question, scope=Scope(conversation.sample_id), limit=limit)]

    recall = benchmark.pedantic(lambda: locomo.measure(conversations, search), rounds=1)
    benchmark.extra_info |= {"questions": recall.questions, **{f"@{k}": round(v, 3) for k, v in recall.at.items()}}
    assert recall.at[10] >= bars[0]
    assert recall.at[30] >= bars[1]
