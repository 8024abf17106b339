"""LangMem: a memory store manager over LangGraph's InMemoryStore, with langchain-openai for model and embedder."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langgraph.store.base import PutOp
from langgraph.store.memory import InMemoryStore
from langmem import create_memory_store_manager
from worker import Library, Setup, run


class LangMem(Library):
    notes: ClassVar[dict[str, str]] = {
        "setup": "create_memory_store_manager(ChatOpenAI(base_url=), store=InMemoryStore(index=))",
        "fill": "memories alone, as its add leaves them: InMemoryStore.batch of PutOp",
        "add": "manager.invoke; several at once: manager.ainvoke",
        "flush": "not offered",
        "erase": "no one call for a person: manager.search, then manager.delete of each key, until none is found",
        "store": "in memory: gone when the process ends",
        "close": "not offered",
    }

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        url = f"{setup.url}/v1"
        embeddings = OpenAIEmbeddings(
            model=setup.embedder, base_url=url, api_key="none", check_embedding_ctx_length=False
        )
        self.store = InMemoryStore(index={"dims": setup.dimension, "embed": embeddings, "fields": ["content"]})
        self.manager = create_memory_store_manager(
            ChatOpenAI(model="fake", base_url=url, api_key="none"),
            namespace=("memories", "{langgraph_user_id}"),
            store=self.store,
        )

    def add(self, user: str, said: str, answer: str | None = None) -> Any:
        turn = [{"role": "user", "content": said}]
        turn += [{"role": "assistant", "content": answer}] if answer else []
        call = self.manager.ainvoke if self.setup.several else self.manager.invoke
        return call({"messages": turn}, config=_of(user))

    def search(self, user: str, text: str, limit: int) -> Iterable[str]:
        return [_content(item.value) for item in self.manager.search(query=text, limit=limit, config=_of(user))]

    def fill(self, rows: Sequence[tuple[str, str]]) -> None:
        self.store.batch(
            [
                PutOp(("memories", user), str(uuid.uuid4()), {"kind": "Memory", "content": {"content": text}})
                for user, text in rows
            ]
        )

    def rows(self, user: str) -> dict[str, int]:
        return {"memories": len(self.store.search(("memories", user), limit=100_000))}

    def erase(self, user: str) -> None:
        while found := self.manager.search(limit=100, config=_of(user)):
            for item in found:
                self.manager.delete(item.key, config=_of(user))


def _of(user: str) -> Any:
    return {"configurable": {"langgraph_user_id": user}}


def _content(value: Any) -> str:
    """The text of a memory, as the manager or as the store tells it."""
    content = value.get("content", value) if isinstance(value, dict) else value
    return str(content.get("content", content) if isinstance(content, dict) else getattr(content, "content", content))


if __name__ == "__main__":
    run(LangMem)
