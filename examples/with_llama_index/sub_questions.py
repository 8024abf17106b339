"""A question that takes both documents and memory: an LLM takes it apart, and puts the answers together.

Run: python examples/with_llama_index/sub_questions.py [FOLDER]
"""

import asyncio
import json
import re
import sys

from library_of_documents import TOLD, engines
from llama_index.core.query_engine import SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from thinker import from_context, most_alike, thinker

from memlora_plugins import Memory, Scope

QUESTION = "Which food am I allergic to, and what is in the canteen's satay?"


def script(shown: str) -> str:
    """What an LLM does here, in the place of one: it splits the question, answers from documents, joins the answers."""
    asked = re.findall(r"<Tools>\n```json\n(.*?)```\n\n<User Question>\n(.*?)\n", shown, flags=re.S)
    if asked:
        tools, question = asked[-1]  # the first ones are an example
        named = {description: name for name, description in json.loads(tools).items()}
        parts = [f"{part}?" for part in question.rstrip("?").split(", and ")]
        items = [{"sub_question": part, "tool_name": named[most_alike(named, part)]} for part in parts]
        return json.dumps({"items": items})
    answers = re.findall(r"^Response: (.*)$", shown, flags=re.M)
    return "; ".join(answers) if answers else from_context(shown)


async def main(folder: str) -> None:
    with Memory.open(path=folder) as memory:
        await memory.aio.add(TOLD, scope=Scope("ana"))
        llm = thinker(script)
        engine = SubQuestionQueryEngine.from_defaults(
            engines(memory, llm), llm=llm, question_gen=LLMQuestionGenerator.from_defaults(llm), verbose=False
        )
        response = await engine.aquery(QUESTION)  # asks both at the same time
        print("Ana:", QUESTION)
        print("Answer:", response)
        for source in response.source_nodes:  # the parts with their answers, then what these were made from
            print("-", source.text)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else ".memlora"))
