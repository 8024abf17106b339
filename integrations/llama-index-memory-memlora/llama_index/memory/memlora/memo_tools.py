"""A Memory model in the hands of an agent."""

from __future__ import annotations

from typing import Any

from llama_index.core.settings import Settings
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.tools.tool_spec.base import SPEC_FUNCTION_TYPE, BaseToolSpec

from memlora_plugins import InvalidInputError, MemloraError, SettingsError
from memlora_plugins.flows.effects import Call, Flow
from memlora_plugins.memo.answers import AnswersQuestions
from memlora_plugins.memo.protocol import Protocol
from memlora_plugins.plugs import memo
from memlora_plugins.plugs.doors import arun, run
from memlora_plugins.plugs.memo import AskArguments, ResearchArguments

from .memo_events import aconclude, conclude, report_answers
from .tools import described, read


class MeMoToolSpec(BaseToolSpec):
    """`ask_memory_model` and, with a protocol, `research_with_memory_model`, for `FunctionAgent` and its like.

    With the first, the agent takes its question apart by itself and asks several short questions at once. With the
    second, it hands over a whole question, which the protocol's Executive takes apart.

    Args:
        memory_model: see `memlora_plugins.memo.answers.AnswersQuestions`.
        protocol: see `memlora_plugins.memo.protocol.Protocol`.

    Raises (by a tool; an agent tells its model):
        InvalidInputError: arguments that cannot be used. MemloraError: it cannot be asked now; the message is for a
        model to read and names no server, which its `__cause__` and the log do. Whatever an Executive's LLM raises.
    """

    def __init__(self, *, memory_model: AnswersQuestions, protocol: Protocol | None = None) -> None:
        self.memory_model = memory_model
        self.protocol = protocol
        self.spec_functions = [("ask_memory_model", "aask_memory_model")]
        if protocol is not None:
            self.spec_functions.append(("research_with_memory_model", "aresearch_with_memory_model"))

    def to_tool_list(
        self,
        spec_functions: list[SPEC_FUNCTION_TYPE] | None = None,
        func_to_metadata_mapping: dict[str, ToolMetadata] | None = None,
    ) -> list[FunctionTool]:
        """The tools, each with its sync and its async function."""
        return super().to_tool_list(spec_functions, described(func_to_metadata_mapping, _METADATA))

    def ask_memory_model(self, **asked: Any) -> str:
        """Ask short questions (`questions`), all at once."""
        return run(_told(self._ask(asked)))

    async def aask_memory_model(self, **asked: Any) -> str:
        """As `ask_memory_model`."""
        return await arun(_told(self._ask(asked)))

    def research_with_memory_model(self, **asked: Any) -> str:
        """Have a whole `question` answered."""
        return run(_told(self._research(asked)))

    async def aresearch_with_memory_model(self, **asked: Any) -> str:
        """As `research_with_memory_model`."""
        return await arun(_told(self._research(asked)))

    def _ask(self, asked: dict[str, Any]) -> Flow[str]:
        done = yield from memo.ask(self.memory_model, read(AskArguments, asked))
        report_answers(done.result, self.memory_model, Settings.callback_manager)
        return done.told

    def _research(self, asked: dict[str, Any]) -> Flow[str]:
        question, protocol = read(ResearchArguments, asked).question, self.protocol
        callbacks = Settings.callback_manager
        if protocol is None:
            raise SettingsError("There is no protocol to research with; make MeMoToolSpec with protocol=….")
        result = yield from Call(
            lambda: conclude(protocol, question, callbacks), lambda: aconclude(protocol, question, callbacks)
        )
        return memo.concluded(result)


def _told(work: Flow[str]) -> Flow[str]:
    """
    Raises:
        MemloraError: it could not be done, in words for a model.
    """
    try:
        return (yield from work)
    except (InvalidInputError, *memo.NOT_THE_MODELS):
        raise
    except MemloraError as error:
        raise MemloraError(memo.problem(error)) from error


_METADATA = {
    name: ToolMetadata(name=tool, description=description, fn_schema=schema)
    for name, tool, description, schema in (
        ("ask_memory_model", memo.MEMO_TOOL_NAME, memo.MEMO_TOOL_DESCRIPTION, AskArguments),
        ("research_with_memory_model", memo.PROTOCOL_TOOL_NAME, memo.PROTOCOL_TOOL_DESCRIPTION, ResearchArguments),
    )
}
