"""Whose memory is meant: read from what the application says, never from what a model says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, set_config_context
from langgraph.runtime import get_runtime

from memlora_plugins import Scope, ScopeError


@dataclass(frozen=True, slots=True)
class Owner:
    """What a class of this package was told about the scope when it was made. A `user_id` that is set here holds for
    every call; None leaves it to the call.
    """

    user_id: str | None = None
    agent_id: str | None = None

    def scope(self, config: RunnableConfig | None = None) -> Scope:
        """The scope of a call: the user that was set, or else `context.user_id` of the LangGraph run, or else
        `config["configurable"]["user_id"]`. The session is `thread_id` (or `session_id`) of `configurable`.

        Raises:
            ScopeError: nobody is named, or by something else than a non-blank string.
        """
        configurable: Mapping[str, Any] = ensure_config(config).get("configurable") or {}
        user_id = self.user_id if self.user_id is not None else _of_context("user_id", config)
        if user_id is None:
            user_id = configurable.get("user_id")
        if user_id is None:
            raise ScopeError(
                "Whose memory is meant? Run the agent with context=… that has a user_id, or with "
                'config={"configurable": {"user_id": …}}.'
            )
        session = configurable.get("thread_id") or configurable.get("session_id")
        return Scope(user_id, self.agent_id, str(session) if session else None)


def _of_context(name: str, config: RunnableConfig | None) -> Any:
    """A field of the context that the LangGraph run of `config`, or the current one, was started with."""
    runtime: Any
    try:
        if config is None:
            runtime = get_runtime()
        else:
            with set_config_context(ensure_config(config)) as of_call:
                runtime = of_call.run(lambda: get_runtime())
    except (RuntimeError, KeyError):  # called outside of any runnable, or of a graph
        return None
    context = getattr(runtime, "context", None)
    return context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
