"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scripted import WordEmbedder
from typer.testing import CliRunner, Result

Memlora = Callable[..., Result]
"""`memlora("add", "text", "--user", "ana", code=0, input=None)`: runs the command, checks its exit code."""


def run_memlora(*words: str, code: int = 0, **options: Any) -> Result:
    """Run a command in this process and check its exit code; `options` are those of `CliRunner.invoke`."""
    from memlora_plugins.cli.app import app

    result = CliRunner().invoke(app, list(words), **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


class NamedWordEmbedder(WordEmbedder):
    """Takes the arguments of `SentenceTransformerEmbedder`."""

    def __init__(self, model: str, *, device: str = "cpu") -> None:
        super().__init__()
        self.name = f"fake-words-for-{model}"
