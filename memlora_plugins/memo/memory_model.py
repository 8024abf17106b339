"""A Memory model: what was learned from a corpus, asked question by question.

Each question is a request of its own (`answers.question_messages`), all of them at once, and nothing of the corpus is
in it: what an answer costs depends on the question alone (Section 4.4 of the MeMo paper).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, cast

from ..errors import (
    BackendError,
    BackendRequestError,
    ClosedError,
    InvalidInputError,
    PromptTooLongError,
    SettingsError,
)
from ..experts.reply import after_thinking
from ..flows.effects import IO, Complete, Flow, Together, adrive, drive
from ..serving.base import Backend, Completion, Request
from ..types import Usage
from .answers import UNSURE, MemoryAnswer, confidence, question_messages, says_something
from .card import TrainedDocument, read_card
from .models import NAME, base_of, check_is_memory_model, is_lora

if TYPE_CHECKING:
    from pydantic import SecretStr


class MemoryModel:
    """A Memory model behind `backend`, which is asked for `model`.

    Args:
        backend: a `Backend`, which stays open when this is closed; or the address of an OpenAI-compatible server.
        model: the adapter that the Memory model is in `backend` (`VLLMBackend(…, {"memory": folder})`), or the name of
            the backend's own model where that is the Memory model. With an address, the name that it is served under.
        abstain_below: it says "I don't know." where its confidence (0 to 1, `answers.confidence`) is less than that,
            which is 0 for a reply that is empty or cut off. `calibration.calibrate` finds the value. None: it never
            abstains.
        documents: those that it was trained on.
        max_tokens: longest answer, in tokens.
        concurrency: questions under way at once.
        api_key, read_timeout: for an address; the latter in seconds.

    `open` reads all that from the model's folder. Safe to use from many threads and tasks; a context manager, sync and
    async.

    Raises:
        SettingsError: `backend` is known to hold no Memory model of that name, or an argument makes no sense.
    """

    def __init__(
        self,
        backend: Backend | str,
        model: str = NAME,
        *,
        abstain_below: float | None = None,
        documents: Iterable[TrainedDocument] = (),
        max_tokens: int = 256,
        concurrency: int = 64,
        api_key: str | SecretStr | None = None,
        read_timeout: float = 120.0,
    ) -> None:
        if not isinstance(model, str) or not model.strip():
            raise SettingsError("The Memory model's name is blank; pass the adapter's or the served model's name.")
        if min(max_tokens, concurrency) < 1:
            raise SettingsError("max_tokens and concurrency must be at least 1.")
        if abstain_below is not None and not (isfinite(abstain_below) and abstain_below >= 0):
            raise SettingsError(f"abstain_below must be a confidence, 0 to 1, or None; got {abstain_below!r}.")
        self._owned: Backend | None = None
        if isinstance(backend, str):
            from ..serving.openai_compatible import OpenAIBackend

            backend = self._owned = OpenAIBackend(backend, model, api_key=api_key, read_timeout=read_timeout)
        else:
            check_is_memory_model(backend, model)
        self.backend: Backend = backend
        self.model = model
        self.abstain_below = abstain_below
        self._documents = tuple(documents)
        self._max_tokens = max_tokens
        self._concurrency = concurrency
        self._closed = False

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        base: str | Path | None = None,
        base_url: str | None = None,
        model: str | None = None,
        api_key: str | SecretStr | None = None,
        abstain_below: float | Literal["card"] | None = "card",
        max_tokens: int = 256,
        concurrency: int = 64,
        device: str = "auto",
        dtype: str = "auto",
        read_timeout: float = 120.0,
    ) -> Self:
        """The Memory model in `folder`, with the documents and the threshold that its card names.

        It runs in process on `device` in `dtype` (see `LocalBackend`), or on the vLLM server at `base_url`. There a
        LoRA adapter goes by a name with the hash of its files, under which `memlora memo serve` has it; another server
        loads it from `folder`, which it must see. A full model goes by the name `"memory"`. `model` is another name
        that the server has it under. `base` is the base model of a LoRA adapter in process, where it cannot be found
        by the name that the adapter notes.

        Raises:
            SettingsError: the folder holds no Memory model, or its base model is not found.
            AdapterInvalidError: its adapter cannot be used.
            MissingDependencyError: a package for running it in process is missing.
        """
        card = read_card(folder)
        place = Path(folder).expanduser()
        lora = is_lora(place)
        backend: Backend
        if base_url is not None:
            from ..serving.vllm import VLLMBackend

            adapters: dict[str, str | Path] = {NAME: model or place} if lora else {}
            own = str(base or "of the adapter") if lora else model or NAME
            backend = VLLMBackend(base_url, own, adapters, api_key=api_key, read_timeout=read_timeout)
            name = NAME if lora else own
        elif lora:
            from ..serving.local import LocalBackend

            backend = LocalBackend(base_of(place, base), {NAME: place}, device=device, dtype=dtype)
            name = NAME
        else:
            from ..serving.local import LocalBackend

            backend = LocalBackend(place, device=device, dtype=dtype)
            name = backend.model
        opened = cls(
            backend,
            name,
            abstain_below=card.abstain_below if abstain_below == "card" else abstain_below,
            documents=card.documents,
            max_tokens=max_tokens,
            concurrency=concurrency,
        )
        opened._owned = backend
        return opened

    def __repr__(self) -> str:
        return f"<MemoryModel: {self.describe()}>"

    @property
    def documents(self) -> tuple[TrainedDocument, ...]:
        """What it was trained on. Weights cannot be erased: whoever wants a document forgotten looks here."""
        return self._documents

    def describe(self) -> str:
        """One line for people. No secrets."""
        abstains = "never abstains" if self.abstain_below is None else f"abstains below {self.abstain_below:.3g}"
        return f"{self.model}, trained on {len(self._documents)} document(s), {abstains}; {self.backend.describe()}"

    def ask(self, questions: Sequence[str], *, temperature: float = 0.0) -> list[MemoryAnswer]:
        """An answer to each question, in their order. Each is asked by itself, equal ones once, all at once.

        What goes wrong with one question is its answer's `error` and does not touch the others. Only when not one could
        be answered because the model cannot be asked, that is raised.

        Raises:
            InvalidInputError: no list of questions, or a blank one.
            BackendError: nothing could be asked: the server is down, does not answer in time, does not know the model…
            SettingsError: it is to abstain, and the server does not tell how sure it is.
            ClosedError
        """
        return drive(self._flow(questions, temperature), cast(IO, self))

    async def aask(self, questions: Sequence[str], *, temperature: float = 0.0) -> list[MemoryAnswer]:
        """As `ask`. Cancelling it cancels the requests."""
        return await adrive(self._flow(questions, temperature), cast(IO, self))

    def close(self) -> None:
        """Close the backend, unless it was handed in. Idempotent."""
        self._closed = True
        if self._owned is not None:
            self._owned.close()

    async def aclose(self) -> None:
        """As `close`."""
        self._closed = True
        if self._owned is not None:
            await self._owned.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _flow(self, questions: Sequence[str], temperature: float) -> Flow[list[MemoryAnswer]]:
        if self._closed:
            raise ClosedError(f"The Memory model {self.model} was closed; open it again.")
        lines = _lines(questions)
        unique = list(dict.fromkeys(lines))
        width = min(self._concurrency, len(unique))
        batch = _Batch(unique, width)
        yield from Together([self._work(batch, temperature) for _ in range(width)], threads=width)
        batch.check()
        answers: list[MemoryAnswer] = []
        told: set[str] = set()
        for question, line in zip(questions, lines, strict=True):
            answer = self._answer(question, batch.outcomes[line])
            answers.append(replace(answer, usage=Usage()) if line in told else answer)  # it was asked once
            told.add(line)
        return answers

    def _work(self, batch: _Batch, temperature: float) -> Flow[None]:
        """Ask one question after the other, until none is left."""
        while (question := batch.next()) is not None:
            request = Request(
                self.model,
                question_messages(question),
                max_tokens=self._max_tokens,
                temperature=temperature,
                logprobs=True,
            )
            try:
                completion = yield from Complete(request)
            except BackendError as error:
                batch.failed(question, error)
            else:
                batch.replied(question, completion)

    def _answer(self, question: str, outcome: Completion | BackendError) -> MemoryAnswer:
        if isinstance(outcome, BackendError):
            return MemoryAnswer(question, "", error=f"{type(outcome).__name__}: {outcome}")
        text = after_thinking(outcome.text)
        whole = bool(text) and outcome.finish_reason != "length"
        sure = confidence(outcome.logprobs) if whole else 0.0
        said = MemoryAnswer(question, text, usage=outcome.usage, confidence=sure)
        if self.abstain_below is None or (whole and not says_something(text)):
            return said
        if sure is None:
            raise SettingsError(
                f'The Memory model is to say "I don\'t know" below a confidence of {self.abstain_below:.3g}, and '
                f"{self.backend.describe()} does not tell how likely its tokens are (logprobs). Serve it with vLLM "
                "(`memlora memo serve`) or in process, or pass abstain_below=None."
            )
        if sure >= self.abstain_below:
            return said
        return replace(said, text=UNSURE, abstained=True, withheld=text)


class _Batch:
    """The questions of one call: those to ask, and what came of the others.

    When so many in a row could not be asked as are under way at once (and at least 4), the model is gone, and the rest
    is given up: thousands of questions do not wait for one timeout after the other.
    """

    def __init__(self, questions: Iterable[str], width: int) -> None:
        self.outcomes: dict[str, Completion | BackendError] = dict.fromkeys(questions, _UNASKED)
        self._waiting = deque(self.outcomes)
        self._enough = max(width, 4)
        self._lost = 0  # in a row

    def next(self) -> str | None:
        """A question to ask; None when there is none. For many threads."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def replied(self, question: str, completion: Completion) -> None:
        self.outcomes[question] = completion
        self._lost = 0

    def failed(self, question: str, error: BackendError) -> None:
        self.outcomes[question] = error
        if isinstance(error, BackendRequestError):  # about this question, and at once
            return
        self._lost += 1
        if self._lost >= self._enough:
            while (unasked := self.next()) is not None:
                self.outcomes[unasked] = error

    def check(self) -> None:
        """Raises BackendError: not one was answered, and not because they are too long."""
        failed = [outcome for outcome in self.outcomes.values() if isinstance(outcome, BackendError)]
        down = [error for error in failed if not isinstance(error, PromptTooLongError)]
        if down and len(failed) == len(self.outcomes):
            raise down[0]


_UNASKED = BackendError("The question was not asked.")


def _lines(questions: Sequence[str]) -> list[str]:
    """The questions as the model is shown them.

    Raises:
        InvalidInputError: no list of questions, or a blank one.
    """
    if isinstance(questions, str) or not isinstance(questions, Sequence):
        raise InvalidInputError(f"Pass a list of questions, not {type(questions).__name__}: ask([question]).")
    lines = []
    for place, question in enumerate(questions):
        line = str(question_messages(question)[0]["content"]) if isinstance(question, str) else ""
        if not line:
            raise InvalidInputError(f"Question {place + 1} of {len(questions)} is blank; leave it out.")
        lines.append(line)
    return lines
