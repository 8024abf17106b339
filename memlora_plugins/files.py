"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Replace `file` by one that holds `text`, durably; its folder is made if need be.

    Raises:
        OSError: it cannot be written; a file that was there before is unchanged.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.draft")
    try:
        with draft.open("w", encoding="utf-8") as lines:
            lines.write(text)
            lines.flush()
            os.fsync(lines.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
