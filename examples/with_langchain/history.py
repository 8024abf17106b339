"""prompt | model with a history that stays, and what earlier sessions told in the prompt.

Run: python examples/with_langchain/history.py [FOLDER]
"""

import sys
import warnings
from typing import Any

from brain import brain
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableFieldSpec, RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_memlora import MemLoRAChatMessageHistory
from memlora_plugins import Memory, Scope

warnings.filterwarnings("ignore", category=LangChainDeprecationWarning)  # RunnableWithMessageHistory

PROMPT = ChatPromptTemplate(
    [
        ("system", "You are a friendly assistant. This is known of the person:\n{known}"),
        ("placeholder", "{history}"),
        ("human", "{input}"),
    ]
)
FIELDS = [ConfigurableFieldSpec(id=name, annotation=str) for name in ("user_id", "session_id")]


def main(folder: str) -> None:
    with Memory.open(path=folder) as memory:

        def known(given: dict[str, Any], config) -> str:
            return memory.context(given["input"], scope=Scope(config["configurable"]["user_id"]))

        def history(user_id: str, session_id: str) -> MemLoRAChatMessageHistory:
            return MemLoRAChatMessageHistory(memory=memory, user_id=user_id, session_id=session_id)

        chain = RunnableWithMessageHistory(
            RunnablePassthrough.assign(known=known) | PROMPT | brain(),
            history,
            input_messages_key="input",
            history_messages_key="history",
            history_factory_config=FIELDS,
        )
        for session, line in (("first", "I live in Porto."), ("first","My dog is called Biscuit."),
                              ("second", "What is my dog called?")):
            print(f"Ana ({session}):", line)
            config = {"configurable": {"user_id": "ana", "session_id": session}}
            print("Reply:", chain.invoke({"input": line}, config).text)
            memory.flush()
        print("the first conversation, as it is kept:")
        for message in history("ana", "first").messages:
            print(f"{message.type}: {message.text}")


main(sys.argv[1] if len(sys.argv) > 1 else ".memlora")
