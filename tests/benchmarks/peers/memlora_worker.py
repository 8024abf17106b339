"""memlora_plugins: embedded store on disk, any OpenAI-compatible endpoint as the model, an embedding endpoint."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from worker import Library, Setup, run

from memlora_plugins import Memory, Message, Scope


class MemLoRA(Library):
    notes: ClassVar[dict[str, str]] = {
        "setup": "Memory.open(path=, base_url=, api='openai', model=, embedder_url=, embedder=)",
        "fill": "Memory.load, its import of exported facts, then Memory.flush",
        "add": "Memory.add; several at once: Memory.aio.add",
        "flush": "Memory.flush",
        "erase": "Memory.erase",
        "store": "on disk",
    }

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.memory = Memory.open(
            path=f"{setup.folder}/memlora",
            base_url=setup.url,
            api="openai",
            model="fake",
            embedder_url=setup.url,
            embedder=setup.embedder,
        )

    def add(self, user: str, said: str, answer: str | None = None) -> Any:
        turn = [Message("user", said), *([Message("assistant", answer)] if answer else [])]
        door = self.memory.aio if self.setup.several else self.memory
        return door.add(turn, scope=Scope(user))

    def search(self, user: str, text: str, limit: int) -> Iterable[str]:
        return [hit.text for hit in self.memory.search(text, scope=Scope(user), limit=limit)]

    def fill(self, rows: Sequence[tuple[str, str]]) -> None:
        by_user: dict[str, list[str]] = {}
        for user, text in rows:
            by_user.setdefault(user, []).append(text)
        now = datetime.now(UTC).isoformat()
        for user, texts in by_user.items():
            facts = [
                {
                    "kind": "fact",
                    "id": str(uuid.uuid4()),
                    "user_id": user,
                    "text": text,
                    "sources": [],
                    "valid_from": now,
                    "recorded_at": now,
                    "operation": "ADD",
                    "version": 1,
                }
                for text in texts
            ]
            self.memory.load(facts, scope=Scope(user))

    def filled(self) -> None:
        self.memory.flush()

    def flush(self) -> None:
        self.memory.flush()

    def rows(self, user: str) -> dict[str, int]:
        count = self.memory.count(scope=Scope(user))
        return {name: count[name] for name in ("facts", "retired", "turns")}

    def erase(self, user: str) -> None:
        self.memory.erase(scope=Scope(user))

    def close(self) -> None:
        self.memory.close()


if __name__ == "__main__":
    run(MemLoRA)
