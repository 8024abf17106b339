"""Questions about what a Memory model learned, answered by an Executive in several steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import RESPONSE_TYPE, Response
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base import EventContext
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.schema import QueryBundle

from memlora_plugins import InvalidInputError
from memlora_plugins.memo.prompts import PLACES, Prompts
from memlora_plugins.memo.protocol import Protocol, ProtocolResult
from memlora_plugins.plugs.memo import trace

from .memo_events import aconclude, conclude
from .memo_retriever import answer_nodes
from .retriever import words

_STAGES = tuple(field.name for field in fields(Prompts))
_PLACES = {name: f"{{{name}}}" for names in PLACES.values() for name in names}


class MeMoQueryEngine(BaseQueryEngine):
    """Takes a question apart, asks the Memory model, finds out what the question turns on, asks for what is missing,
    and answers from what it was told.

    `source_nodes` are the answers of the Memory model that it knew, as `MeMoRetriever` gives them. `metadata` is the
    trace, ready for JSON: `answer`, `justification`, `entity`, `confirmed`, `usage`, and `interactions` with each
    reply of the Executive and each answer, known or not. As it happens, a `MeMoStageEvent` tells each stage, a
    `MeMoInteractionEvent` each interaction, and a `MemoryWarningEvent` questions that could not be asked.

    The prompts of the stages are `get_prompts()`, by the keys `grounding`, `entity`, `answer`, `synthesis`, and
    `unstructured` (the one prompt of the protocol's method of that name). `update_prompts` takes others for this
    engine; the protocol keeps its own. In braces can stand what `memlora_plugins.memo.prompts.PLACES` names.

    Args:
        protocol: the Executive, the Memory model, and how much they may talk. With `LLMExecutive`, the Executive is
            an LLM of LlamaIndex.
        prompts: as `update_prompts`.
        callback_manager: is told of queries, and of the Memory model as of an LLM. The Executive's LLM has its own.

    Raises:
        InvalidInputError: prompts without a place that they need, or of no stage; by a query: one without words.
        Whatever the Executive raises (by a query): that it cannot be reached, say. Where the Memory model cannot be
        reached, the answer is that it does not tell.
    """

    def __init__(
        self,
        *,
        protocol: Protocol,
        prompts: Mapping[str, BasePromptTemplate] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        self.protocol = protocol
        self._templates: dict[str, BasePromptTemplate] = {}
        if prompts is not None:
            self._update_prompts(dict(prompts))

    def _get_prompts(self) -> dict[str, Any]:
        return {
            stage: self._templates.get(stage) or PromptTemplate(getattr(self.protocol.prompts, stage))
            for stage in _STAGES
        }

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        unknown = [name for name in prompts if name not in _STAGES]
        if unknown:
            raise InvalidInputError(f"There is no prompt {unknown[0]!r}; there are {', '.join(_STAGES)}.")
        plain = {stage: template.format(None, **_PLACES) for stage, template in prompts.items()}
        changed = copy.copy(self.protocol)  # the caller's may serve others, and a query that is running
        changed.prompts = replace(changed.prompts, **plain)
        self.protocol = changed
        self._templates.update(prompts)

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        with self._told_as_query(query_bundle) as event:
            response = _response(conclude(self.protocol, words(query_bundle), self.callback_manager))
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        with self._told_as_query(query_bundle) as event:
            response = _response(await aconclude(self.protocol, words(query_bundle), self.callback_manager))
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _told_as_query(self, query_bundle: QueryBundle) -> AbstractContextManager[EventContext]:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        return self.callback_manager.event(CBEventType.QUERY, payload=payload)


def _response(result: ProtocolResult) -> Response:
    answers = [answer for interaction in result.interactions for answer in interaction.answers]
    return Response(result.answer, source_nodes=answer_nodes(answers), metadata=trace(result))
