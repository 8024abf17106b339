"""LlamaIndex's Memory with the two blocks that remember: extracted facts, and messages in a vector store (Chroma).

`VectorMemoryBlock` refuses LlamaIndex's own SimpleVectorStore ("must store text"), so Chroma, as in its documentation.
A Memory hands messages to its blocks when its queue runs over; its token limit is set so low here that every turn goes
there when the next one comes (with the defaults nothing is distilled before 21,000 tokens). A block keeps the facts of
one session and the first session it was asked for, so every person has blocks of their own over one vector store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import chromadb
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import FactExtractionMemoryBlock, Memory, VectorMemoryBlock
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from llama_index.vector_stores.chroma import ChromaVectorStore
from worker import Library, Setup, run


class LlamaIndex(Library):
    notes: ClassVar[dict[str, str]] = {
        "setup": "Memory.from_defaults(token_limit=40, chat_history_token_ratio=0.02, "
        "memory_blocks=[FactExtractionMemoryBlock, VectorMemoryBlock]), Chroma's EphemeralClient",
        "fill": "turns alone, in the vector store: ChromaVectorStore.add of nodes, in batches; the list of facts stays "
        "empty, as every fact in it goes to the model with each add",
        "add": "Memory.aput_messages",
        "flush": "not offered",
        "unknown id": "its replies hold no ids",
        "erase": "one call, Memory.reset, for the chat history alone; then ChromaVectorStore.delete_nodes(filters=) "
        "for the vectors, and an empty FactExtractionMemoryBlock.facts for each of its blocks",
        "store": "in memory: gone when the process ends",
        "close": "not offered",
    }

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        url = f"{setup.url}/v1"
        self.llm = OpenAILike(model="fake", api_base=url, api_key="none", is_chat_model=True, context_window=32_000)
        self.embedder = OpenAILikeEmbedding(model_name=setup.embedder, api_base=url, api_key="none")
        collection = chromadb.EphemeralClient().get_or_create_collection("memory")
        self.vectors = ChromaVectorStore(chroma_collection=collection)
        self.collection = collection
        self.people: dict[str, Memory] = {}

    def of(self, user: str) -> Memory:
        if user not in self.people:
            self.people[user] = Memory.from_defaults(
                session_id=user,
                token_limit=40,
                token_flush_size=10,
                chat_history_token_ratio=0.02,
                memory_blocks=[
                    FactExtractionMemoryBlock(llm=self.llm, priority=0),
                    VectorMemoryBlock(
                        vector_store=self.vectors, embed_model=self.embedder, similarity_top_k=10, priority=0
                    ),
                ],
            )
        return self.people[user]

    def add(self, user: str, said: str, answer: str | None = None) -> Any:
        turn = [ChatMessage(role="user", content=said)]
        turn += [ChatMessage(role="assistant", content=answer)] if answer else []
        return self.of(user).aput_messages(turn)

    def search(self, user: str, text: str, limit: int) -> Iterable[str]:
        found = self.now(self.of(user).aget(input=text))
        return [message.content or "" for message in found]

    def fill(self, rows: Sequence[tuple[str, str]]) -> None:
        texts = [f"<message role='user'>{text}</message>" for _, text in rows]
        vectors = self.embedder.get_text_embedding_batch(texts)
        self.vectors.add(
            [
                TextNode(text=text, metadata={"session_id": user}, embedding=vector)
                for (user, _), text, vector in zip(rows, texts, vectors, strict=True)
            ]
        )

    def settle(self, user: str) -> None:
        self.now(self.add(user, "Well, well.", "Indeed."))

    def rows(self, user: str) -> dict[str, int]:
        facts = sum(len(block.facts) for block in self.of(user).memory_blocks if hasattr(block, "facts"))
        messages = len(self.now(self.of(user).aget_all()))
        vectors = len(self.collection.get(where={"session_id": user})["ids"])
        return {"facts": facts, "vectors": vectors, "messages": messages}

    def erase_at_once(self, user: str) -> None:
        self.now(self.of(user).areset())

    def erase(self, user: str) -> None:
        self.erase_at_once(user)
        of_user = MetadataFilters(filters=[MetadataFilter(key="session_id", value=user)])
        if found := [node.node_id for node in self.vectors.get_nodes(None, filters=of_user)]:
            self.vectors.delete_nodes(found, filters=of_user)
        for block in self.of(user).memory_blocks:
            if isinstance(block, FactExtractionMemoryBlock):
                block.facts = []


if __name__ == "__main__":
    run(LlamaIndex)
