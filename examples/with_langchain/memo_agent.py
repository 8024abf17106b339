"""An agent takes a question apart and asks a Memory model, which learned a corpus by heart, one thing after the other.

FOLDER is that of the Memory model, which `python examples/memo/make_model.py` makes: build/memo/model.

Run: python examples/with_langchain/memo_agent.py [FOLDER]
"""

import re
import sys

from brain import brain
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_memlora import MeMoTool
from memlora_plugins import MemoryModel

QUESTION = "In which town was the teacher of the Kelp Archive's founder born?"
STEPS = ("Who is the founder of the Kelp Archive?", "Who taught {}?", "Where was {} born?")


def script(messages: list[BaseMessage]) -> AIMessage | str:
    """What a model does with the tool, in the place of one: it asks for the founder, the teacher, the town."""
    told = "\n".join(message.text for message in messages if message.type == "tool")
    answers = re.findall(r"-> (.*?)\.?$", told, flags=re.M)
    if len(answers) == len(STEPS):
        return f"In {answers[-1]}."
    question = STEPS[len(answers)].format(answers[-1] if answers else "")
    return AIMessage("", tool_calls=[{"name": "ask_memory_model", "args": {"questions": [question]}, "id": question}])


def main(folder: str) -> None:
    with MemoryModel.open(folder) as memory_model:
        agent = create_agent(brain(script), tools=[MeMoTool(memory_model=memory_model)])
        for message in agent.invoke({"messages": [HumanMessage(QUESTION)]})["messages"]:
            called = [f"{one['name']}({one['args']})" for one in getattr(message, "tool_calls", ())]
            print(f"{message.type:>6}: {message.text or ' '.join(called)}")


main(sys.argv[1] if len(sys.argv) > 1 else "build/memo/model")
