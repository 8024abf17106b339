"""What a Memory model is asked and what it says, and what counts as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from math import exp, fsum
from typing import Any, Protocol, runtime_checkable

from ..errors import BackendError, BackendUnavailableError
from ..experts.wording import one_line
from ..serving.base import ChatMessage
from ..types import Usage

UNSURE = "I don't know."
"""What is told in place of an answer that the Memory model was not sure enough of."""
_UNSURE = re.compile(r"\bI\s+(?:do\s+not|don['’`]?t)\s+know\b", re.I)


def question_messages(question: str) -> list[ChatMessage]:
    """All that a Memory model is shown of a question, in training and when it is asked: the question, on one line.

    No instructions, no documents, no other question: what an answer costs does not depend on the corpus.
    """
    return [{"role": "user", "content": one_line(question)}]


@dataclass(frozen=True, slots=True)
class MemoryAnswer:
    """An answer to one question. `error` says why there is none. `abstained`: the model was not sure enough of what it
    said, so that `text` is "I don't know." and `withheld` what it said.

    `confidence` is how sure it was, 0 to 1 (see `confidence`); None where that is not known.
    """

    question: str
    text: str
    abstained: bool = False
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    confidence: float | None = None
    withheld: str | None = None

    @property
    def knows(self) -> bool:
        """False for an answer that contains "I don't know", says nothing, or is none."""
        return self.error is None and says_something(self.text)


def says_something(text: str) -> bool:
    """False for nothing, and for "I don't know" with whatever is around it."""
    return bool(text.strip()) and not _UNSURE.search(text)


def confidence(logprobs: Sequence[float] | None) -> float | None:
    """How sure a model was of what it said: the geometric mean of its tokens' probabilities, 0 to 1.

    None where no log-probabilities are known. On the nano models it was measured on, with answers of a word to a
    sentence, it told right answers from wrong ones with an area under the ROC curve of 0.67 to 0.84, about 0.02 more
    than the least likely token alone.
    """
    return exp(min(0.0, fsum(logprobs) / len(logprobs))) if logprobs else None


@runtime_checkable
class AnswersQuestions(Protocol):
    """A Memory model to the protocol: it answers each question by itself, all of them at once, in their order.

    Where both also take a keyword `temperature`, they are told that of the protocol's stage.

    Raises (both):
        BackendError, OSError: it cannot be reached.
    """

    def ask(self, questions: Sequence[str]) -> Sequence[MemoryAnswer]: ...

    async def aask(self, questions: Sequence[str]) -> Sequence[MemoryAnswer]: ...


def ask_model(
    model: AnswersQuestions, questions: Sequence[str], temperature: float | None = None
) -> Sequence[MemoryAnswer]:
    """What `model` answers, at `temperature` if it can be told one; None leaves it to the model.

    Raises:
        BackendError: it cannot be reached, or gave another number of answers. Whatever else it raises.
    """
    try:
        return _complete(model.ask(questions, **_warmth(model.ask, temperature)), questions)
    except OSError as error:
        raise _unreachable(error) from error


async def aask_model(
    model: AnswersQuestions, questions: Sequence[str], temperature: float | None = None
) -> Sequence[MemoryAnswer]:
    """As `ask_model`."""
    try:
        return _complete(await model.aask(questions, **_warmth(model.aask, temperature)), questions)
    except OSError as error:
        raise _unreachable(error) from error


def _warmth(ask: Callable[..., Any], temperature: float | None) -> dict[str, Any]:
    taken = signature(ask).parameters
    takes = "temperature" in taken or any(one.kind is Parameter.VAR_KEYWORD for one in taken.values())
    return {"temperature": temperature} if takes and temperature is not None else {}


def _complete(answers: Sequence[MemoryAnswer], questions: Sequence[str]) -> Sequence[MemoryAnswer]:
    if len(answers) != len(questions):
        raise BackendError(f"The Memory model gave {len(answers)} answers to {len(questions)} questions.")
    return answers


def _unreachable(error: OSError) -> BackendUnavailableError:
    return BackendUnavailableError(f"The Memory model cannot be reached: {type(error).__name__}: {error}")
