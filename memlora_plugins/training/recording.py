"""The backend that a conversation is remembered with while a teacher is listened to.

The memory's own flows ask it, so the questions are those that will be served. Each is answered by the record of
calls, else by the teacher, and what it teaches is noted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ..errors import (
    BackendError,
    BackendRequestError,
    BackendTimeoutError,
    BackendUnavailableError,
    DatasetError,
    PromptTooLongError,
)
from ..evaluation.usage import ExpertUsage
from ..experts import extraction, update
from ..serving.base import ChatMessage, Completion, Expert, PromptStyle, Request
from ..types import Usage
from .calls import Call, CallLog, call_key
from .cleaning import Dropped, Target, all_added, cleaned, short_prompt

if TYPE_CHECKING:
    from ..serving.base import Backend

FAILURES_IN_A_ROW = 8
"""So many failed calls without one that succeeds mean that the teacher is down."""

_WRONG_ADDRESS = (401, 403, 404)  # key, model or path: no other call can do better
_FIRST_ROOM = {"extraction": extraction.MAX_TOKENS, "update": update.MAX_TOKENS}


class TeacherUsage(ExpertUsage):
    """The teacher's work as one expert. `retries` are its second attempts, after a reply that could not be read or was
    cut off."""

    retries: int = 0


class Teacher:
    """A teacher, and the record of its calls. At most `concurrency` calls are under way at once.

    `model` is what the record calls it (default: the backend's `model`, else its description). `resumed` counts the
    calls that were needed and that an earlier run had made. `thinking_tokens` are added to the room of each reply.
    `down` is why it can no longer be asked, once it cannot.
    """

    def __init__(
        self, backend: Backend, log: CallLog, *, model: str | None, concurrency: int, thinking_tokens: int = 0
    ) -> None:
        self._backend = backend
        self._log = log
        self._thinking_tokens = thinking_tokens
        self.model = str(model or getattr(backend, "model", None) or backend.describe())
        self._gate = asyncio.Semaphore(concurrency)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._counted: set[str] = set()
        self._failed_in_a_row = 0
        self._work: dict[str, TeacherUsage] = {}
        self.resumed = 0
        self.down: BackendError | DatasetError | None = None

    async def ask(self, request: Request) -> Completion:
        """The answer from the record, or the teacher's, recorded before it is returned.

        Raises:
            BackendError: the call failed. Once `down`, nothing more is asked.
            DatasetError: the record cannot be written.
        """
        retry = _is_retry(request)
        request = replace(request, max_tokens=request.max_tokens + self._thinking_tokens)
        key = call_key(request, self.model)
        async with self._asking.setdefault(key, asyncio.Lock()):  # one call, however many ask the same at once
            call = self._log.get(key)
            if call is None:
                call = await self._make(request)
                self._keep(key, request, call)
            elif key not in self._counted:
                self.resumed += 1
            self._count(key, request.expert, call, retry=retry)
            return call.completion

    async def _make(self, request: Request) -> Call:
        async with self._gate:
            if self.down is not None:
                raise BackendUnavailableError(str(self.down))
            began = time.perf_counter()
            try:
                said = await self._backend.acomplete(request)
            except PromptTooLongError:  # it is there, and shorter ones may follow
                self._failed_in_a_row = 0
                raise
            except BackendError as error:
                self._failed_in_a_row += 1
                wrong = isinstance(error, BackendRequestError) and error.status in _WRONG_ADDRESS
                if wrong or self._failed_in_a_row >= FAILURES_IN_A_ROW:
                    self.down = self.down or error
                raise
            self._failed_in_a_row = 0
            return Call(said, time.perf_counter() - began)

    def _keep(self, key: str, request: Request, call: Call) -> None:
        try:
            self._log.add(key, request, call)
        except DatasetError as error:
            self.down = error  # calls that cannot be kept are not to be paid for
            raise

    def _count(self, key: str, expert: str, call: Call, *, retry: bool) -> None:
        if key in self._counted:
            return
        self._counted.add(key)
        so_far, spent = self._work.get(expert, TeacherUsage()), call.completion.usage
        self._work[expert] = TeacherUsage(
            calls=so_far.calls + 1,
            retries=so_far.retries + retry,
            input_tokens=so_far.input_tokens + spent.input_tokens,
            output_tokens=so_far.output_tokens + spent.output_tokens,
            seconds=so_far.seconds + call.seconds,
        )

    def work(self) -> dict[str, TeacherUsage]:
        """Every call that was needed, by expert; those of earlier runs count too."""
        return {expert: self._work[expert] for expert in sorted(self._work)}


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
        teacher: Teacher | None,
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
            said = await self._teacher.ask(request)
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
