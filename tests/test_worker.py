"""The threads behind `add(wait=False)`: kept for a while, gone when there is nothing to do."""

from __future__ import annotations

import threading
import time

import pytest

from memlora_plugins import Scope, worker
from memlora_plugins.types import AddResult
from memlora_plugins.worker import Worker

ANA = Scope("ana")


def distillers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "memlora-distil"]


def test_what_comes_soon_after_is_done_by_the_same_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_LINGER", 60.0)
    done_by: list[int] = []

    def distil(scope: Scope, ids: list[str]) -> AddResult:
        done_by.append(threading.get_ident())
        return AddResult()

    one = Worker(distil, threads=4)
    for number in range(5):
        one.submit(ANA, [str(number)])
        one.done().result(timeout=30)
        time.sleep(0.05)  # until the thread waits again
    one.close()
    assert len(done_by) == 5
    assert len(set(done_by)) == 1


def test_a_second_person_does_not_wait_for_the_first_when_a_thread_lingers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_LINGER", 60.0)
    both = threading.Barrier(2, timeout=30)

    def distil(scope: Scope, ids: list[str]) -> AddResult:
        if ids != ["warm"]:
            both.wait()  # broken unless both are at work at once
        return AddResult()

    one = Worker(distil, threads=4)
    one.submit(ANA, ["warm"])
    one.done().result(timeout=30)
    one.submit(ANA, ["a"])
    one.submit(Scope("ben"), ["b"])
    assert one.done().result(timeout=30).errors == ()
    one.close()


def at_rest(linger: float, monkeypatch: pytest.MonkeyPatch) -> tuple[Worker, set[threading.Thread]]:
    """A worker that has done one thing, and the threads it did it with."""
    monkeypatch.setattr(worker, "_LINGER", linger)
    before = set(distillers())
    one = Worker(lambda scope, ids: AddResult(), threads=4)
    one.submit(ANA, ["a"])
    started = set(distillers()) - before
    one.done().result(timeout=30)
    return one, started


def test_threads_end_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    one, started = at_rest(0.01, monkeypatch)
    for thread in started:
        thread.join(30)
    assert not any(thread.is_alive() for thread in started)
    one.submit(ANA, ["b"])  # and begin again
    assert one.done().result(timeout=30) == AddResult()
    one.close()


def test_closing_does_not_wait_for_an_idle_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    one, started = at_rest(3600.0, monkeypatch)
    one.close(grace=30)
    assert started
    assert not any(thread.is_alive() for thread in started)
