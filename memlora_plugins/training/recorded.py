"""A large model that is asked many questions, and the record of its calls: a teacher, or a Generator.

Every answer is recorded before it is used, so that none is paid for twice. A model that fails again and again is asked
no more.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ..errors import BackendError, BackendRequestError, BackendUnavailableError, DatasetError, PromptTooLongError
from ..evaluation.harness.usage import ExpertUsage
from ..serving.base import Completion, Request
from .calls import Call, CallLog, call_key
from .turns import Turns

if TYPE_CHECKING:
    from ..serving.base import Backend

FAILURES_IN_A_ROW = 8
"""So many failed calls without one that succeeds mean that the model is down."""

_WRONG_ADDRESS = (401, 403, 404)  # key, model or path: no other call can do better


class RecordedUsage(ExpertUsage):
    """A model's work as one expert. `retries` are its second attempts, after a reply that could not be read or was
    cut off."""

    retries: int = 0


class RecordedModel:
    """A model, and the record of its calls. At most `concurrency` calls are under way at once.

    `model` is what the record calls it (default: the backend's `model`, else its description), `called` what errors
    call it. `resumed` counts the calls that were needed and that an earlier run had made. `thinking_tokens` are added
    to the room of each reply. `down` is why it can no longer be asked, once it cannot. `turns` knows how busy the model
    was kept.
    """

    def __init__(
        self,
        backend: Backend,
        log: CallLog,
        *,
        model: str | None,
        concurrency: int,
        thinking_tokens: int = 0,
        called: str = "teacher",
    ) -> None:
        self._backend = backend
        self._log = log
        self._thinking_tokens = thinking_tokens
        self._called = called
        self.model = str(model or getattr(backend, "model", None) or backend.describe())
        self.turns = Turns(concurrency)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._counted: set[str] = set()
        self._failed_in_a_row = 0
        self._work: dict[str, RecordedUsage] = {}
        self.resumed = 0
        self.down: BackendError | DatasetError | None = None

    async def ask(self, request: Request, *, retry: bool = False, rank: int = 0) -> Completion:
        """The answer from the record, or the model's, recorded before it is returned. `retry`: a second attempt. Of the
        calls that wait for a turn, the lowest `rank` goes first.

        Raises:
            BackendError: the call failed. Once `down`, nothing more is asked.
            DatasetError: the record cannot be written.
        """
        request = replace(request, max_tokens=request.max_tokens + self._thinking_tokens)
        key = call_key(request, self.model)
        async with self._asking.setdefault(key, asyncio.Lock()):  # one call, however many ask the same at once
            call = self._log.get(key)
            if call is None:
                call = await self._make(request, rank)
                self._keep(key, request, call)
            elif key not in self._counted:
                self.resumed += 1
            self._count(key, request.expert, call, retry=retry)
            return call.completion

    async def _make(self, request: Request, rank: int) -> Call:
        async with self.turns.turn(rank):
            if self.down is not None:
                raise BackendUnavailableError(str(self.down))
            began = time.perf_counter()
            try:
                with self.turns.flight():
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
        so_far, spent = self._work.get(expert, RecordedUsage()), call.completion.usage
        self._work[expert] = RecordedUsage(
            calls=so_far.calls + 1,
            retries=so_far.retries + retry,
            input_tokens=so_far.input_tokens + spent.input_tokens,
            output_tokens=so_far.output_tokens + spent.output_tokens,
            seconds=so_far.seconds + call.seconds,
        )

    def work(self) -> dict[str, RecordedUsage]:
        """Every call that was needed, by expert; those of earlier runs count too."""
        return {expert: self._work[expert] for expert in sorted(self._work)}

    def check(self) -> None:
        """Say so once it is `down`.

        Raises:
            BackendUnavailableError, BackendRequestError: why it cannot be asked, and what to do.
            DatasetError: the record cannot be written.
        """
        if self.down is None:
            return
        if isinstance(self.down, DatasetError):
            raise self.down
        told = (
            f"The {self._called} cannot be asked any more. {self.down} {len(self._log)} finished calls are kept in "
            f"{self._log.path}: run the same again, and only the missing ones are made."
        )
        if isinstance(self.down, BackendRequestError):
            raise BackendRequestError(told, status=self.down.status) from self.down
        raise BackendUnavailableError(told) from self.down
