"""What a Memory model says, and what counts as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ..types import Usage

_UNSURE = re.compile(r"\bI\s+(?:do\s+not|don['’`]?t)\s+know\b", re.I)


@dataclass(frozen=True, slots=True)
class MemoryAnswer:
    """An answer to one question. `error` says why there is none. `abstained`: the model said something and was not sure
    enough of it, so that `text` is "I don't know".
    """

    question: str
    text: str
    abstained: bool = False
    error: str | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def knows(self) -> bool:
        """False for an answer that contains "I don't know", says nothing, or is none."""
        return self.error is None and bool(self.text.strip()) and not _UNSURE.search(self.text)


@runtime_checkable
class AnswersQuestions(Protocol):
    """A Memory model to the protocol: it answers each question by itself, all of them at once, in their order.

    Raises (both):
        BackendError: it cannot be reached.
    """

    def ask(self, questions: Sequence[str], *, temperature: float = 0.0) -> Sequence[MemoryAnswer]: ...

    async def aask(self, questions: Sequence[str], *, temperature: float = 0.0) -> Sequence[MemoryAnswer]: ...
