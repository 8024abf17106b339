"""Memories that a measurement makes for itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from scripted import FakeBackend, WordEmbedder

from memlora_plugins import Message, Scope
from memlora_plugins.evaluation.harness.scratch import scratch_memory
from memlora_plugins.settings import load_settings

SAID = ("Which harbour has the boat?", "The one in Porto.", "A harbour is far from here.")
SCOPE = Scope("ana", session_id="one")
BEGAN = datetime(2023, 5, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ranking", "second"),
    [({"context": 0, "context_words": 0}, SAID[2]), ({"text": 0, "context_words": 0}, SAID[1]), ({}, SAID[1])],
    ids=["the thing itself", "with its neighbours", "the default"],
)
async def test_it_ranks_as_its_settings_say(tmp_path: Path, ranking: dict[str, float], second: str) -> None:
    said = [Message("user", text, created_at=BEGAN + timedelta(minutes=place)) for place, text in enumerate(SAID)]
    settings = load_settings(ranking=ranking, resume=False)
    async with scratch_memory(FakeBackend(), tmp_path, WordEmbedder(), settings) as memory:
        await memory.add(said, scope=SCOPE, distil=False)
        hits = await memory.search("boat harbour", scope=SCOPE)
    assert [hit.text for hit in hits][:2] == [SAID[0], second]
