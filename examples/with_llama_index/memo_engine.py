"""A question of three steps about a corpus that a Memory model learned, which an LLM asks one thing after the other.

FOLDER is that of the Memory model, which `python examples/memo/make_model.py` makes: build/memo/model.

Run: python examples/with_llama_index/memo_engine.py [FOLDER]
"""

import asyncio
import json
import re
import sys

from thinker import thinker

from llama_index.memory.memlora import LLMExecutive, MeMoQueryEngine
from memlora_plugins import MemoryModel, Protocol

QUESTION = "In which town was the teacher of the Kelp Archive's founder born?"
STEPS = ("Who is the founder of the Kelp Archive?", "Who taught {}?", "Where was {} born?")


def script(shown: str) -> str:
    """What an LLM does here, in the place of one: it asks for the founder, for that one's teacher, for the town."""
    told = dict(re.findall(r"^- (.*) -> (.*?)\.?$", shown, flags=re.M))
    answers: list[str] = []
    for step in STEPS:
        question = step.format(answers[-1] if answers else "")
        if question not in told:
            break
        answers.append(told[question])
    complete = len(answers) == len(STEPS)
    if "final_answer" in shown:
        why = "It follows from what was said of the founder and of the teacher."
        last = {"final_answer": answers[-1], "justification": why} if complete else {"final_answer": "It is not told."}
        return json.dumps(last)
    reply = {"decision": "answer" if complete else "ask", "sub_questions": [{"question": question}]}
    if "candidate_entities" in shown:
        founder = answers[0] if answers else ""
        reply |= {"decision": "exhaust", "entity_confirmed": bool(founder), "confirmed_entity": founder}
    return json.dumps(reply)


async def main(folder: str) -> None:
    with MemoryModel.open(folder) as memory_model:
        protocol = Protocol(executive=LLMExecutive(thinker(script)), memory_model=memory_model)
        response = await MeMoQueryEngine(protocol=protocol).aquery(QUESTION)
        print("Question:", QUESTION)
        for interaction in response.metadata["interactions"]:
            for answer in interaction["answers"]:
                print(f"- {interaction['stage']}: {answer['question']} {answer['text']}")
        print("Answer:", response)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "build/memo/model"))
