"""Chats between two people, for the base model's general English.

The file is the validation part of Synthetic-Persona-Chat (Google; Jandaghi et al., 2023), licensed CC BY 4.0. It is not
part of this package: download it, and name it to the recipe.
"""

from __future__ import annotations

import csv
import hashlib
import re
from pathlib import Path

from ...errors import DatasetError

SHA256 = "e8128d2b7b0eed8064715cb1d71cdd241a3fa28ddf6fb80ece5c8156c1fd819d"
_COLUMN = "Best Generated Conversation"
_LINE = re.compile(r"^User [12]: (.+)$", re.MULTILINE)


def read_dialogues(path: Path) -> list[list[str]]:
    """The chats of the file, each as its lines in order.

    Raises:
        DatasetError: the file cannot be read, or is another one (then nano would become another one, too).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise DatasetError(f"{path} is not the file nano was made with (sha256 {found[:12]}…, not {SHA256[:12]}…).")
    rows = csv.DictReader(data.decode("utf-8").splitlines(keepends=True))
    chats = [[line.strip() for line in _LINE.findall(row[_COLUMN])] for row in rows]
    return [chat for chat in chats if len(chat) > 1]
