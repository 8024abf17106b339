"""What `--help` shows, of every command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from memlora_plugins.cli.app import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with the words that it is called by."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


def test_what_stands_in_brackets_is_shown(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    whole = typer.main.get_command(app)
    told: dict[tuple[str, ...], set[str]] = {}
    for path, command in commands(whole):
        whole.main([*path, "--help"], standalone_mode=False)
        shown = capsys.readouterr().out
        assert "Usage: " in shown
        assert "\\[" not in shown
        texts = [command.help or "", *(getattr(one, "help", None) or "" for one in command.params)]
        words = {word for text in texts for word in re.findall(r"\[+[^\s\]]*\]+", text.replace("\\[", "["))}
        assert not [word for word in words if word not in shown], path
        told[path] = words
    assert told["eval", "locomo"] == {"[[student]]"}
    assert told["eval", "memo"] >= {"[[executive]]", "[[memory]]", "[judge]"}
