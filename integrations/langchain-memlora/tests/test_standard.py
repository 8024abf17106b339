"""LangChain's own suites for retrievers and tools, as they are."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import RetrieversIntegrationTests, ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from scripted_memo import FINAL, ScriptedExecutive, ScriptedMemory, ground

from langchain_memlora import (
    ForgetMemoryTool,
    MemLoRARetriever,
    MeMoProtocolTool,
    MeMoTool,
    SaveMemoryTool,
    SearchMemoryTool,
)
from memlora_plugins import Memory, Scope
from memlora_plugins.memo.protocol import Protocol


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _over(self, told: Memory) -> None:
        self.memory = told

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return MemLoRARetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": self.memory, "user_id": "ana"}

    @property
    def retriever_query_example(self) -> str:
        return "Where does Ana live?"


class _Tool:
    @pytest.fixture(autouse=True)
    def _over(self, told: Memory) -> None:
        self.memory = told

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"memory": self.memory, "user_id": "ana"}


class _Search(_Tool):
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return SearchMemoryTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"query": "Where does Ana live?", "limit": 3}


class _Save(_Tool):
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return SaveMemoryTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"text": "Ana's birthday is on the third of May."}


class _Forget(_Tool):
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return ForgetMemoryTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"memory_ids": [self.memory.turns(scope=Scope("ana"))[0].id]}


class _MeMo:
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return MeMoTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"memory_model": ScriptedMemory({"Where was Ada Lind born?": "In Porto."})}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"questions": ["Where was Ada Lind born?", "When?"]}


class _MeMoProtocol:
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return MeMoProtocolTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        executive = ScriptedExecutive([ground("q1"), FINAL])
        return {"protocol": Protocol(executive=executive, memory_model=ScriptedMemory(), method="single_turn")}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"question": "Where was the founder born?"}


class TestSearchUnit(_Search, ToolsUnitTests): ...


class TestSearch(_Search, ToolsIntegrationTests): ...


class TestSaveUnit(_Save, ToolsUnitTests): ...


class TestSave(_Save, ToolsIntegrationTests): ...


class TestForgetUnit(_Forget, ToolsUnitTests): ...


class TestForget(_Forget, ToolsIntegrationTests): ...


class TestMeMoUnit(_MeMo, ToolsUnitTests): ...


class TestMeMo(_MeMo, ToolsIntegrationTests): ...


class TestMeMoProtocolUnit(_MeMoProtocol, ToolsUnitTests): ...


class TestMeMoProtocol(_MeMoProtocol, ToolsIntegrationTests): ...
