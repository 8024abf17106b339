"""One query engine over documents and memory: an LLM decides for each question which of the two is asked.

Run: python examples/with_llama_index/rag_router.py [FOLDER]
"""

import json
import re
import sys

from library_of_documents import TOLD, engines
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.selectors import LLMSingleSelector
from thinker import from_context, most_alike, thinker

from memlora_plugins import Memory, Scope

QUESTIONS = (
    "Which office do I work in?",
    "Where is the office in Oslo?",
    "What is my dog called?",
    "When are dogs welcome in the office?",
)


def script(shown: str) -> str:
    """What an LLM does here, in the place of one: it chooses an engine, and answers from documents."""
    choices = {text: int(number) for number, text in re.findall(r"^\((\d+)\) (.*)$", shown, flags=re.M)}
    if not choices:
        return from_context(shown)
    [question] = re.findall(r"relevant to the question: '(.*)'$", shown, flags=re.M)
    best = most_alike(choices, question)
    return json.dumps([{"choice": choices.get(best, 1), "reason": best}])


def main(folder: str) -> None:
    with Memory.open(path=folder) as memory:
        memory.add(TOLD, scope=Scope("ana"))
        llm = thinker(script)
        tools = engines(memory, llm)
        router = RouterQueryEngine(LLMSingleSelector.from_defaults(llm), tools, llm=llm)
        for question in QUESTIONS:
            response = router.query(question)
            asked = tools[response.metadata["selector_result"].ind].metadata.name
            print("Ana:", question)
            print(f"{asked}: {response}")
            for source in response.source_nodes:
                print(f"  source: {source.text} ({source.get_score():.2f})")


main(sys.argv[1] if len(sys.argv) > 1 else ".memlora")
