"""MeMo for agents: a Memory model to ask, and the whole protocol as one tool.

Both tools are used by any number of runs at once. What a model passes besides the arguments changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from langchain_core.tools import BaseTool, ToolException
from langchain_core.tools.base import ArgsSchema

from memlora_plugins import BackendError, MemloraError, Usage
from memlora_plugins.flows.effects import Call, Flow
from memlora_plugins.memo.answers import AnswersQuestions, MemoryAnswer, aask_model, ask_model
from memlora_plugins.memo.executive import Executive
from memlora_plugins.memo.protocol import Interaction, Protocol, ProtocolResult
from memlora_plugins.plugs import memo
from memlora_plugins.plugs.doors import arun, run
from memlora_plugins.plugs.memo import AskArguments, Part, ResearchArguments
from memlora_plugins.plugs.tools import Done
from memlora_plugins.serving.base import ChatMessage
from memlora_plugins.types import Stage

from .executive import ChatModelExecutive
from .steps import Outcome, as_model_runs, model_reply, traced

_MEMORY_MODEL = "memo_memory_model"
_EXECUTIVE = "memo_executive"


class _Tool(BaseTool):
    """Tells the model what went wrong, without what a server said."""

    response_format: Any = "content_and_artifact"
    handle_tool_error: Any = True
    handle_validation_error: Any = memo.refused


class MeMoTool(_Tool):
    """Asks a Memory model, up to 16 questions in a call, all at once and each by itself. The artifact lists the answers
    in the order of the questions, as `memlora_plugins.plugs.memo.answer_row` has them, ready for JSON.

    Args:
        memory_model: a `MemoryModel`, or anything that answers questions (see `AnswersQuestions`).
        description: what the agent's model reads. By default it says how to take a question apart; add what the Memory
            model knows: `description=f"{MEMO_TOOL_DESCRIPTION} It knows …"` (of `memlora_plugins.plugs.memo`).

    What cannot be asked is told to the model (`ToolMessage.status` is `"error"`): a blank question, too many of them, a
    Memory model that is out of reach.
    """

    memory_model: AnswersQuestions
    name: str = memo.MEMO_TOOL_NAME
    description: str = memo.MEMO_TOOL_DESCRIPTION
    args_schema: ArgsSchema | None = AskArguments

    def _run(self, questions: list[str]) -> Done:
        return run(self._ask(AskArguments(questions=questions)))

    async def _arun(self, questions: list[str]) -> Done:
        return await arun(self._ask(AskArguments(questions=questions)))

    def _ask(self, asked: AskArguments) -> Flow[Done]:
        told, answers = yield from _told(memo.ask(_TracedMemory(self.memory_model), asked))
        # No `MemoryAnswer`s: a checkpointer would give them back as dictionaries.
        return Done(told, [memo.answer_row(answer) for answer in answers])


class MeMoProtocolTool(_Tool):
    """Answers a question by the whole protocol. The artifact is its trace, ready for JSON (see
    `memlora_plugins.plugs.memo.trace`).

    Each stage is a child of the tool's run: `memo_grounding`, `memo_entity`, `memo_answer`, `memo_synthesis`. In it are
    the runs of the Executive's model, and a run of `memo_memory_model` for each question.

    Args:
        protocol: with the Executive of your choice; a LangChain chat model becomes one by `ChatModelExecutive`.
        description: as of `MeMoTool`; the default is `memlora_plugins.plugs.memo.PROTOCOL_TOOL_DESCRIPTION`.

    Raises (by a call):
        Whatever the chat model of a `ChatModelExecutive` raises. Errors of this library are told to the model.
    """

    protocol: Protocol
    name: str = memo.PROTOCOL_TOOL_NAME
    description: str = memo.PROTOCOL_TOOL_DESCRIPTION
    args_schema: ArgsSchema | None = ResearchArguments

    def _run(self, question: str) -> Done:
        return run(_told(self._research(question)))

    async def _arun(self, question: str) -> Done:
        return await arun(_told(self._research(question)))

    def _research(self, question: str) -> Flow[Done]:
        def around(stage: Stage, part: Part) -> Flow[Any]:
            return traced(f"memo_{stage.name}", {"question": question, **stage.detail}, lambda: _shown(part))

        result: ProtocolResult = yield from memo.in_stages(_in_the_open(self.protocol).flow(question), around)
        return Done(memo.concluded(result), memo.trace(result))


def _told(work: Flow[Done]) -> Flow[Done]:
    """
    Raises:
        ToolException: it could not be done; the model is told.
    """
    try:
        return (yield from work)
    except memo.NOT_THE_MODELS:
        raise
    except MemloraError as error:
        raise ToolException(memo.problem(error)) from error


def _shown(part: Part) -> Flow[dict[str, Any]]:
    """What a stage's run puts out."""
    happened = yield from part()
    return {"interactions": [memo.interaction_row(one) for one in happened if isinstance(one, Interaction)]}


def _in_the_open(protocol: Protocol) -> Protocol:
    """The same protocol, whose questions to models are runs. A chat model of LangChain sees to that itself."""
    opened = copy(protocol)
    opened.memory_model = _TracedMemory(protocol.memory_model)
    if not isinstance(protocol.executive, ChatModelExecutive):
        opened.executive = _TracedExecutive(protocol.executive)
    return opened


class _TracedMemory:
    """A Memory model, with a run for each question."""

    def __init__(self, model: AnswersQuestions) -> None:
        self._model = model

    def ask(self, questions: Sequence[str], *, temperature: float | None = None) -> Sequence[MemoryAnswer]:
        return run(self._ask(questions, temperature))

    async def aask(self, questions: Sequence[str], *, temperature: float | None = None) -> Sequence[MemoryAnswer]:
        return await arun(self._ask(questions, temperature))

    def _ask(self, questions: Sequence[str], temperature: float | None) -> Flow[Sequence[MemoryAnswer]]:
        model = self._model
        work: Call[Sequence[MemoryAnswer]] = Call(
            lambda: ask_model(model, questions, temperature),
            lambda: aask_model(model, questions, temperature),
        )
        asked: list[list[BaseMessage]] = [[HumanMessage(question)] for question in questions]
        return as_model_runs(_MEMORY_MODEL, asked, work, lambda answers: [_outcome(answer) for answer in answers])


def _outcome(answer: MemoryAnswer) -> Outcome:
    if answer.error is not None:
        return BackendError(answer.error)
    return model_reply(answer.text, _MEMORY_MODEL, answer.usage)


class _TracedExecutive:
    """An Executive that is no chat model of LangChain, with a run for each reply."""

    def __init__(self, executive: Executive) -> None:
        self._executive = executive

    def complete(self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], temperature: float) -> str:
        return run(self._ask(messages, schema, temperature))

    async def acomplete(self, messages: Sequence[ChatMessage], *, schema: Mapping[str, Any], temperature: float) -> str:
        return await arun(self._ask(messages, schema, temperature))

    def _ask(self, messages: Sequence[ChatMessage], schema: Mapping[str, Any], temperature: float) -> Flow[str]:
        executive = self._executive
        work: Call[str] = Call(
            lambda: executive.complete(messages, schema=schema, temperature=temperature),
            lambda: executive.acomplete(messages, schema=schema, temperature=temperature),
        )
        asked = convert_to_messages([dict(message) for message in messages])
        return as_model_runs(_EXECUTIVE, [asked], work, lambda reply: [_said(reply)])


def _said(reply: str) -> Outcome:
    return model_reply(reply, _EXECUTIVE, getattr(reply, "usage", None) or Usage())
