"""The package as a whole: what it exports, and that its objects travel."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.load import dumps

import langchain_memlora
from langchain_memlora import (
    MemLoRAChatMessageHistory,
    MemLoRAMiddleware,
    MemLoRARetriever,
    MemLoRAToolkit,
    SaveMemoryTool,
)
from memlora_plugins import Memory, Message, MissingDependencyError, NotPortableError, Scope


def everything(memory: Memory) -> dict[str, Any]:
    made: dict[str, Any] = {
        "middleware": MemLoRAMiddleware(memory=memory, limit=3, tools=MemLoRAToolkit(memory=memory).get_tools()),
        "retriever": MemLoRARetriever(memory=memory, user_id="ana", k=3),
        "toolkit": MemLoRAToolkit(memory=memory, user_id="ana"),
        "history": MemLoRAChatMessageHistory(memory=memory, user_id="ana", session_id="one"),
        **{tool.name: tool for tool in MemLoRAToolkit(memory=memory, user_id="ana").get_tools()},
    }
    try:
        from langchain_memlora import MemLoRAConversationMemory
    except MissingDependencyError:
        return made
    return made | {"conversation": MemLoRAConversationMemory(memory=memory, user_id="ana", memory_key="chat")}


def test_every_name_is_there() -> None:
    for name in langchain_memlora.__all__:
        if name != "MemLoRAConversationMemory":  # needs an extra
            assert getattr(langchain_memlora, name).__doc__
    assert dir(langchain_memlora) == sorted(langchain_memlora.__all__)
    with pytest.raises(AttributeError, match="Nothing"):
        langchain_memlora.Nothing  # noqa: B018


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['langchain_classic'] = None\n"
        "sys.modules['langchain_classic.base_memory'] = None\n"
        "from memlora_plugins import MissingDependencyError\n"
        "import langchain_memlora\n"
        "try: langchain_memlora.MemLoRAConversationMemory\n"
        "except MissingDependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "langchain-memlora[classic]"' in done.stdout


def test_importing_loads_no_framework() -> None:
    code = "import sys, langchain_memlora; print([name for name in sys.modules if name.startswith('langchain.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_objects_travel_as_settings(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with Memory.open(path=tmp_path / "m", model="none") as memory:
        memory.add([Message("user", "I live in Porto.")], scope=Scope("ana", session_id="one"), distil=False)
        for name, made in everything(memory).items():
            again = pickle.loads(pickle.dumps(made))
            assert type(again) is type(made), name
            try:
                assert again.memory.count(scope=Scope("ana"))["turns"] == 1
            finally:
                again.memory.close()
        retriever = pickle.loads(pickle.dumps(MemLoRARetriever(memory=memory, user_id="ana", k=3)))
        assert (retriever.k, retriever.invoke("Where do I live?")[0].page_content) == (3, "I live in Porto.")
        retriever.memory.close()


def test_a_memory_that_settings_cannot_describe_does_not_travel(memory: Memory) -> None:
    for made in everything(memory).values():
        with pytest.raises(NotPortableError):
            pickle.dumps(made)


def test_nothing_tells_secrets_or_memories(told: Memory) -> None:
    for made in everything(told).values():
        shown = repr(made) + dumps(made)
        assert "Porto" not in shown
    assert "not_implemented" in dumps(SaveMemoryTool(memory=told))  # LangChain's own JSON: no code to load
