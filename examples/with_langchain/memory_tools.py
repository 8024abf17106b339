"""Memory in the agent's own hands: it saves, searches and forgets by calling tools.

Run: python examples/with_langchain/memory_tools.py [FOLDER]
"""

import re
import sys

from brain import brain
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from langchain_memlora import MemLoRAToolkit
from memlora_plugins import Memory

LINES = (
    "Please remember that I'm allergic to peanuts.",
    "What am I allergic to?",
    "That was a mistake. Forget that I am allergic to peanuts.",
    "What am I allergic to?",
)


def script(messages: list[BaseMessage]) -> AIMessage | str:
    """What a model does with the tools, in the place of one."""
    last = messages[-1]
    asked = next(message.text for message in reversed(messages) if isinstance(message, HumanMessage))
    if isinstance(last, HumanMessage):
        if "remember" in asked:
            return call("save_memory", text="The user is allergic to peanuts.")
        return call("search_memory", query="allergic to")
    ids = re.findall(r"^(\S+) \[.*peanuts", last.text, flags=re.M)
    if ids and "Forget" in asked:
        return call("forget_memory", memory_ids=ids)
    return "Done." if "?" not in asked else "Peanuts." if ids else "Nothing that I know of."


def call(name: str, **arguments: object) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": name}])


def main(folder: str) -> None:
    config: RunnableConfig = {"configurable": {"user_id": "ana"}}  # the application says whose memory it is
    with Memory.open(path=folder) as memory:
        agent = create_agent(brain(script), tools=MemLoRAToolkit(memory=memory).get_tools())
        for line in LINES:
            for message in agent.invoke({"messages": [HumanMessage(line)]}, config)["messages"]:
                called = [f"{one['name']}({one['args']})" for one in getattr(message, "tool_calls", ())]
                print(f"{message.type:>6}: {message.text or ' '.join(called)}")


main(sys.argv[1] if len(sys.argv) > 1 else ".memlora")
