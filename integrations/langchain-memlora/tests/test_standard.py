"""LangChain's own suites for retrievers and tools, as they are."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import RetrieversIntegrationTests, ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from langchain_memlora import ForgetMemoryTool, MemLoRARetriever, SaveMemoryTool, SearchMemoryTool
from memlora_plugins import Memory, Scope


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


class TestSearchUnit(_Search, ToolsUnitTests): ...


class TestSearch(_Search, ToolsIntegrationTests): ...


class TestSaveUnit(_Save, ToolsUnitTests): ...


class TestSave(_Save, ToolsIntegrationTests): ...


class TestForgetUnit(_Forget, ToolsUnitTests): ...


class TestForget(_Forget, ToolsIntegrationTests): ...
