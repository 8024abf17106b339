"""One owner thread that batches whatever waits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, Future

import pytest

from memlora_plugins.batching import Batcher
from memlora_plugins.errors import ClosedError, ForkedError


class Echo:
    """Doubles numbers; refuses 13; holds every batch until `gate` is open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def run(self, numbers: list[int]) -> list[int | BaseException]:
        self.batches.append(numbers)
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.gate.wait(30)
        if -1 in numbers:
            raise SystemExit("the whole batch")
        return [ValueError("13") if number == 13 else 2 * number for number in numbers]


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def batcher(echo: Echo):
    made = Batcher(echo.run, max_batch=4, name="echo")
    yield made
    echo.gate.set()
    made.close()


def busy(echo: Echo, batcher: Batcher[int, int]) -> Future[int]:
    """Keep the thread in a batch of one until the gate opens."""
    echo.gate.clear()
    first = batcher.submit(0)
    echo.entered.acquire()
    return first


def test_answers_each_caller(echo: Echo, batcher: Batcher[int, int]) -> None:
    assert batcher.call(21) == 42
    assert echo.threads == {"echo"}


def test_what_waits_becomes_the_next_batches_in_order(echo: Echo, batcher: Batcher[int, int]) -> None:
    busy(echo, batcher)
    waiting = [batcher.submit(number) for number in range(1, 7)]
    echo.gate.set()
    assert [future.result() for future in waiting] == [2, 4, 6, 8, 10, 12]
    assert echo.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_many_tasks_share_batches_without_blocking_the_loop(echo: Echo, batcher: Batcher[int, int]) -> None:
    busy(echo, batcher)
    tasks = [asyncio.ensure_future(batcher.acall(number)) for number in range(1, 4)]
    await asyncio.sleep(0)
    echo.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6]
    assert len(echo.batches) == 2


def test_one_failure_is_one_callers(echo: Echo, batcher: Batcher[int, int]) -> None:
    busy(echo, batcher)
    good, bad = batcher.submit(1), batcher.submit(13)
    echo.gate.set()
    assert good.result() == 2
    with pytest.raises(ValueError, match="13"):
        bad.result()


def test_the_thread_outlives_a_failing_batch(batcher: Batcher[int, int]) -> None:
    with pytest.raises(SystemExit):
        batcher.call(-1)
    assert batcher.call(1) == 2


def test_a_wrong_number_of_results_is_an_error() -> None:
    short: Batcher[int, int] = Batcher(lambda numbers: [], name="short")
    with pytest.raises(RuntimeError, match="short: 0 results for 1 requests"):
        short.call(1)
    short.close()


def test_a_cancelled_request_is_dropped(echo: Echo, batcher: Batcher[int, int]) -> None:
    busy(echo, batcher)
    dropped, kept = batcher.submit(1), batcher.submit(2)
    assert dropped.cancel()
    echo.gate.set()
    assert kept.result() == 4
    with pytest.raises(CancelledError):
        dropped.result()
    assert echo.batches == [[0], [2]]


async def test_a_cancelled_task_drops_its_request(echo: Echo, batcher: Batcher[int, int]) -> None:
    busy(echo, batcher)
    task = asyncio.ensure_future(batcher.acall(1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    echo.gate.set()
    assert await batcher.acall(2) == 4
    assert [1] not in echo.batches


def test_close_fails_what_waits_and_finishes_what_runs(echo: Echo, batcher: Batcher[int, int]) -> None:
    running = busy(echo, batcher)
    waiting, dropped = batcher.submit(1), batcher.submit(2)
    dropped.cancel()
    batcher.close(timeout=0)
    with pytest.raises(ClosedError, match="echo was closed"):
        waiting.result()
    echo.gate.set()
    assert running.result() == 0
    with pytest.raises(ClosedError, match="echo is closed"):
        batcher.submit(3)
    batcher.close()


def test_close_before_the_first_request_starts_nothing(echo: Echo, batcher: Batcher[int, int]) -> None:
    batcher.close()
    assert not echo.batches


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_use_after_fork(batcher: Batcher[int, int]) -> None:
    batcher.call(1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            batcher.call(1)
        except ForkedError:
            batcher.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert batcher.call(2) == 4


@pytest.mark.parametrize("seconds", [0, 60])
def test_the_process_ends_while_a_batcher_is_open(seconds: int) -> None:
    program = (
        "import time; from memlora_plugins.batching import Batcher\n"
        f"batcher = Batcher(lambda items: time.sleep({seconds}) or items)\n"
        "future = batcher.submit(1); time.sleep(0.1); print('end')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == ("end\n", "")
