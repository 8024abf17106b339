"""A folder that one process at a time holds: its lock, its owner, and small JSON files, written whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import StoreLockedError, StoreUnavailableError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class Folder:
    """The folder, locked by this process until `release()`.

    Raises (constructor):
        StoreLockedError: another process holds it. StoreUnavailableError: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unavailable(path, error) from error
        try:
            _lock(self._lock)
        except OSError as error:
            os.close(self._lock)
            raise StoreLockedError(
                f"The memory folder {path} is open in {self._owner()}. Close it there, pass another path, or use a"
                " Qdrant server, which many processes can share."
            ) from error
        self.write("owner.json", {"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")})

    def release(self) -> None:
        """Let others have the folder."""
        self.remove("owner.json")
        _unlock(self._lock)  # explicitly: a forked child holds the same file open
        os.close(self._lock)

    def read(self, name: str) -> dict[str, Any] | None:
        """The JSON object in file `name`, or None if there is no such file."""
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise unavailable(self.path, error) from error
        return found

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace file `name`, durably."""
        draft = self.path / f"{name}.draft"
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path / name)
        except OSError as error:
            raise unavailable(self.path, error) from error

    def remove(self, name: str) -> None:
        """Remove file `name` if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def _owner(self) -> str:
        try:
            owner = self.read("owner.json") or {}
        except StoreUnavailableError:
            owner = {}
        return (
            f"process {owner['pid']} since {owner['since']}" if {"pid", "since"} <= owner.keys() else "another process"
        )


def unavailable(path: Path, error: BaseException) -> StoreUnavailableError:
    """The error for a folder that cannot be used."""
    return StoreUnavailableError(
        f"The memory folder {path} cannot be used ({error}). Pass a path to a folder that this user may write,"
        " on a disk with room."
    )


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
