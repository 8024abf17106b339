"""`prompt | model` with a history that lasts, and with facts of earlier sessions in the prompt.

Run: python examples/with_langchain/history.py [FOLDER]
"""

import sys
import warnings
from datetime import datetime
from operator import itemgetter

from brain import brain
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import ConfigurableFieldSpec, RunnableConfig, RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_memlora import MemLoRAChatMessageHistory, MemLoRARetriever
from memlora_plugins import Memory

warnings.filterwarnings("ignore", category=LangChainDeprecationWarning)  # of RunnableWithMessageHistory

KNOWN = "You are a friendly assistant. What is known of the person:\n{known}"
PROMPT = ChatPromptTemplate([("system", KNOWN), MessagesPlaceholder("history"), ("human", "{input}")])
FIELDS = [ConfigurableFieldSpec(id=name, annotation=str) for name in ("user_id", "session_id")]
CONVERSATIONS = {"first": ("I live in Porto.", "My dog is called Biscuit."), "second": ("What is my dog called?",)}


def dated(facts: list[Document]) -> str:
    return "\n".join(
        f"[{datetime.fromisoformat(fact.metadata['created_at']):%a %Y-%m-%d}] {fact.page_content}" for fact in facts
    )


def main(folder: str) -> None:
    with Memory.open(path=folder) as memory:

        def history(user_id: str, session_id: str) -> MemLoRAChatMessageHistory:
            return MemLoRAChatMessageHistory(memory=memory, user_id=user_id, session_id=session_id)

        facts = MemLoRARetriever(memory=memory, kinds=["fact"])  # of the same user_id of the configuration
        chain = RunnableWithMessageHistory(
            RunnablePassthrough.assign(known=itemgetter("input") | facts | dated) | PROMPT | brain(),
            history,
            input_messages_key="input",
            history_messages_key="history",
            history_factory_config=FIELDS,
        )
        for session, lines in CONVERSATIONS.items():
            print(f"- {session} session")
            config: RunnableConfig = {"configurable": {"user_id": "ana", "session_id": session}}
            for line in lines:
                print("Ana:  ", line)
                print("Reply:", chain.invoke({"input": line}, config).text)
            memory.flush()  # facts are distilled in the background: here, before the next session
        print("- the first session, as it is kept")
        for message in history("ana", "first").messages:
            print(f"{message.type}: {message.text}")


main(sys.argv[1] if len(sys.argv) > 1 else ".memlora")
