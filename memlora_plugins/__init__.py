"""Long-term memory for LLM agents, run by small models.

    from memlora_plugins import Memory, Message, Scope

    with Memory.open() as memory:
        ana = Scope("ana")
        memory.add([Message("user", "I moved to Lisbon in May.")], scope=ana)
        memory.search("Where does she live?", scope=ana)

Heavy parts (torch, Qdrant, httpx…) load when they are first used, not here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    AdapterError,
    AdapterInvalidError,
    AdapterNotLoadedError,
    BackendError,
    BackendNotConfiguredError,
    BackendRequestError,
    BackendTimeoutError,
    BackendUnavailableError,
    ClosedError,
    ConflictError,
    DatasetError,
    EmbedderMismatchError,
    EmbeddingError,
    ForkedError,
    InvalidInputError,
    MemloraError,
    MessageError,
    MissingDependencyError,
    NotFoundError,
    NotPortableError,
    PromptTooLongError,
    ReplyError,
    RetiredError,
    ScopeError,
    ServerStartError,
    SettingsError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
    TrainingError,
    UnsaidError,
)
from .flows.recall import as_context
from .memory import AsyncMemory, Memory
from .types import (
    AddResult,
    Answer,
    Fact,
    FactEvent,
    Failure,
    Hit,
    ImagePart,
    Message,
    Scope,
    Stage,
    TextPart,
    Token,
    Turn,
    Usage,
)

if TYPE_CHECKING:
    from .embedding import OpenAIEmbedder, SentenceTransformerEmbedder
    from .memo.answers import MemoryAnswer
    from .memo.executive import EndpointExecutive, Executive
    from .memo.memory_model import MemoryModel
    from .memo.prompts import Prompts
    from .memo.protocol import Budgets, Protocol, ProtocolResult, Temperatures
    from .serving.local import LocalBackend
    from .serving.openai_compatible import OpenAIBackend
    from .serving.server import VLLMServer
    from .serving.vllm import VLLMBackend
    from .settings import Settings
    from .store.edge import EdgeFactStore
    from .store.qdrant import QdrantFactStore
    from .store.ranking import Ranking

__all__ = [
    "AdapterError",
    "AdapterInvalidError",
    "AdapterNotLoadedError",
    "AddResult",
    "Answer",
    "AsyncMemory",
    "BackendError",
    "BackendNotConfiguredError",
    "BackendRequestError",
    "BackendTimeoutError",
    "BackendUnavailableError",
    "Budgets",
    "ClosedError",
    "ConflictError",
    "DatasetError",
    "EdgeFactStore",
    "EmbedderMismatchError",
    "EmbeddingError",
    "EndpointExecutive",
    "Executive",
    "Fact",
    "FactEvent",
    "Failure",
    "ForkedError",
    "Hit",
    "ImagePart",
    "InvalidInputError",
    "LocalBackend",
    "MemloraError",
    "Memory",
    "MemoryAnswer",
    "MemoryModel",
    "Message",
    "MessageError",
    "MissingDependencyError",
    "NotFoundError",
    "NotPortableError",
    "OpenAIBackend",
    "OpenAIEmbedder",
    "PromptTooLongError",
    "Prompts",
    "Protocol",
    "ProtocolResult",
    "QdrantFactStore",
    "Ranking",
    "ReplyError",
    "RetiredError",
    "Scope",
    "ScopeError",
    "SentenceTransformerEmbedder",
    "ServerStartError",
    "Settings",
    "SettingsError",
    "Stage",
    "StoreError",
    "StoreLockedError",
    "StoreUnavailableError",
    "Temperatures",
    "TextPart",
    "Token",
    "TrainingError",
    "Turn",
    "UnsaidError",
    "Usage",
    "VLLMBackend",
    "VLLMServer",
    "as_context",
]

_LATE = {
    "Budgets": "memo.protocol",
    "EdgeFactStore": "store.edge",
    "EndpointExecutive": "memo.executive",
    "Executive": "memo.executive",
    "LocalBackend": "serving.local",
    "MemoryAnswer": "memo.answers",
    "MemoryModel": "memo.memory_model",
    "OpenAIBackend": "serving.openai_compatible",
    "OpenAIEmbedder": "embedding",
    "Prompts": "memo.prompts",
    "Protocol": "memo.protocol",
    "ProtocolResult": "memo.protocol",
    "QdrantFactStore": "store.qdrant",
    "Ranking": "store.ranking",
    "SentenceTransformerEmbedder": "embedding",
    "Settings": "settings",
    "Temperatures": "memo.protocol",
    "VLLMBackend": "serving.vllm",
    "VLLMServer": "serving.server",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f".{_LATE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
