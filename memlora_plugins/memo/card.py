"""What a Memory model's folder says of itself: the documents in its weights, what it recalls, when it is unsure.

It is the part `"memo"` of `memlora.json`, beside whatever training or merging noted there. Weights cannot be erased:
who wants a document forgotten has to know which models were trained on it, and this is where that stands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import SettingsError
from ..files import write_whole
from ..rows import read_rows
from ..serving.adapters import NOTES_FILE

_PART = "memo"


class TrainedDocument(BaseModel):
    """A document that a Memory model was trained on. `sha256` is the hash of its text, None where nobody gave it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    title: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


def read_trained_documents(path: Path | str) -> list[TrainedDocument]:
    """The documents of a JSONL file, as synthesis writes them beside its reflections.

    Raises:
        DatasetError: the file cannot be read, is empty, or a line is no such document; the message says which line.
    """
    return read_rows(path, TrainedDocument, 'is empty. A line is {"id": "…", "title": "…", "sha256": "…"}.')


class Recall(BaseModel):
    """How many of `questions` were answered: with a right answer in what was said, and with nothing else beside it.

    Both are shares, 0 to 1, of normalised words as `evaluation.metrics` compares them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int = Field(ge=0)
    contained: float = Field(ge=0, le=1)
    exact: float = Field(ge=0, le=1)


class RecallAt(BaseModel):
    """What was recalled after `step` training steps (`epoch` epochs), in all and by kind of question."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    epoch: float
    overall: Recall
    kinds: dict[str, Recall]


class HeldOutRecall(BaseModel):
    """Held-out questions, measured in training. `best` is what the weights recall that were kept.

    `sha256` is the hash of the questions, as a file of them would have it; `history` has every measurement.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    questions: int
    best: RecallAt
    history: tuple[RecallAt, ...]


class MemoCard(BaseModel):
    """What is known of a Memory model; what other versions of this library noted besides is kept.

    `documents` are those it was trained on. It says "I don't know" where it is less sure than `abstain_below` (None: it
    always answers). `held_out` is None where nothing was held out. `merged_from` says what it was merged from, or is
    None.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    documents: tuple[TrainedDocument, ...] = ()
    abstain_below: float | None = None
    held_out: HeldOutRecall | None = None
    merged_from: tuple[dict[str, Any], ...] | None = None

    def row(self) -> dict[str, Any]:
        """The card as JSON has it. `merged_from` is there only in a merged model."""
        row = self.model_dump(mode="json")
        if self.merged_from is None:
            del row["merged_from"]
        return row


def read_card(folder: Path | str) -> MemoCard:
    """The card of the Memory model in `folder`.

    Raises:
        SettingsError: the folder has none, or it cannot be read.
    """
    file = Path(folder).expanduser() / NOTES_FILE
    part = _notes(file).get(_PART)
    if part is None:
        raise SettingsError(
            f"{folder} is no Memory model: nothing there says what documents it was trained on. "
            "`memlora memo train` and `memlora memo merge` write that."
        )
    try:
        return MemoCard.model_validate(part)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (_PART, *first["loc"])))
        raise SettingsError(f"{file}: {where}: {first['msg']}. Restore the file, or train the model again.") from error


def write_card(folder: Path | str, card: MemoCard) -> None:
    """Replace the card of the Memory model in `folder`, and leave what else `memlora.json` says as it is.

    Raises:
        SettingsError: what is there cannot be read.
        OSError: it cannot be written; an older card is as it was.
    """
    file = Path(folder).expanduser() / NOTES_FILE
    notes = _notes(file) | {_PART: card.row()}
    write_whole(file, json.dumps(notes, indent=2, ensure_ascii=False) + "\n")


def _notes(file: Path) -> dict[str, Any]:
    try:
        notes = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}. Restore it, or train the model again.") from error
    if not isinstance(notes, dict):
        raise SettingsError(f"{file} must hold a JSON object. Restore it, or train the model again.")
    return notes
