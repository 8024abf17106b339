"""Files of JSONL whose lines are all of one kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from .errors import DatasetError

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
