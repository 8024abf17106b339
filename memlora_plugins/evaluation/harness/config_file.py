"""A measurement described by a TOML file: read with errors that name the file and the key."""

from __future__ import annotations

import re
import tomllib
from os import PathLike
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError, ValidationInfo

from ...errors import SettingsError

Config = TypeVar("Config", bound=BaseModel)


def read_config(file: str | PathLike[str], kind: type[Config]) -> Config:
    """What `file` says, as a model of this `kind`. Its `BesidePath` and `BesideName` count from the file's folder.

    Raises:
        SettingsError: the file cannot be read, is no TOML, or says something that cannot be; it names the key.
    """
    path = Path(file)
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    try:
        return kind.model_validate(said, context={"folder": path.parent})
    except ValidationError as error:
        every = error.errors(include_input=False, include_url=False)
        failed = {found["loc"][:length] for found in every for length in range(1, len(found["loc"]))}
        problems = "; ".join(
            f"{_key(found['loc'])}: {_told(found['type'], found['loc'], found['msg'])}"
            for found in every
            if not (found["type"] == "too_short" and found["loc"] in failed)  # it is for want of the row that failed
        )
        raise SettingsError(f"{path}: {problems}.") from None  # the cause would repeat what was given, keys included


def _told(kind: str, loc: tuple[int | str, ...], message: str) -> str:
    """What is wrong, without what was given."""
    if kind == "extra_forbidden" and str(loc[-1]).endswith("key"):
        return "a key does not belong in a file; put it into an environment variable and name that with api_key_env"
    return message.removeprefix("Value error, ").removesuffix(".")


def _key(loc: tuple[int | str, ...]) -> str:
    """`memory[2].folder`, counted from 1; what is about the whole file has no key."""
    key = ""
    for part in loc:
        key += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if key else part
    return key or "the file"


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ValueError("this is the name of an environment variable, which holds the key; not the key itself")
    return name


KeyVariable = Annotated[str, AfterValidator(_variable)]
"""The name of the environment variable that a key is read from."""


def _beside(path: Path, info: ValidationInfo) -> Path:
    path = path.expanduser()
    return info.context["folder"] / path if info.context else path


def _beside_if_there(name: str, info: ValidationInfo) -> str:
    there = _beside(Path(name), info)
    return str(there) if there.is_dir() else name


BesidePath = Annotated[Path, AfterValidator(_beside)]
"""A path; in a file, it counts from that file's folder."""
BesideName = Annotated[str, AfterValidator(_beside_if_there)]
"""A model by name, or by a folder as `BesidePath` has it."""
