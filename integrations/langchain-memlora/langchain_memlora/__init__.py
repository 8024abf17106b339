"""Long-term memory for LangChain, run by small models. Thin over `memlora_plugins`, whose `Memory` every class takes.

    from langchain.agents import create_agent
    from langchain_memlora import MemLoRAMiddleware
    from memlora_plugins import Memory

    agent = create_agent(model, middleware=[MemLoRAMiddleware(memory=Memory.open())])
    agent.invoke({"messages": [...]}, {"configurable": {"user_id": "ana", "thread_id": "monday"}})

Each class loads when it is first used: `MemLoRAConversationMemory` alone needs the extra `classic`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memlora_plugins import MissingDependencyError

if TYPE_CHECKING:
    from .chat_history import MemLoRAChatMessageHistory
    from .conversation_memory import MemLoRAConversationMemory
    from .executive import ChatModelExecutive
    from .memo import MeMoProtocolTool, MeMoTool
    from .middleware import MemLoRAMiddleware
    from .retriever import MemLoRARetriever
    from .tools import ForgetMemoryTool, MemLoRAToolkit, SaveMemoryTool, SearchMemoryTool

__all__ = [
    "ChatModelExecutive",
    "ForgetMemoryTool",
    "MeMoProtocolTool",
    "MeMoTool",
    "MemLoRAChatMessageHistory",
    "MemLoRAConversationMemory",
    "MemLoRAMiddleware",
    "MemLoRARetriever",
    "MemLoRAToolkit",
    "SaveMemoryTool",
    "SearchMemoryTool",
]

_HOME = {
    "ChatModelExecutive": "executive",
    "ForgetMemoryTool": "tools",
    "MemLoRAChatMessageHistory": "chat_history",
    "MemLoRAConversationMemory": "conversation_memory",
    "MemLoRAMiddleware": "middleware",
    "MemLoRARetriever": "retriever",
    "MemLoRAToolkit": "tools",
    "MeMoProtocolTool": "memo",
    "MeMoTool": "memo",
    "SaveMemoryTool": "tools",
    "SearchMemoryTool": "tools",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "langchain_classic":
            raise
        raise MissingDependencyError(f'{name} needs: pip install "langchain-memlora[classic]"') from error


def __dir__() -> list[str]:
    return sorted(__all__)
