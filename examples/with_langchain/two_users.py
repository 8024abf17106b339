"""Two people at once, in one process: each finds only what they said themselves.

Run: python examples/with_langchain/two_users.py [FOLDER]
"""

import asyncio
import sys
from dataclasses import dataclass

from brain import brain
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig

from langchain_memlora import MemLoRAMiddleware
from memlora_plugins import Memory


@dataclass
class Person:
    """The context of a run: who is talking."""

    user_id: str


SAID = {"ana": "I live in Porto.", "ben": "I live in Oslo."}


async def main(memory: Memory) -> None:
    agent = create_agent(brain(), middleware=[MemLoRAMiddleware(memory=memory)], context_schema=Person)

    async def ask(user: str, thread: str, line: str) -> str:
        config: RunnableConfig = {"configurable": {"thread_id": f"{user}-{thread}"}}
        state = await agent.ainvoke({"messages": [HumanMessage(line)]}, config, context=Person(user))
        return f"{user}: {line} -> {state['messages'][-1].text}"

    print(*await asyncio.gather(*(ask(user, "monday", line) for user, line in SAID.items())), sep="\n")
    await memory.aio.flush()
    print(*await asyncio.gather(*(ask(user, "friday", "Where do I live?") for user in SAID)), sep="\n")


with Memory.open(path=sys.argv[1] if len(sys.argv) > 1 else ".memlora") as opened:
    asyncio.run(main(opened))
