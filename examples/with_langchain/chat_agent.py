"""A chat that knows on Friday, in another conversation, what it was told on Monday.

Run: python examples/with_langchain/chat_agent.py [FOLDER]
"""

import sys

from brain import brain
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from langchain_memlora import MemLoRAMiddleware
from memlora_plugins import Memory


def main(folder: str) -> None:
    with Memory.open(path=folder) as memory:
        agent = create_agent(
            brain(),
            system_prompt="You are a friendly assistant.",
            middleware=[MemLoRAMiddleware(memory=memory)],
            checkpointer=InMemorySaver(),  # holds a conversation; the memory holds what outlives it
        )

        def say(day: str, line: str) -> None:
            config: RunnableConfig = {"configurable": {"user_id": "ana", "thread_id": day}}
            print("Ana:  ", line)
            print("Agent: ", end="")
            said = HumanMessage(line)
            for part in agent.stream({"messages": [said]}, config, stream_mode="messages", version="v2"):
                if part["type"] == "messages":
                    print(part["data"][0].text, end="", flush=True)
            print()

        print("- Monday")
        say("monday", "I live in Porto.")
        say("monday", "My dog is called Biscuit.")
        memory.flush()  # facts are distilled in the background: here, before the next conversation

        print("- Friday")
        say("friday", "Where do I live?")
        say("friday", "What is my dog called?")


main(sys.argv[1] if len(sys.argv) > 1 else ".memlora")
