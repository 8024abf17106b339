"""The backend that a conversation is remembered with while a teacher is listened to.

The memory's own flows ask it, so the questions are those that will be served. Each is answered by the record of
calls, else by the teacher, and what it teaches is noted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import (
    BackendError,
    BackendRequestError,
    BackendTimeoutError,
    BackendUnavailableError,
    PromptTooLongError,
)
from ..experts import extraction, update
from ..serving.base import ChatMessage, Completion, Expert, PromptStyle, Request
from ..types import Usage
from .cleaning import Dropped, Target, all_added, cleaned, short_prompt
from .recorded import RecordedModel

_FIRST_ROOM = {"extraction": extraction.MAX_TOKENS, "update": update.MAX_TOKENS}


@dataclass(slots=True)
class Asked:
    """A question to an expert, as the trained one will be asked it, and what came of it."""

    expert: Expert
    messages: Sequence[ChatMessage]
    lesson: Target | Dropped


class Recorder:
    """The `Backend` of one conversation's memory; asynchronous only. Closing it leaves the teacher open.

    `teacher` None means that nobody is asked: then extraction must be told by `tell`. `update` False adds every new
    fact without asking. `asked` are the questions to learn from, in the order they were first asked. The generation
    expert is never asked: what `AsyncMemory.answer` recalled is wanted, not an answer.
    """

    def __init__(
        self,
        teacher: RecordedModel | None,
        *,
        style: PromptStyle,
        update: bool,
        on_extraction: Callable[[], None] = lambda: None,
    ) -> None:
        self._teacher = teacher
        self._style = style
        self._update = update and teacher is not None
        self._on_extraction = on_extraction
        self._asked: dict[tuple[str, str], Asked] = {}
        self._told: Target | Dropped | None = None
        self._facts: Sequence[str] = ()
        self.repeated: Counter[Expert] = Counter()
        """Questions that were asked before in the same words."""

    @property
    def asked(self) -> list[Asked]:
        return list(self._asked.values())

    def tell(self, facts: Sequence[str], *, dropped: str | None = None) -> None:
        """What the next extraction finds, in place of a teacher; with `dropped`, nothing is to be learned from it."""
        self._facts = facts
        self._told = Dropped(dropped) if dropped else Target(extraction.target(facts), empty=not facts)

    def prompt_style(self, expert: Expert) -> PromptStyle:
        return self._style

    async def acomplete(self, request: Request) -> Completion:
        if request.expert == "extraction" and self._told is not None:
            reply, self._facts = extraction.target(self._facts), ()  # the rest of a long message tells nothing more
            self._question("extraction", request).lesson = self._told
            return Completion(reply, usage=Usage())
        if request.expert == "extraction":
            return await self._ask("extraction", request)
        if request.expert == "update" and self._update:
            return await self._ask("update", request)
        reply = all_added(str(request.messages[-1]["content"])) if request.expert == "update" else "-"
        return Completion(reply, usage=Usage())

    async def _ask(self, expert: Expert, request: Request) -> Completion:
        if self._teacher is None:
            raise TypeError("without a teacher, the facts of a message must be told")
        question = self._question(expert, request)
        try:
            said = await self._teacher.ask(request, retry=_is_retry(request))
        except BackendError as error:
            no_room_for_more = isinstance(error, PromptTooLongError) and _is_retry(request)
            if not no_room_for_more:  # else the first reply is all there is
                question.lesson = Dropped(_why(error))
            if self._teacher.down is None and isinstance(error, BackendUnavailableError):
                # The flow would leave the rest of the session undone; the next call may well succeed.
                raise BackendRequestError(str(error)) from error
            raise
        question.lesson = cleaned(expert, request.messages, said)
        return said

    def _question(self, expert: Expert, request: Request) -> Asked:
        messages = short_prompt(expert, request.messages)
        key = expert, str(messages[-1]["content"])
        if key in self._asked:
            self.repeated[expert] += not _is_retry(request)
        else:
            self._asked[key] = Asked(expert, messages, Dropped("not answered"))
            if expert == "extraction":
                self._on_extraction()
        return self._asked[key]

    # What a memory needs of a backend, and is not used here ---------------------------------------------------------

    def complete(self, request: Request) -> Completion:
        raise TypeError("a recorder is asynchronous")

    def stream(self, request: Request) -> Iterator[str | Completion]:
        raise TypeError("a recorder is asynchronous")

    async def astream(self, request: Request) -> AsyncIterator[str | Completion]:
        yield await self.acomplete(request)

    def describe(self) -> str:
        return "a recorder of what a teacher says"

    def close(self) -> None:
        """The teacher stays open."""

    async def aclose(self) -> None:
        """The teacher stays open."""


def _is_retry(request: Request) -> bool:
    return request.temperature > 0 or request.max_tokens > _FIRST_ROOM.get(request.expert, request.max_tokens)


def _why(error: BackendError) -> str:
    """The reason for a question without an answer, in a few words that can be counted."""
    if isinstance(error, BackendTimeoutError):
        return "timed out"
    if isinstance(error, PromptTooLongError):
        return "prompt too long"
    if isinstance(error, BackendRequestError):
        return "no chat completion" if error.status == 200 else "refused"
    return "unavailable"
