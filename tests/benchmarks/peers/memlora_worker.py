"""memlora_plugins: embedded store on disk, any OpenAI-compatible endpoint as the model, an embedding endpoint."""

from __future__ import annotations

import itertools
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from worker import Library, Setup, run

from memlora_plugins import Memory, Message, Scope


class MemLoRA(Library):
    notes: ClassVar[dict[str, str]] = {
        "setup": "Memory.open(path=, base_url=, api='openai', model=, embedder_url=, embedder=)",
        "fill": "a fact and the turn it was said in for each memory, as its add leaves them: Memory.load, its import "
        "of exported rows, then Memory.flush",
        "add": "Memory.add; several at once: Memory.aio.add",
        "flush": "Memory.flush",
        "erase": "one call: Memory.erase",
        "store": "on disk",
    }

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.positions: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
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
        by_user: dict[str, list[dict[str, Any]]] = {}
        now = datetime.now(UTC).isoformat()
        for user, text in rows:
            said = str(uuid.uuid4())
            turn = {
                "kind": "turn",
                "user_id": user,
                "message_id": said,
                "role": "user",
                "text": text,
                "created_at": now,
                "recorded_at": now,
                "position": next(self.positions[user]),
                "pending": False,
            }
            fact = {
                "kind": "fact",
                "id": str(uuid.uuid4()),
                "user_id": user,
                "text": text,
                "sources": [said],
                "valid_from": now,
                "recorded_at": now,
                "operation": "ADD",
                "version": 1,
            }
            by_user.setdefault(user, []).extend((turn, fact))
        for user, exported in by_user.items():
            self.memory.load(exported, scope=Scope(user))

    def filled(self) -> None:
        self.memory.flush()

    def flush(self) -> None:
        self.memory.flush()

    def rows(self, user: str) -> dict[str, int]:
        count = self.memory.count(scope=Scope(user))
        return {name: count[name] for name in ("facts", "retired", "turns")}

    def erase_at_once(self, user: str) -> None:
        self.memory.erase(scope=Scope(user))

    def close(self) -> None:
        self.memory.close()


if __name__ == "__main__":
    run(MemLoRA)
