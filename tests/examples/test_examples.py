"""The scripts in examples/ run as they stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_server import FakeModelServer
from scripted import decides, says

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[..., str]


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"quickstart.py", "async_app.py", "real_servers.py"}


def test_quickstart(run: Run, tmp_path: Path) -> None:
    out = run("quickstart.py", str(tmp_path / "memory"))
    assert "ADD The user: I'm allergic to peanuts.\nUPDATE The user: I moved to Madrid.\n" in out
    assert "found: The user: I moved to Madrid." in out
    assert "answer: Madrid\n" in out
    assert "I'm allergic to peanuts." in out.partition("for a prompt:")[2]


def test_async_app(run: Run, tmp_path: Path) -> None:
    recalled, _, erased = run("async_app.py", str(tmp_path / "memory")).partition("ben, erased: ")
    for user, city in {"ana": "Lisbon", "ben": "Oslo", "chloe": "Lyon"}.items():
        [line] = [line for line in recalled.splitlines() if line.startswith(user)]
        assert [c for c in ("Lisbon", "Oslo", "Lyon") if c in line] == [city]
    assert erased == "[]\n"


def test_real_servers_against_a_fake_model_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeModelServer(adapters={"extraction": "/e", "update": "/u", "generation": "/g"}) as server:
        server.reply("extraction", says("Ana lives in Porto"), says("Ana lives in Lisbon since May"))
        server.reply("update", decides(("0", "UPDATE", "Ana lives in Lisbon since May")))
        server.reply("generation", "In Lisbon.")
        monkeypatch.setenv("MEMLORA_BASE_URL", server.base_url)
        monkeypatch.setenv("MEMLORA_MODEL", server.model)
        monkeypatch.setenv("MEMLORA_ADAPTERS", json.dumps({name: name for name in server.adapters}))
        out = run("real_servers.py")
    assert "ADD Ana lives in Porto\nUPDATE Ana lives in Lisbon since May\nIn Lisbon.\n" in out


@pytest.mark.usefixtures("no_nano")
def test_real_servers_without_one_is_a_readable_error(run: Run) -> None:
    with pytest.raises(SystemExit, match="error: No model is configured"):
        run("real_servers.py")
