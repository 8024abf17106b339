"""Long-term memory for LlamaIndex, run by small models. Thin over `memlora_plugins`: classes called MemLoRA take its
`Memory`, those called MeMo a `MemoryModel`, which learned a corpus.

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.memory.memlora import MemLoRAMemory
from memlora_plugins import Memory

agent = FunctionAgent(llm=llm)
memory = MemLoRAMemory.from_defaults(memory=Memory.open(), user_id="ana", session_id="monday")
await agent.run("My dog is called Biscuit.", memory=memory)
"""

from .block import MemLoRAMemoryBlock
from .events import ExpertEndEvent, MemoryAddEvent, MemoryWarningEvent
from .executive import LLMExecutive
from .memo_events import MeMoInteractionEvent, MeMoStageEvent
from .memo_query_engine import MeMoQueryEngine
from .memo_retriever import MeMoRetriever
from .memo_tools import MeMoToolSpec
from .memory import MemLoRAMemory
from .query_engine import MemLoRAQueryEngine
from .retriever import MemLoRARetriever
from .tools import MemLoRAToolSpec

__all__ = [
    "ExpertEndEvent",
    "LLMExecutive",
    "MeMoInteractionEvent",
    "MeMoQueryEngine",
    "MeMoRetriever",
    "MeMoStageEvent",
    "MeMoToolSpec",
    "MemLoRAMemory",
    "MemLoRAMemoryBlock",
    "MemLoRAQueryEngine",
    "MemLoRARetriever",
    "MemLoRAToolSpec",
    "MemoryAddEvent",
    "MemoryWarningEvent",
]
