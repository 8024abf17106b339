from __future__ import annotations

import errno
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import typer
from commands import Memlora
from typer.testing import CliRunner, Result

from memlora_plugins.cli import main
from memlora_plugins.cli.options import Json, Model, Place, Who, adapters, command, explicit
from memlora_plugins.cli.output import console, print_json, tolerate_bytes
from memlora_plugins.errors import StoreLockedError

COMMANDS = ["demo", "chat", "add", "search", "answer", "facts", "history", "erase", "export", "import"]
COMMANDS += ["serve", "doctor"]
HEAVY = "torch transformers sentence_transformers qdrant_client qdrant_edge httpx pydantic_settings numpy rich.progress"


def test_help_names_every_command(memlora: Memlora) -> None:
    text = memlora("--help").output
    assert [name for name in COMMANDS if f" {name} " not in text] == []
    assert memlora("--version").output.strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(memlora: Memlora, name: str) -> None:
    text = memlora(name, "--help").output
    assert "api-key" not in text  # secrets come from the environment only


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['memlora', '--help']\n"
        "from memlora_plugins.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"loaded = [name for name in {HEAVY.split()!r} if name in sys.modules]\n"
        "sys.exit(loaded or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_entry_point_and_verbose_logging(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    basics: dict[str, Any] = {}
    monkeypatch.setattr("logging.basicConfig", lambda **given: basics.update(given))
    monkeypatch.setattr(sys, "argv", ["memlora", "--verbose", "import", "--user", "ana"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert basics["level"] == logging.INFO
    monkeypatch.setitem(sys.modules, "memlora_plugins.cli.app", None)
    with pytest.raises(ModuleNotFoundError):  # not ours to explain
        main()


def test_without_typer_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None\nfrom memlora_plugins.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == 'memlora needs the package typer: pip install "memlora-plugins[cli]"\n'


def test_bytes_that_are_no_text_are_replaced(memlora: Memlora) -> None:
    memlora("add", "-", "--user", "ana", "--model", "none", "--no-distil", input=b"caf\xe9 Zo\xc3\xab")
    assert "user: caf\ufffd Zoë" in memlora("search", "Zoë", "--user", "ana").stdout
    assert "error" not in memlora("chat", "--user", "ana", "--model", "none", input=b"caf\xe9\n").stderr


def test_text_that_the_output_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding="ascii", write_through=True) as narrow:
        monkeypatch.setattr(sys, "stdout", narrow)
        tolerate_bytes()
        console().print("Zoë")
        print_json("Zoë")
        text = written.getvalue().decode("ascii")
    first, second = text.splitlines()
    assert first == "Zo?"
    assert json.loads(second) == "Zoë"  # data is never changed


def toy(function: Callable[..., None]) -> Callable[..., Result]:
    app = typer.Typer()
    app.command()(command(function))

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, list(words))

    return run


def test_option_groups_are_unfolded_and_filled_in(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def show(
        *, word: Annotated[str, typer.Argument()], json: Json = False, who: Who, place: Place, model: Model
    ) -> None:
        seen.update(word=word, json=json, scope=who.scope, settings=explicit(place, model))

    run = toy(show)
    monkeypatch.setenv("MEMLORA_USER", "ana")
    monkeypatch.setenv("MEMLORA_QDRANT_URL", "http://q")
    result = run("hello", "--json", "--session", "s", "--model", "m", "--adapter", "update=u", "--adapter", "vision=v")
    assert result.exit_code == 0, result.output
    assert (seen["word"], seen["json"], str(seen["scope"])) == ("hello", True, "ana/*/s")
    assert seen["settings"] == {"qdrant_url": "http://q", "model": "m", "adapters": {"update": "u", "vision": "v"}}


def full_disk(*, who: Who) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def nobody_reads(*, who: Who) -> None:
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_exit_codes(clean_environment: None) -> None:
    def fail(*, who: Who) -> None:
        raise StoreLockedError("held by\nprocess 7")

    run = toy(fail)
    failed = run("--user", "ana")
    assert failed.exit_code == 1
    assert failed.stderr == "error: held by process 7\n"
    assert run().exit_code == 2
    assert run("--nonsense").exit_code == 2
    assert "No space left" in toy(full_disk)("--user", "ana").stderr
    assert toy(nobody_reads)("--user", "ana").exit_code == 1
    blank = run("--user", " ")
    assert blank.exit_code == 1 or "non-blank" in blank.stderr


@pytest.mark.parametrize("given", ["extraction", "=x", "extraction=", " = "])
def test_an_adapter_is_a_pair(given: str) -> None:
    with pytest.raises(typer.BadParameter, match="EXPERT=PATH"):
        adapters([given])


def test_no_adapters_leave_the_environment_in_force() -> None:
    assert adapters(None) is None
    assert adapters([]) is None
