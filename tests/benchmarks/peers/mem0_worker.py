"""mem0: its default store (local Qdrant on disk) with the OpenAI endpoints replaced."""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, ClassVar

from mem0 import AsyncMemory, Memory
from qdrant_client.local.qdrant_local import QdrantLocal
from worker import Library, Setup, run


class Mem0(Library):
    notes: ClassVar[dict[str, str]] = {
        "setup": "Memory.from_config: llm and embedder 'openai' with openai_base_url, vector_store 'qdrant' with path",
        "fill": "memories alone: Memory.vector_store.insert, its own store, in batches with embed_batch. It "
        "commits each memory by itself, so SQLite is told not to wait for the disk while it is filled",
        "add": "Memory.add; several at once: AsyncMemory.add",
        "flush": "not offered",
        "erase": "one call: Memory.delete_all(user_id=). Messages and history have a call for everybody only, "
        "Memory.reset",
        "store": "on disk",
    }

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.history = f"{setup.folder}/history.db"
        endpoint = {"api_key": "none", "openai_base_url": f"{setup.url}/v1"}
        store = {"path": f"{setup.folder}/qdrant", "embedding_model_dims": setup.dimension}
        embedder = {**endpoint, "model": setup.embedder, "embedding_dims": setup.dimension}
        config = {
            "llm": {"provider": "openai", "config": {**endpoint, "model": "fake"}},
            "embedder": {"provider": "openai", "config": embedder},
            "vector_store": {"provider": "qdrant", "config": store},
            "history_db_path": self.history,
        }
        self.memory: Any = (AsyncMemory if setup.several else Memory).from_config(config)

    def add(self, user: str, said: str, answer: str | None = None) -> Any:
        turn = [{"role": "user", "content": said}]
        turn += [{"role": "assistant", "content": answer}] if answer else []
        return self.memory.add(turn, user_id=user)

    def search(self, user: str, text: str, limit: int) -> Iterable[str]:
        found = self.now(self.memory.search(text, filters={"user_id": user}, top_k=limit))
        return [item["memory"] for item in found["results"]]

    def fill(self, rows: Sequence[tuple[str, str]]) -> None:
        texts = [text for _, text in rows]
        now = datetime.now(UTC).isoformat()
        payloads = [
            {
                "data": text,
                "text_lemmatized": text.lower(),
                "hash": hashlib.md5(text.encode()).hexdigest(),
                "created_at": now,
                "updated_at": now,
                "user_id": user,
            }
            for user, text in rows
        ]
        vectors = self.memory.embedding_model.embed_batch(texts)
        self._wait_for_the_disk("OFF")
        self.memory.vector_store.insert(vectors, payloads, [str(uuid.uuid4()) for _ in rows])

    def filled(self) -> None:
        self._wait_for_the_disk("FULL")

    def _wait_for_the_disk(self, how: str) -> None:
        collections = self.memory.vector_store.client._client.collections
        for collection in collections.values():
            collection.storage.storage.execute(f"PRAGMA synchronous = {how}")

    def rows(self, user: str) -> dict[str, int]:
        memories = self.memory.vector_store.list(filters={"user_id": user}, top_k=100_000)[0]
        with closing(sqlite3.connect(self.history)) as file:
            (messages,) = file.execute(
                "SELECT count(*) FROM messages WHERE session_scope LIKE ?", (f"%{user}%",)
            ).fetchone()
            (history,) = file.execute(
                "SELECT count(*) FROM history WHERE coalesce(old_memory, '') || coalesce(new_memory, '') LIKE ?",
                (f"%{user}%",),
            ).fetchone()
        return {"memories": len(memories), "messages": messages, "history": history}

    def erase_at_once(self, user: str) -> None:
        self.now(self.memory.delete_all(user_id=user))

    def warns(self, stored: int) -> str | None:
        most = QdrantLocal.LARGE_DATA_THRESHOLD
        return f"its local store warns: not meant for over {most:,} points" if stored > most else None

    def close(self) -> None:
        self.memory.close()


if __name__ == "__main__":
    run(Mem0)
