"""Questions about what is remembered, answered by the generation expert."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, aclosing, closing
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base import EventContext
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.prompts.prompt_type import PromptType
from llama_index.core.schema import NodeWithScore, QueryBundle

from memlora_plugins import Answer, InvalidInputError, Memory, Scope, Stage, Token

from .events import dispatcher, model_of, report_usage
from .retriever import MemLoRARetriever, as_nodes, words

_PLACES = {"context_str": "{memories}", "query_str": "{question}"}


class MemLoRAQueryEngine(BaseQueryEngine):
    """Recalls what bears on a question and lets the generation expert answer from it.

    `source_nodes` are the memories that the answer was made from, as `MemLoRARetriever` gives them; `metadata` has what
    the expert took (`model`, `input_tokens`, `output_tokens`) and whether the answer was cut off (`truncated`).

    The prompt is `get_prompts()["text_qa_template"]`; `update_prompts` takes one with `{context_str}` and
    `{query_str}`. That is for base models: a trained adapter knows its own prompt only.

    Args:
        memory: the open memory; it stays the caller's to close.
        user_id: whose memory is asked.
        agent_id: asks the memory of this agent only.
        token_budget: estimated tokens of the memories that are shown; None: `Settings.answer_budget`.
        streaming: True answers with a `StreamingResponse` (`aquery`: an `AsyncStreamingResponse`).
        text_qa_template: as `update_prompts`.
        callback_manager: is told of queries, and of the expert as of an LLM.

    Raises:
        ScopeError: a blank id. InvalidInputError: a template without a place for memories or question; by a query: one
            without words. BackendError, ReplyError (by a query): the model of the experts failed.
    """

    def __init__(
        self,
        *,
        memory: Memory,
        user_id: str,
        agent_id: str | None = None,
        token_budget: int | None = None,
        streaming: bool = False,
        text_qa_template: BasePromptTemplate | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        self.memory = memory
        self.scope = Scope(user_id, agent_id)
        self.token_budget = token_budget
        self.streaming = streaming
        self._template: BasePromptTemplate | None = None
        if text_qa_template is not None:
            self._update_prompts({"text_qa_template": text_qa_template})

    def _get_prompts(self) -> dict[str, Any]:
        if self._template is not None:
            return {"text_qa_template": self._template}
        prompt = self.memory.answer_prompt
        for theirs, ours in _PLACES.items():
            prompt = prompt.replace(ours, f"{{{theirs}}}")
        return {"text_qa_template": PromptTemplate(prompt, prompt_type=PromptType.QUESTION_ANSWER)}

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        template = prompts.get("text_qa_template")
        if template is not None:
            prompt = template.format(None, **_PLACES)
            for theirs, ours in _PLACES.items():
                if ours not in prompt:
                    raise InvalidInputError(f"The template has no {{{theirs}}}; say where it goes.")
            self._template = template

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """What a search finds for a query: more than an answer is made from, which is what fits the token budget, or
        with nano the nearest facts.
        """
        return MemLoRARetriever(
            memory=self.memory,
            user_id=self.scope.user_id,
            agent_id=self.scope.agent_id,
            callback_manager=self.callback_manager,
        ).retrieve(query_bundle)

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        with self._told_as_query(query_bundle) as event:
            response = self._respond(query_bundle)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        with self._told_as_query(query_bundle) as event:
            response = await self._arespond(query_bundle)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _told_as_query(self, query_bundle: QueryBundle) -> AbstractContextManager[EventContext]:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        return self.callback_manager.event(CBEventType.QUERY, payload=payload)

    def _respond(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        if not self.streaming:
            return self._response(self._ask(words(query_bundle)))
        events = self.memory.stream(words(query_bundle), **self._asked)
        hits = next(stage.detail["hits"] for stage in events if isinstance(stage, Stage) and "hits" in stage.detail)
        metadata = self._named()

        def tokens() -> Generator[str, None, None]:
            with closing(events):
                for event in events:
                    if isinstance(event, Token):
                        yield event.text
                    elif isinstance(event, Answer):
                        metadata.update(self._told(event))

        return StreamingResponse(tokens(), source_nodes=as_nodes(hits), metadata=metadata)

    async def _arespond(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        if not self.streaming:
            return self._response(await self._aask(words(query_bundle)))
        events = self.memory.aio.stream(words(query_bundle), **self._asked)
        hits = await anext(
            stage.detail["hits"] async for stage in events if isinstance(stage, Stage) and "hits" in stage.detail
        )
        metadata = self._named()

        async def tokens() -> AsyncGenerator[str, None]:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Token):
                        yield event.text
                    elif isinstance(event, Answer):
                        metadata.update(self._told(event))

        return AsyncStreamingResponse(tokens(), source_nodes=as_nodes(hits), metadata=metadata)

    @dispatcher.span
    def _ask(self, question: str) -> Answer:
        return self.memory.answer(question, **self._asked)

    @dispatcher.span
    async def _aask(self, question: str) -> Answer:
        return await self.memory.aio.answer(question, **self._asked)

    @property
    def _asked(self) -> dict[str, Any]:
        prompt = None if self._template is None else self._template.format(None, **_PLACES)
        return {"scope": self.scope, "token_budget": self.token_budget, "prompt": prompt}

    def _response(self, answer: Answer) -> Response:
        return Response(answer.text, source_nodes=as_nodes(answer.hits), metadata=self._told(answer))

    def _told(self, answer: Answer) -> dict[str, Any]:
        """Reports what the answer took; returns what goes along with it."""
        report_usage(answer.usage, model_of(self.memory), self.callback_manager)
        return {
            **self._named(),
            "input_tokens": answer.usage.input_tokens,
            "output_tokens": answer.usage.output_tokens,
            "truncated": answer.truncated,
        }

    def _named(self) -> dict[str, Any]:
        """What is known of an answer before it is there. Never empty: a router replaces what is."""
        return {"model": model_of(self.memory)}
