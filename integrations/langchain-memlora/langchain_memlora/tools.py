"""Memory in the agent's own hands: to search, to save, to forget.

Whose memory it is, the application says (see `scoping`). No tool takes a user, a `runtime` or a `config` as an
argument: a model that supplies one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, BaseToolkit, ToolException
from langchain_core.tools.base import ArgsSchema
from pydantic import ConfigDict

from memlora_plugins import MemloraError, Memory, Scope
from memlora_plugins.flows.effects import Flow
from memlora_plugins.plugs import tools
from memlora_plugins.plugs.doors import arun, run
from memlora_plugins.plugs.tools import Done, ForgetArguments, SaveArguments, SearchArguments

from .retriever import as_documents
from .scoping import Owner
from .steps import report_usage


class _MemoryTool(BaseTool):
    """Takes the scope from the call's configuration, and tells the model what went wrong where it can do something."""

    memory: Memory
    user_id: str | None = None
    """Whose memory it is, whatever the call says; None: the call's context or configuration says so."""
    agent_id: str | None = None
    response_format: Any = "content_and_artifact"
    handle_tool_error: Any = True

    def _done(self, work: Callable[[Memory, Scope], Flow[Done]], config: RunnableConfig) -> Flow[Done]:
        """
        Raises:
            ToolException: memory could not do it; the model is told.
        """
        scope = Owner(self.user_id, self.agent_id).scope(config).without_session()
        try:
            return (yield from work(self.memory, scope))
        except tools.APPLICATION_ERRORS:
            raise
        except MemloraError as error:
            raise ToolException(str(error)) from error


class SearchMemoryTool(_MemoryTool):
    """Looks something up; the artifact is the found documents (as `MemLoRARetriever` gives them)."""

    name: str = "search_memory"
    description: str = tools.SEARCH
    args_schema: ArgsSchema | None = SearchArguments

    def _run(self, query: str, limit: int = 10, *, config: RunnableConfig) -> Done:
        return run(self._search(SearchArguments(query=query, limit=limit), config))

    async def _arun(self, query: str, limit: int = 10, *, config: RunnableConfig) -> Done:
        return await arun(self._search(SearchArguments(query=query, limit=limit), config))

    def _search(self, asked: SearchArguments, config: RunnableConfig) -> Flow[Done]:
        told, hits = yield from self._done(lambda memory, scope: tools.search(memory, scope, asked), config)
        return Done(told, as_documents(hits))


class SaveMemoryTool(_MemoryTool):
    """Notes a statement as it stands; the artifact lists what became of it (operation, id, text of each fact)."""

    name: str = "save_memory"
    description: str = tools.SAVE
    args_schema: ArgsSchema | None = SaveArguments
    wait: bool = True
    """False: the note is compared with what is known in the background, and the model is only told that it is kept."""

    def _run(self, text: str, *, config: RunnableConfig) -> Done:
        return run(self._save(SaveArguments(text=text), config))

    async def _arun(self, text: str, *, config: RunnableConfig) -> Done:
        return await arun(self._save(SaveArguments(text=text), config))

    def _save(self, asked: SaveArguments, config: RunnableConfig) -> Flow[Done]:
        told, result = yield from self._done(
            lambda memory, scope: tools.save(memory, scope, asked, wait=self.wait), config
        )
        yield from report_usage(self.memory.settings.model or "nano", result.usage)
        return Done(told, tools.told_events(result))


class ForgetMemoryTool(_MemoryTool):
    """Leaves memories out of search, with the words they came from; the artifact lists the ids. What is forgotten so
    can still be seen in the history: `Memory.erase` is for the application, not for a model.
    """

    name: str = "forget_memory"
    description: str = tools.FORGET
    args_schema: ArgsSchema | None = ForgetArguments

    def _run(self, memory_ids: list[str], *, config: RunnableConfig) -> Done:
        return run(self._forget(ForgetArguments(memory_ids=memory_ids), config))

    async def _arun(self, memory_ids: list[str], *, config: RunnableConfig) -> Done:
        return await arun(self._forget(ForgetArguments(memory_ids=memory_ids), config))

    def _forget(self, asked: ForgetArguments, config: RunnableConfig) -> Flow[Done]:
        return self._done(lambda memory, scope: tools.forget(memory, scope, asked), config)


class MemLoRAToolkit(BaseToolkit):
    """The three tools over one memory.

    Args:
        memory: the open memory; it stays the caller's to close.
        user_id: whose memory it is, whatever a call says; None (the default): the call's context or configuration says.
        agent_id: keeps this agent's memory apart from that of others of the same person.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memory: Memory
    user_id: str | None = None
    agent_id: str | None = None

    def get_tools(self) -> list[BaseTool]:
        """`search_memory`, `save_memory` and `forget_memory`."""
        kinds = (SearchMemoryTool, SaveMemoryTool, ForgetMemoryTool)
        return [kind(memory=self.memory, user_id=self.user_id, agent_id=self.agent_id) for kind in kinds]
