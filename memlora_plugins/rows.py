"""Files of JSONL whose lines are all of one kind."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from .errors import DatasetError

if TYPE_CHECKING:
    from .training.journal import Journal

Row = TypeVar("Row", bound=BaseModel)


def read_rows(path: str | os.PathLike[str], kind: type[Row], empty: str) -> list[Row]:
    """The rows of a file, in its order; blank lines are passed over. `empty` is said of a file without any.

    Raises:
        DatasetError: the file cannot be read, a line is not of this `kind` (the message says which), or there is none.
    """
    file = Path(path)
    rows: list[Row] = []
    number = 0
    try:
        # JSON may hold U+2028, which `splitlines` would cut at
        lines = file.read_text(encoding="utf-8-sig").split("\n")
        for number, line in enumerate(lines, start=1):  # noqa: B007 (named in the error)
            if line.strip():
                rows.append(kind.model_validate_json(line))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "line"
        raise DatasetError(f"{file}, line {number}: {where}: {first['msg']}") from error
    if not rows:
        raise DatasetError(f"{file} {empty}")
    return rows


def read_listed(path: str | os.PathLike[str], kind: type[Row], empty: str, otherwise: str) -> list[Row]:
    """As `read_rows`, of JSONL or one JSON list. `otherwise` is said of a list that holds something else.

    Raises:
        DatasetError: as `read_rows`.
    """
    file = Path(path)
    try:
        content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
        if content.lstrip().startswith(b"["):
            return TypeAdapter(list[kind]).validate_json(content)  # type: ignore[valid-type]
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DatasetError(f"{file} {otherwise}: {where}: {first['msg']}.") from error
    return read_rows(file, kind, empty)


def journal_rows(journal: Journal, kind: type[Row]) -> list[Row]:
    """The rows that a journal holds, as models.

    Raises:
        DatasetError: one is not of this `kind`; the message says which.
    """
    rows = []
    for number, row in enumerate(journal.rows, start=1):
        try:
            rows.append(kind.model_validate(row))
        except ValidationError as error:
            raise DatasetError(
                f"{journal.path}, line {number} is damaged: {error.errors()[0]['msg']}. Delete that line; its work is "
                "done again."
            ) from error
    return rows
