"""Where a run keeps what it needs to go on after it was killed, and how its result takes its place on disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError, SettingsError, TrainingError
from ..serving.adapters import CONFIG_FILE, NOTES_FILE
from .identity import check_same

_STATE_FILE = "trainer_state.json"  # the trainer writes it last


class Checkpoints:
    """The checkpoints of the run whose result will be `out`, in the folder `<out>.checkpoints` beside it."""

    def __init__(self, out: Path) -> None:
        self.folder = out.with_name(f"{out.name}.checkpoints")

    def begin(self, made_of: Mapping[str, str], *, resume: bool) -> None:
        """Make the folder ready for a run that is `made_of` these (name to hash); what is there is kept to `resume`.

        Raises:
            SettingsError: to be resumed is a run that was made of something else.
            TrainingError: the folder cannot be written.
        """
        try:
            if not resume or self.last() is None:
                self.remove()
            for left in self.folder.glob("checkpoint-*"):
                if _state(left) is None:  # the process ended while it wrote this
                    shutil.rmtree(left)
            self.folder.mkdir(parents=True, exist_ok=True)
            check_same(self.folder / "run.json", made_of)
        except InvalidInputError as error:
            raise SettingsError(f"{error} Or train without resume: that starts anew.") from error
        except OSError as error:
            raise TrainingError(
                f"{self.folder} cannot be used: {error}. Make room, or choose another folder."
            ) from error

    def last(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and the trainer's state in it."""
        found = [(path, state) for path in self.folder.glob("checkpoint-*") if (state := _state(path)) is not None]
        return max(found, key=lambda pair: pair[1]["global_step"], default=None)

    def best(self, state: Mapping[str, Any]) -> Path:
        """The checkpoint that validated best until `state`."""
        return self.folder / f"checkpoint-{state['best_global_step']}"

    def remove(self) -> None:
        """All of them, and the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def check_replaceable(out: Path) -> None:
    """Finish a replacement that was cut short, and refuse to replace what no training wrote.

    Raises:
        SettingsError: `out` is a file, or a folder of something else.
    """
    kept = _kept(out)
    if kept.exists() and not out.exists():
        kept.rename(out)
    written = any((out / name).is_file() for name in (CONFIG_FILE, NOTES_FILE))
    if out.exists() and not written and not (out.is_dir() and not any(out.iterdir())):
        raise SettingsError(f"{out} holds something that is not an expert or Memory model; choose another folder.")


def put_in_place(
    out: Path,
    write: Callable[[Path], None],
    *,
    remedy: str = "Its checkpoints are whole: make room, then train again with resume.",
) -> None:
    """Let `write` fill a folder, and make it `out`; an older `out` is whole until then, and gone after.

    Raises:
        TrainingError: it cannot be written; an older `out` is as it was. The message ends with `remedy`.
    """
    draft = out.with_name(f".{out.name}.draft")
    kept = _kept(out)
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write(draft)
        _make_durable(draft)
        shutil.rmtree(kept, ignore_errors=True)
        if out.exists():
            out.rename(kept)
        draft.rename(out)
        _sync(out.parent)
        shutil.rmtree(kept, ignore_errors=True)
    except OSError as error:
        if kept.exists() and not out.exists():
            kept.rename(out)
        raise TrainingError(f"The model cannot be written to {out}: {error}. {remedy}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _kept(out: Path) -> Path:
    return out.with_name(f".{out.name}.before")


def _state(checkpoint: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((checkpoint / _STATE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _make_durable(folder: Path) -> None:
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
