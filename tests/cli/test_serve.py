"""`memlora serve` around a stand-in server: the real one is started by the end-to-end tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest
from commands import Memlora

from memlora_plugins.errors import ServerStartError


class FakeServer:
    """Runs for `looks` looks, then does what `ends` says."""

    made: ClassVar[list[FakeServer]]
    fails = False
    ends: BaseException | None = None
    looks = 2

    def __init__(self, model: str, adapters: dict[str, str], **options: Any) -> None:
        self.model, self.adapters, self.options = model, adapters, options
        self.host = options["host"]
        self.base_url = f"http://{options['host']}:{options['port']}"
        self.log_file = Path("vllm.log")
        self.stopped = False
        self.made.append(self)

    def start(self, *, timeout: float, progress: Any) -> None:
        progress(1.5, "loading\x1b[2J weights")
        if self.fails:
            raise ServerStartError("The vLLM server ended with status 1 while starting.", log_tail="ValueError: no\n")

    @property
    def running(self) -> bool:
        self.looks -= 1
        if self.looks < 0 and self.ends:
            raise self.ends
        return self.looks >= 0

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[FakeServer]:
    class Server(FakeServer):
        made: ClassVar[list[FakeServer]] = []

    monkeypatch.setattr("memlora_plugins.serving.server.VLLMServer", Server)
    monkeypatch.setattr("memlora_plugins.cli.serve._LOOK_SECONDS", 0.0)
    return Server


def test_it_says_where_it_is_and_stops_cleanly(
    memlora: Memlora, server: type[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMLORA_API_KEY", "hush")
    server.ends = KeyboardInterrupt()
    words = ["serve", "--model", "base", "--adapter", "update=experts/u", "--port", "9", "--vllm-arg=--dtype=float32"]
    done = memlora(*words)
    assert "--base-url http://127.0.0.1:9 --model base --adapter update=update" in done.stdout
    assert "stopping the server" in done.stderr
    assert "hush" not in done.output
    [made] = server.made
    assert made.stopped
    assert made.adapters == {"update": "experts/u"}
    assert made.options["extra_args"] == ["--dtype=float32"]
    assert made.options["api_key"].get_secret_value() == "hush"


def test_a_failed_start_shows_the_log(memlora: Memlora, server: type[FakeServer]) -> None:
    server.fails = True
    done = memlora("serve", "--model", "base", code=1)
    assert "ValueError: no" in done.stderr
    assert done.stderr.endswith("error: The vLLM server ended with status 1 while starting.\n")
    assert server.made[0].stopped


def test_a_server_that_dies_is_an_error(memlora: Memlora, server: type[FakeServer]) -> None:
    assert "ended by itself" in memlora("serve", "--model", "base", code=1).stderr
    assert server.made[0].stopped


def test_experts_may_come_from_the_environment(
    memlora: Memlora, server: type[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMLORA_ADAPTERS", '{"update": "u"}')
    server.ends = KeyboardInterrupt()
    memlora("serve", "--model", "base")
    memlora("serve", "--model", "base", "--adapter", "extraction=e")
    assert [made.adapters for made in server.made] == [{"update": "u"}, {"extraction": "e"}]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_server(
    memlora: Memlora, server: type[FakeServer], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.getsignal(number)

    monkeypatch.setattr(server, "running", property(lambda made: os.kill(os.getpid(), number) is None))
    assert "stopping the server" in memlora("serve", "--model", "base").stderr
    assert server.made[0].stopped
    assert signal.getsignal(number) is before


def test_an_open_address_is_warned_of(memlora: Memlora, server: type[FakeServer]) -> None:
    server.ends = KeyboardInterrupt()
    assert "can be reached from elsewhere" in memlora("serve", "--model", "base", "--host", "0.0.0.0").stderr
    memlora("serve", code=2)
