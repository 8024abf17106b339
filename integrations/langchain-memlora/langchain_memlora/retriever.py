"""What is remembered, as LangChain documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.utils import ConfigurableFieldSpec
from pydantic import Field

from memlora_plugins import Hit, Memory, Scope
from memlora_plugins.types import Kind

from .messages import VERBATIM
from .scoping import Owner


class MemLoRARetriever(BaseRetriever):
    """Facts and turns of a person as `Document`s, best first.

    `page_content` is the text, `id` that of the fact or turn; `metadata` has `kind` (`fact` or `turn`), `score`
    (comparable within one search), `created_at` (ISO 8601, when it was said), `sources` (ids of the messages it came
    from), `role`, `name` and `session_id` of a turn, and the `metadata` it was stored with.

    The person is `user_id` if it is set here, or else that of the call: of the LangGraph run's context, or
    `config={"configurable": {"user_id": …}}`.

    Raises (by a call):
        ScopeError: nobody is named. InvalidInputError: a blank query, or `k` below 1.
    """

    memory: Memory
    user_id: str | None = None
    agent_id: str | None = None
    k: int = Field(default=10, ge=1)
    """How many documents; a call can say otherwise: `invoke(query, k=3)`."""
    kinds: Sequence[Kind] = ("fact", "turn")

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What a call may configure."""
        if self.user_id is not None:
            return []
        told = "Whose memory is searched."
        return [ConfigurableFieldSpec(id="user_id", annotation=str, name="User ID", description=told)]

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Documents about `input`; `k` may be given."""
        return super().invoke(input, config, **{**kwargs, "scope": self._scope(config)})

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """As `invoke`."""
        return await super().ainvoke(input, config, **{**kwargs, "scope": self._scope(config)})

    def _scope(self, config: RunnableConfig | None) -> Scope:
        return Owner(self.user_id, self.agent_id).scope(config).without_session()

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **asked: Any
    ) -> list[Document]:
        return as_documents(self.memory.search(query, **self._search(**asked)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **asked: Any
    ) -> list[Document]:
        return as_documents(await self.memory.aio.search(query, **self._search(**asked)))

    def _search(self, *, scope: Scope | None = None, k: int | None = None) -> dict[str, Any]:
        return {"scope": scope or self._scope(None), "limit": self.k if k is None else k, "kinds": self.kinds}


def as_documents(hits: Iterable[Hit]) -> list[Document]:
    """What was found, as documents; see `MemLoRARetriever` for their fields."""
    return [
        Document(
            page_content=hit.text,
            id=hit.id,
            metadata={
                "kind": hit.kind,
                "score": hit.score,
                "created_at": hit.created_at.isoformat(),
                "sources": list(hit.sources),
                "role": hit.role,
                "name": hit.name,
                "session_id": hit.session_id,
                "metadata": {key: value for key, value in hit.metadata.items() if key != VERBATIM},
            },
        )
        for hit in hits
    ]
