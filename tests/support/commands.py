"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

from scripted import WordEmbedder
from typer.testing import Result

Memlora = Callable[..., Result]
"""`memlora("add", "text", "--user", "ana", code=0, input=None)`: runs the command, checks its exit code."""


class NamedWordEmbedder(WordEmbedder):
    """Takes the arguments of `SentenceTransformerEmbedder`."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.name = f"fake-words-for-{model}"
