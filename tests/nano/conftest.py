"""What the tests of nano's recipe share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from memlora_plugins.nano.recipe import dialogues


@pytest.fixture(scope="module")
def chats_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of three short chats, one of them of a single line, which passes for the one that nano was made with."""
    file = tmp_path_factory.mktemp("chats") / "chats.csv"
    file.write_text(
        "user 1 personas,Best Generated Conversation\n"
        '"I fish.","User 1: Hello, you!\nUser 2: Hi. "\n'
        "None,User 1: alone\n"
        'None,"User 1: One\nUser 2: two\nUser 1: three"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialogues, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
        yield file
