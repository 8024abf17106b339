"""Stand-ins for tests of the flows: a backend that says what a function tells it to, and a word-count embedder.

Called fakes because they are: the real experts and the real MiniLM are used where their behaviour matters.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import numpy as np

from memlora_plugins.serving.base import Completion, Request
from memlora_plugins.types import Usage

Reply = str | Completion | Exception


class FakeBackend:
    """Answers each expert by a function of the request; records what was asked. `delay` seconds per call."""

    def __init__(self, delay: float = 0.0, **experts: Callable[[Request], Reply]) -> None:
        self.experts = experts
        self.delay = delay
        self.requests: list[Request] = []
        self.closed = False
        self._lock = threading.Lock()

    def prompt_style(self, expert: str) -> str:
        return "short"

    def asked(self, expert: str) -> list[Request]:
        return [request for request in self.requests if request.expert == expert]

    def _reply(self, request: Request) -> Completion:
        with self._lock:
            self.requests.append(request)
        reply = self.experts[request.expert](request)
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, Completion):
            return reply
        return Completion(reply, usage=Usage(1, 10, 5), model="fake")

    def complete(self, request: Request) -> Completion:
        time.sleep(self.delay)
        return self._reply(request)

    async def acomplete(self, request: Request) -> Completion:
        await asyncio.sleep(self.delay)
        return self._reply(request)

    def stream(self, request: Request) -> Iterator[str | Completion]:
        completion = self.complete(request)
        yield from re.findall(r"\S+\s*", completion.text)
        yield completion

    async def astream(self, request: Request) -> AsyncIterator[str | Completion]:
        for piece in self.stream(request):
            yield piece

    def describe(self) -> str:
        return "fake backend"

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class WordEmbedder:
    """Counts words into 256 buckets: texts that share words are near."""

    name = "fake-words"
    dimension = 256

    def __init__(self) -> None:
        self.failing: Exception | None = None
        self.texts = 0

    def embed(self, texts: Sequence[str]) -> Any:
        if self.failing:
            raise self.failing
        self.texts += len(texts)
        found = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()) or ["?"]:
                row[int.from_bytes(hashlib.blake2b(word.encode(), digest_size=2).digest()) % self.dimension] += 1
            row /= np.linalg.norm(row)
        return found

    async def aembed(self, texts: Sequence[str]) -> Any:
        return self.embed(texts)

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


def says(*facts: str) -> str:
    """An extraction reply."""
    return json.dumps({"facts": list(facts)})


def decides(*items: tuple[str, str, str]) -> str:
    """An update reply from (id, event, text)."""
    return json.dumps({"memory": [{"id": i, "text": t, "event": e, "old_memory": ""} for i, e, t in items]})


def user_line(request: Request) -> str:
    """Everything the request shows the expert, as one text."""
    return "\n".join(str(message["content"]) for message in request.messages)
