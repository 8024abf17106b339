"""Finished work, on disk: rows of a JSONL file that only grows, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetError, StoreLockedError, StoreUnavailableError
from ..store.folder import Folder


class Journal:
    """The rows of `path`, held by one process at a time. `rows` are JSON objects in the order they were added.

    Fields that are `written_only` stand in the file and not in `rows`, which are held in memory.

    A row that was added survives the death of the process and, with `sync`, power loss. The last line may be torn by
    one: it is cut off.

    Raises (constructor, add):
        DatasetError: the file cannot be read or written, another process holds it, or a line in its middle is damaged.
    """

    def __init__(self, path: Path, *, sync: bool = True, written_only: Collection[str] = ()) -> None:
        self.path = path
        self._sync = sync
        self._written_only = frozenset(written_only)
        self.rows: list[dict[str, Any]] = []
        try:
            self._folder = Folder(path.with_name(f".{path.stem}"))
        except StoreLockedError as error:
            raise DatasetError(f"Another process is writing {path}. Wait for it, or use another folder.") from error
        except StoreUnavailableError as error:
            raise DatasetError(f"{path.parent} cannot be written; pass a folder that can.") from error
        try:
            self._file = path.open("a+b", buffering=0)
            try:
                self._read()
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            self._folder.release()
            raise DatasetError(f"{path} cannot be used: {error}") from error
        except BaseException:
            self._folder.release()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row; it is on disk when this returns."""
        line = json.dumps(row).encode() + b"\n"
        whole = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
            if self._sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(whole)  # half a line would spoil the next one
            raise DatasetError(
                f"{self.path} cannot be written: {error}. What was there is kept; make room and run it again."
            ) from error
        self._hold(row)

    def close(self) -> None:
        """Let others have the file."""
        self._file.close()
        self._folder.release()

    def _hold(self, row: Mapping[str, Any]) -> None:
        self.rows.append({name: value for name, value in row.items() if name not in self._written_only})

    def _read(self) -> None:
        whole, ended = 0, True
        row: dict[str, Any] | None = None
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                row, ended = _row(line), line.endswith(b"\n")
                if row is not None:
                    self._hold(row)
                    whole += len(line)
                elif ended:
                    raise DatasetError(
                        f"{self.path}, line {number} is damaged. Delete that line; its work is done again."
                    )
        if ended:
            return
        if row is None:  # the process ended while it wrote this
            self._file.truncate(whole)
        else:
            self._file.write(b"\n")


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
