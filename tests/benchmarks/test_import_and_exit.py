"""What a program pays for using the library at all: import, exit, sockets."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from timed import TIMED, report

pytestmark = TIMED

IMPORT = "import time; start = time.perf_counter(); import memlora_plugins; print(time.perf_counter() - start)"

EMBEDDED = """
import socket, sys, time
real_connect = socket.socket.connect
opened = []
def connect(self, address, *rest):
    opened.append(address)
    raise OSError("the network is cut")
socket.socket.connect = connect
socket.socket.connect_ex = connect
socket.getaddrinfo = lambda *a, **k: opened.append(a) or (_ for _ in ()).throw(OSError("the network is cut"))
from memlora_plugins import Memory, Message, Scope
memory = Memory.open(path=sys.argv[1])
ana = Scope("ana")
memory.add([Message("user", "I moved to Lisbon in May.")], scope=ana)
assert memory.search("Where does she live?", scope=ana)
memory.add([Message("user", "I like tea.")], scope=ana, wait=False)
if sys.argv[2] == "close":
    memory.close()
print(repr(opened), time.time(), flush=True)
"""

UNREACHABLE = """
import sys, time
from memlora_plugins import Memory, Message, Scope
memory = Memory.open(path=sys.argv[1], base_url="http://127.0.0.1:9", model="m")
memory.add([Message("user", "I like tea.")], scope=Scope("ana"), wait=False)
print("[]", time.time(), flush=True)
"""


def test_import(benchmark: Any, tmp_path: Path) -> None:
    # an installed package has its bytecode, whatever this machine's environment says of writing it
    compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}

    def once() -> float:
        done = subprocess.run([sys.executable, "-c", IMPORT], env=compiled, capture_output=True, check=True)
        return float(done.stdout)

    once()
    seconds = [once() for _ in range(5)]
    benchmark.pedantic(once, rounds=1)
    median = statistics.median(seconds)
    report(benchmark, "`import memlora_plugins` (median of 5)", f"{median:.2f} s", "≤ 0.3 s")
    assert median <= 0.3


@pytest.mark.parametrize("ending", ["close", "leave open"])
def test_exit_with_the_network_cut_and_no_socket_opened(benchmark: Any, tmp_path: Path, ending: str) -> None:
    def once() -> tuple[str, float]:
        return _run(EMBEDDED, str(tmp_path), ending)

    opened, exit_seconds = benchmark.pedantic(once, rounds=1)
    closed = "after `close`" if ending == "close" else "left open"
    what = f"process exit, network cut, MiniLM and nano loaded, {closed}"
    report(benchmark, what, f"{exit_seconds:.2f} s", "≤ 1 s, no socket")
    assert opened == "[]"
    assert exit_seconds <= 1.0


def test_exit_while_background_work_waits_for_an_unreachable_server(benchmark: Any, tmp_path: Path) -> None:
    _, exit_seconds = benchmark.pedantic(lambda: _run(UNREACHABLE, str(tmp_path)), rounds=1)
    what = "process exit while background work waits for a server that is not there"
    report(benchmark, what, f"{exit_seconds:.2f} s", "≤ 1 s")
    assert exit_seconds <= 1.0


def _run(program: str, *arguments: str) -> tuple[str, float]:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    ended = time.time()
    opened, last_word = done.stdout.strip().rsplit(" ", 1)
    return opened, ended - float(last_word)
