"""The LLM of these examples: a script that stands in for one, so that they run offline.

Put yours into `thinker`. What the script says, it reads in what it is shown, as a model would. An example that asks
more of it than to repeat memories has a script of its own.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ChatResponseAsyncGen
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM

Script = Callable[[str], str]


class ScriptedLLM(MockFunctionCallingLLM):
    """A fake LLM: LlamaIndex's own, but that it streams word by word."""

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        reply = await self.achat(messages, **kwargs)

        async def words() -> ChatResponseAsyncGen:
            said = ""
            for word in re.findall(r"\S+\s*", reply.message.content or ""):
                said += word
                yield ChatResponse(message=ChatMessage(said, role="assistant"), delta=word)

        return words()


def from_memory(shown: str) -> str:
    """A script that repeats the memory most like a question; a statement it only acknowledges."""
    asked = shown.splitlines()[-1]  # memories stand before what the person said
    if "?" not in asked:
        return "I see."
    found = re.findall(r"^\[\w+ [\d-]+\] (.*)$", shown, flags=re.M)
    best = most_alike((line for line in found if "?" not in line and not line.startswith("assistant")), asked)
    return f"You told me: {best}" if best else "You have not told me."


def from_context(shown: str) -> str:
    """A script for LlamaIndex's question-answering prompt: the sentence of the context most like the question."""
    _, context, question = re.split(r"^-+$", shown, flags=re.M)
    return most_alike(re.split(r"\n|(?<=\.) ", context), question) or "The documents do not say."


def most_alike(lines: Iterable[str], asked: str) -> str:
    """The line that shares most words with what is asked, the last one of several; nothing if none shares any."""
    wanted = _words(asked)
    best = max(reversed(list(lines)), key=lambda line: len(_words(line) & wanted), default="")
    return best if _words(best) & wanted else ""


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


def thinker(script: Script = from_memory) -> FunctionCallingLLM:
    """An LLM of yours, or one that replies to the last message it is shown as `script` says."""
    # yours: from llama_index.llms.openai import OpenAI; return OpenAI(model="gpt-…")
    return ScriptedLLM(
        response_generator=lambda messages, **_: ChatMessage(script(messages[-1].content or ""), role="assistant"),
        is_chat_model=True,
    )
