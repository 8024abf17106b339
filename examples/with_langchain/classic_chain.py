"""A classic `ConversationChain`: `MemLoRAConversationMemory` stands where `ConversationBufferMemory` stood.

Run: python examples/with_langchain/classic_chain.py [FOLDER]
"""

import sys
import warnings

from brain import brain
from langchain_classic.chains import ConversationChain
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from langchain_memlora import MemLoRAConversationMemory
from memlora_plugins import Memory

warnings.filterwarnings("ignore", category=LangChainDeprecationWarning)  # of LangChain's classic chains

PROMPT = ChatPromptTemplate(
    [("system", "You are a friendly assistant."), MessagesPlaceholder("history"), ("human", "{input}")]
)
CONVERSATIONS = {
    "first": ("I live in Porto.", "I'm allergic to peanuts."),
    "second": ("Where do I live?", "Am I allergic to anything?"),
}


def conversation(memory: Memory, session: str) -> ConversationChain:
    # was: kept = ConversationBufferMemory(return_messages=True)
    kept = MemLoRAConversationMemory(memory=memory, user_id="ana", session_id=session, return_messages=True)
    return ConversationChain(llm=brain(), prompt=PROMPT, memory=kept)


def main(folder: str) -> None:
    with Memory.open(path=folder) as memory:
        for session, lines in CONVERSATIONS.items():
            print(f"- {session} conversation")
            chain = conversation(memory, session)
            for line in lines:
                print("Ana:  ", line)
                print("Chain:", chain.predict(input=line))
            memory.flush()  # facts are distilled in the background: here, before the next conversation


main(sys.argv[1] if len(sys.argv) > 1 else ".memlora")
