"""What is remembered, as LlamaIndex nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from memlora_plugins import Hit, InvalidInputError, Memory, Scope
from memlora_plugins.types import Kind

from .messages import without

_SHOWN = ("created_at", "role", "name")  # metadata that a language model sees beside the text


class MemLoRARetriever(BaseRetriever):
    """Facts and turns of a person as nodes, best first.

    A node's `id_` is that of the fact or turn, the same in every search; its text is what was noted or said. Its
    `metadata` has `kind` (`fact` or `turn`), `created_at` (ISO 8601, when it was said), `sources` (ids of the messages
    it came from), `role`, `name` and `session_id` of a turn, and the `metadata` it was stored with. A language model is
    shown `created_at`, `role` and `name`. Scores are comparable within one search only.

    Args:
        memory: the open memory; it stays the caller's to close.
        user_id: whose memory is searched.
        similarity_top_k: how many nodes.
        agent_id: searches the memory of this agent only.
        kinds: `("fact",)` or `("turn",)` for one of the two.
        **base: as `BaseRetriever` (`callback_manager`, `objects`, `object_map`, `verbose`).

    Raises:
        ScopeError: a blank id. InvalidInputError: `similarity_top_k` below 1; by a query: one without words.
    """

    def __init__(
        self,
        *,
        memory: Memory,
        user_id: str,
        similarity_top_k: int = 10,
        agent_id: str | None = None,
        kinds: Sequence[Kind] = ("fact", "turn"),
        callback_manager: CallbackManager | None = None,
        **base: Any,
    ) -> None:
        super().__init__(callback_manager=callback_manager, **base)
        if similarity_top_k < 1:
            raise InvalidInputError(f"similarity_top_k must be at least 1, got {similarity_top_k}.")
        self.memory = memory
        self.scope = Scope(user_id, agent_id)
        self.similarity_top_k = similarity_top_k
        self.kinds = tuple(kinds)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return as_nodes(self.memory.search(words(query_bundle), **self._search))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return as_nodes(await self.memory.aio.search(words(query_bundle), **self._search))

    @property
    def _search(self) -> dict[str, Any]:
        return {"scope": self.scope, "limit": self.similarity_top_k, "kinds": self.kinds}


def words(query: QueryBundle) -> str:
    """The words of a query.

    Raises:
        InvalidInputError: it has none, but an embedding or an image, say.
    """
    if not isinstance(query.query_str, str) or not query.query_str.strip():
        raise InvalidInputError(
            "The query has no words, which are all that memory is asked with: pass query_str (an embedding or an image "
            "alone cannot be used)."
        )
    return query.query_str


def as_nodes(hits: Iterable[Hit]) -> list[NodeWithScore]:
    """What was found, as nodes; see `MemLoRARetriever` for their fields."""
    return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits]


def _node(hit: Hit) -> TextNode:
    metadata: dict[str, Any] = {
        "kind": hit.kind,
        "created_at": hit.created_at.isoformat(),
        "sources": list(hit.sources),
        "role": hit.role,
        "name": hit.name,
        "session_id": hit.session_id,
        "metadata": without(hit.metadata),
    }
    told = {key: value for key, value in metadata.items() if value is not None}
    return TextNode(
        id_=hit.id,
        text=hit.text,
        metadata=told,
        excluded_llm_metadata_keys=[key for key in told if key not in _SHOWN],
        excluded_embed_metadata_keys=list(told),
    )
