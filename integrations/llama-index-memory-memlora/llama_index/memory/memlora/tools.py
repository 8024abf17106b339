"""Memory in the agent's own hands: to search, to save, to forget."""

# Without `from __future__ import annotations`: LlamaIndex looks for the parameter that is annotated `Context` itself.

from collections.abc import Mapping
from typing import Any, TypeVar

from llama_index.core.async_utils import asyncio_run
from llama_index.core.settings import Settings
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.tools.tool_spec.base import SPEC_FUNCTION_TYPE, BaseToolSpec
from llama_index.core.workflow import Context
from pydantic import BaseModel, ValidationError

from memlora_plugins import InvalidInputError, Memory, Scope, ScopeError
from memlora_plugins.flows.effects import Call, Flow
from memlora_plugins.plugs import tools
from memlora_plugins.plugs.doors import arun, run
from memlora_plugins.plugs.tools import ForgetArguments, SaveArguments, SearchArguments

from .events import report

A = TypeVar("A", bound=BaseModel)

USER_ID = "user_id"
"""Where the tools look in the store of a workflow's context: `await ctx.store.set("user_id", …)`."""


class MemLoRAToolSpec(BaseToolSpec):
    """`search_memory`, `save_memory` and `forget_memory`, for `FunctionAgent` and its like.

    Whose memory it is, the application says: `user_id` here, or else `user_id` in the store of the workflow's context.
    No tool has an argument for it, and what a model makes up besides the arguments is ignored. Outside of a workflow,
    the tools need a `user_id` here.

    Args:
        memory: the open memory; it stays the caller's to close.
        user_id: whose memory it is, whatever the context says; None (the default): the context says it.
        agent_id: keeps this agent's memory apart from that of others of the same person.
        wait: False compares what is saved with what is known in the background.

    Raises (by a tool; an agent tells its model):
        ScopeError: nobody is named. InvalidInputError: arguments that cannot be used. NotFoundError, StoreError…
    """

    spec_functions = [  # noqa: RUF012 (declared by the base class)
        ("search_memory", "asearch_memory"),
        ("save_memory", "asave_memory"),
        ("forget_memory", "aforget_memory"),
    ]

    def __init__(
        self, *, memory: Memory, user_id: str | None = None, agent_id: str | None = None, wait: bool = True
    ) -> None:
        Scope("somebody" if user_id is None else user_id, agent_id)  # says at once what cannot be used
        self.memory = memory
        self.user_id = user_id
        self.agent_id = agent_id
        self.wait = wait

    def to_tool_list(
        self,
        spec_functions: list[SPEC_FUNCTION_TYPE] | None = None,
        func_to_metadata_mapping: dict[str, ToolMetadata] | None = None,
    ) -> list[FunctionTool]:
        """The tools, each with its sync and its async function."""
        made = super().to_tool_list(spec_functions, described(func_to_metadata_mapping, _METADATA))
        if self.user_id is not None:
            for tool in made:  # so that they can be called outside of a workflow, too
                tool.requires_context, tool.ctx_param_name = False, None
        return made

    def search_memory(self, ctx: Context = None, **asked: Any) -> str:  # type: ignore[assignment]
        """Look something up (`query`, `limit`)."""
        return run(self._search(ctx, asked))

    async def asearch_memory(self, ctx: Context = None, **asked: Any) -> str:  # type: ignore[assignment]
        """As `search_memory`."""
        return await arun(self._search(ctx, asked))

    def save_memory(self, ctx: Context = None, **asked: Any) -> str:  # type: ignore[assignment]
        """Note a statement as it stands (`text`)."""
        return run(self._save(ctx, asked))

    async def asave_memory(self, ctx: Context = None, **asked: Any) -> str:  # type: ignore[assignment]
        """As `save_memory`."""
        return await arun(self._save(ctx, asked))

    def forget_memory(self, ctx: Context = None, **asked: Any) -> str:  # type: ignore[assignment]
        """Leave memories out of search (`memory_ids`)."""
        return run(self._forget(ctx, asked))

    async def aforget_memory(self, ctx: Context = None, **asked: Any) -> str:  # type: ignore[assignment]
        """As `forget_memory`."""
        return await arun(self._forget(ctx, asked))

    def _search(self, ctx: Any, asked: dict[str, Any]) -> Flow[str]:
        arguments = read(SearchArguments, asked)
        scope = yield from self._scope(ctx)
        return (yield from tools.search(self.memory, scope, arguments)).told

    def _save(self, ctx: Any, asked: dict[str, Any]) -> Flow[str]:
        arguments = read(SaveArguments, asked)
        scope = yield from self._scope(ctx)
        done = yield from tools.save(self.memory, scope, arguments, wait=self.wait)
        report(done.result, self.memory, Settings.callback_manager)
        return done.told

    def _forget(self, ctx: Any, asked: dict[str, Any]) -> Flow[str]:
        arguments = read(ForgetArguments, asked)
        scope = yield from self._scope(ctx)
        return (yield from tools.forget(self.memory, scope, arguments)).told

    def _scope(self, ctx: Any) -> Flow[Scope]:
        user_id = self.user_id
        if user_id is None and isinstance(ctx, Context):  # what a model passes as `ctx` is no Context
            user_id = yield from Call(
                lambda: asyncio_run(ctx.store.get(USER_ID, default=None)), lambda: ctx.store.get(USER_ID, default=None)
            )
        if user_id is None:
            raise ScopeError(
                "Whose memory is meant? Make MemLoRAToolSpec with user_id=…, or run the agent with a context: "
                'await ctx.store.set("user_id", …).'
            )
        return Scope(user_id, self.agent_id)


def described(given: dict[str, ToolMetadata] | None, ours: Mapping[str, ToolMetadata]) -> dict[str, ToolMetadata]:
    """What tools are called and take, by function: as `given`, and where it says nothing of a function and its
    asynchronous twin, as `ours`.
    """
    metadata = dict(given or {})
    for name, one in ours.items():
        if metadata.keys().isdisjoint((name, f"a{name}")):
            metadata[name] = metadata[f"a{name}"] = one
    return metadata


def read(kind: type[A], asked: dict[str, Any]) -> A:
    """What a model passed, as arguments.

    Raises:
        InvalidInputError: what the model passed cannot be used.
    """
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
        raise InvalidInputError(f"These arguments cannot be used. {problems}.") from None


_METADATA = {
    name: ToolMetadata(name=name, description=description, fn_schema=schema)
    for name, description, schema in (
        ("search_memory", tools.SEARCH, SearchArguments),
        ("save_memory", tools.SAVE, SaveArguments),
        ("forget_memory", tools.FORGET, ForgetArguments),
    )
}
