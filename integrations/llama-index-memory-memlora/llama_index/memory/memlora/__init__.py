"""Long-term memory for LlamaIndex, run by small models. Thin over `memlora_plugins`, whose `Memory` every class takes.

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.memory.memlora import MemLoRAMemory
from memlora_plugins import Memory

agent = FunctionAgent(llm=llm)
memory = MemLoRAMemory.from_defaults(memory=Memory.open(), user_id="ana", session_id="monday")
await agent.run("My dog is called Biscuit.", memory=memory)
"""

from .block import MemLoRAMemoryBlock
from .events import ExpertEndEvent, MemoryAddEvent, MemoryWarningEvent
from .memory import MemLoRAMemory
from .query_engine import MemLoRAQueryEngine
from .retriever import MemLoRARetriever
from .tools import MemLoRAToolSpec

__all__ = [
    "ExpertEndEvent",
    "MemLoRAMemory",
    "MemLoRAMemoryBlock",
    "MemLoRAQueryEngine",
    "MemLoRARetriever",
    "MemLoRAToolSpec",
    "MemoryAddEvent",
    "MemoryWarningEvent",
]
