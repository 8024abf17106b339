"""What the examples of retrieval ask: documents of a company, and what Ana told."""

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import LLM
from llama_index.core.tools import QueryEngineTool
from pydantic import PrivateAttr

from llama_index.memory.memlora import MemLoRAQueryEngine
from memlora_plugins import Memory, Message, SentenceTransformerEmbedder

HANDBOOK = (
    "The canteen's satay is chicken in a sauce of peanuts. Its soup is made of vegetables. It opens at noon.",
    "Dogs are welcome in the office on Fridays. They stay out of the canteen.",
    "The office in Porto is at 9 Harbour Street. The office in Oslo is at 2 Fjord Lane.",
)
TOLD = [
    Message("user", line)
    for line in ("My dog is called Biscuit.", "I work in the Oslo office.", "I'm allergic to peanuts.")
]


class MiniLM(BaseEmbedding):
    """The default embedding model of the memory, which comes with a package; it is loaded once for both."""

    model_name: str = "all-MiniLM-L6-v2"
    _embedder: SentenceTransformerEmbedder = PrivateAttr(default_factory=SentenceTransformerEmbedder)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return [vector.tolist() for vector in self._embedder.embed(texts)]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = (await self._embedder.aembed([query]))[0].tolist()
        return vector


def engines(memory: Memory, llm: LLM) -> list[QueryEngineTool]:
    """One over the documents, answered by `llm`; one over what Ana told, answered by the memory's own small model."""
    index = VectorStoreIndex.from_documents([Document(text=text) for text in HANDBOOK], embed_model=MiniLM())
    return [
        QueryEngineTool.from_defaults(
            index.as_query_engine(llm=llm, similarity_top_k=1),
            name="handbook",
            description="The company's handbook: where each office is, when dogs are welcome, what the canteen makes.",
        ),
        QueryEngineTool.from_defaults(
            MemLoRAQueryEngine(memory=memory, user_id="ana"),
            name="memory",
            description="What the user told: which office they work in, what they are allergic to, how their dog is "
            "called.",
        ),
    ]
