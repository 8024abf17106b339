"""An agent that knows on Friday, in another session, what it was told on Monday.

Run: python examples/with_llama_index/agent.py [FOLDER]
"""

import asyncio
import sys

from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from thinker import thinker

from llama_index.memory.memlora import MemLoRAMemory
from memlora_plugins import Memory


async def main(folder: str) -> None:
    with Memory.open(path=folder) as memory:
        agent = FunctionAgent(llm=thinker(), system_prompt="You are a friendly assistant.")

        print("- Monday")
        monday = MemLoRAMemory.from_defaults(memory=memory, user_id="ana", session_id="monday")
        for line in ("I live in Porto.", "My dog is called Biscuit."):
            print("Ana:  ", line)
            print("Agent:", await agent.run(line, memory=monday))
        await memory.aio.flush()  # facts are distilled in the background: here, before the next session

        print("- Friday")
        friday = MemLoRAMemory.from_defaults(memory=memory, user_id="ana", session_id="friday")
        for line in ("Where do I live?", "What is my dog called?"):
            print("Ana:  ", line)
            print("Agent: ", end="")
            handler = agent.run(line, memory=friday)
            async for event in handler.stream_events():
                if isinstance(event, AgentStream):
                    print(event.delta, end="", flush=True)
            await handler  # raises what went wrong
            print()


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else ".memlora"))
