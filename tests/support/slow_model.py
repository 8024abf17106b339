"""A fake model that takes its time, in a process of its own, as a model server has: what is measured is the client."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.managers import BaseManager
from typing import Any

from fake_server import FakeModelServer
from scripted import decides, says


class SlowModel(FakeModelServer):
    """Its person moves from Lisbon to Porto."""

    def __init__(self) -> None:
        super().__init__(adapters={"extraction": "", "update": ""})
        self.reply("extraction", _moved)
        self.reply("update", decides(("0", "UPDATE", "Lives in Porto")))

    def names(self) -> tuple[str, str, dict[str, str]]:
        """What a `VLLMBackend` is made of."""
        return self.base_url, self.model, {name: name for name in self.adapters}

    def take(self, seconds: float) -> None:
        """So long for each request from now on, and count them from 0."""
        self.latency = seconds
        self.requests.clear()

    def count(self) -> int:
        return len(self.requests)


def _moved(body: dict[str, Any]) -> str:
    return says("Lives in Porto" if "Porto" in str(body["messages"]) else "Lives in Lisbon")


class _Processes(BaseManager):
    """Starts the process and speaks with it."""

    slow_model: Callable[[], SlowModel]


_Processes.register("slow_model", SlowModel)


@contextmanager
def slow_model() -> Iterator[SlowModel]:
    """One that stops with the context."""
    with _Processes(ctx=multiprocessing.get_context("spawn")) as processes:
        model: SlowModel = processes.slow_model()
        try:
            yield model
        finally:
            model.stop()
