"""Memory in the agent's own hands: to search, to save, to forget.

Whose memory it is, the application says (see `scoping`). No tool takes a user, a `runtime` or a `config` as an
argument: a model that supplies one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, BaseToolkit, ToolException
from langchain_core.tools.base import ArgsSchema
from pydantic import BaseModel, ConfigDict, Field

from memlora_plugins import AddResult, Fact, Hit, MemloraError, Memory, Scope, ScopeError, Turn
from memlora_plugins.experts.generation import memory_line
from memlora_plugins.experts.wording import mark_injected
from memlora_plugins.flows.effects import Flow

from .retriever import as_documents
from .scoping import Owner
from .steps import arun, run, through

Said = tuple[str, Any]
"""What the model reads, and the artifact for the program."""


class _MemoryTool(BaseTool):
    """Takes the scope from the call's configuration, and tells the model what went wrong where it can do something."""

    memory: Memory
    user_id: str | None = None
    """Whose memory it is, whatever the call says; None: the call's context or configuration says so."""
    agent_id: str | None = None
    response_format: Any = "content_and_artifact"
    handle_tool_error: Any = True

    def _scope(self, config: RunnableConfig) -> Scope:
        return Owner(self.user_id, self.agent_id).scope(config).without_session()

    def _through(self, action: Callable[[Any], Any]) -> Flow[Any]:
        """
        Raises:
            ToolException: memory could not do it; the model is told.
        """
        try:
            return (yield from through(self.memory, action))
        except ScopeError:
            raise
        except MemloraError as error:
            raise ToolException(str(error)) from error


class _Search(BaseModel):
    model_config = ConfigDict(extra="ignore")

    query: str = Field(description="What to look for, in plain words.", min_length=1)
    limit: int = Field(default=10, description="How many memories at most.", ge=1, le=50)


class SearchMemoryTool(_MemoryTool):
    """Looks something up; the artifact is the found documents (as `MemLoRARetriever` gives them)."""

    name: str = "search_memory"
    description: str = (
        "Look up what is remembered of the person you are talking with, from this and all earlier conversations. "
        "Each line begins with the id of the memory and its date. Where two lines disagree, the later one is true now."
    )
    args_schema: ArgsSchema | None = _Search

    def _run(self, query: str, limit: int = 10, *, config: RunnableConfig) -> Said:
        return run(self._search(query, limit, self._scope(config)))

    async def _arun(self, query: str, limit: int = 10, *, config: RunnableConfig) -> Said:
        return await arun(self._search(query, limit, self._scope(config)))

    def _search(self, query: str, limit: int, scope: Scope) -> Flow[Said]:
        hits: list[Hit] = yield from self._through(lambda door: door.search(query, scope=scope, limit=limit))
        lines = "\n".join(f"{hit.id} {memory_line(hit)}" for hit in hits)
        return (mark_injected(lines) if hits else "Nothing is remembered about that."), as_documents(hits)


class _Save(BaseModel):
    model_config = ConfigDict(extra="ignore")

    text: str = Field(
        description="One statement about the person that is understood by itself: with names and dates, without "
        "'she', 'there' or 'tomorrow'.",
        min_length=1,
    )


class SaveMemoryTool(_MemoryTool):
    """Notes a statement as it stands; the artifact lists what became of it (operation, id, text of each fact)."""

    name: str = "save_memory"
    description: str = (
        "Note one thing about the person that will matter in later conversations. It is compared with what is known: "
        "it may replace an older memory, or be known already."
    )
    args_schema: ArgsSchema | None = _Save
    wait: bool = True
    """False: the note is compared with what is known in the background, and the model is only told that it is kept."""

    def _run(self, text: str, *, config: RunnableConfig) -> Said:
        return run(self._save(text, self._scope(config)))

    async def _arun(self, text: str, *, config: RunnableConfig) -> Said:
        return await arun(self._save(text, self._scope(config)))

    def _save(self, text: str, scope: Scope) -> Flow[Said]:
        result: AddResult = yield from self._through(lambda door: door.note(text, scope=scope, wait=self.wait))
        events = [{"operation": e.operation, "id": e.fact.id, "text": e.fact.text} for e in result.events]
        changed = [event["text"] for event in events if event["operation"] in ("ADD", "UPDATE")]
        if changed:
            return f"Saved: {' '.join(changed)}", events
        return ("Known already." if events else "Kept; it will be found a little later."), events


class _Forget(BaseModel):
    model_config = ConfigDict(extra="ignore")

    memory_ids: list[str] = Field(description="Ids of memories, as search_memory gives them.", min_length=1)


class ForgetMemoryTool(_MemoryTool):
    """Leaves memories out of search, with the words they came from; the artifact lists the ids. What is forgotten so
    can still be seen in the history: `Memory.erase` is for the application, not for a model.
    """

    name: str = "forget_memory"
    description: str = (
        "Forget memories that the person wants forgotten, or that are wrong. Look them up with search_memory first and "
        "name every one that tells of it."
    )
    args_schema: ArgsSchema | None = _Forget

    def _run(self, memory_ids: list[str], *, config: RunnableConfig) -> Said:
        return run(self._forget(memory_ids, self._scope(config)))

    async def _arun(self, memory_ids: list[str], *, config: RunnableConfig) -> Said:
        return await arun(self._forget(memory_ids, self._scope(config)))

    def _forget(self, memory_ids: list[str], scope: Scope) -> Flow[Said]:
        gone: dict[str, str] = {}
        failed: list[str] = []
        for id in memory_ids:
            try:
                forgotten: list[Fact | Turn] = yield from self._through(partial(_forget, id=id, scope=scope))
            except ToolException as error:
                failed.append(str(error))
            else:
                gone.update((item.id, item.text) for item in forgotten if isinstance(item, Fact) or item.role != "tool")
        if failed and not gone:
            raise ToolException(" ".join(failed))
        return " ".join([f"Forgotten: {len(gone)} memories.", *failed]), list(gone)


def _forget(door: Any, *, id: str, scope: Scope) -> Any:
    return door.forget(id, scope=scope)


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
