"""How large a model or an adapter is, by the headers of its safetensors: nothing of the weights themselves is read."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ...errors import SettingsError
from ...memo.merging.weight_files import model_files
from ...serving.adapters import WEIGHTS_FILE, tensors

GB = 2**30
"""Bytes of a GB as the paper's Table 3 counts it: 1.54 billion parameters of 2 bytes are its 2.88."""


class Weights(BaseModel):
    """Weights as they are stored: `bytes` without the header, `stored_as` the dtypes as safetensors calls them.

    Where weights are quantised and packed, `parameters` counts the numbers that are stored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int
    bytes: int
    stored_as: tuple[str, ...]

    @property
    def gb(self) -> float:
        """In the paper's unit, `GB`."""
        return self.bytes / GB

    def __add__(self, other: Weights) -> Weights:
        return Weights(
            parameters=self.parameters + other.parameters,
            bytes=self.bytes + other.bytes,
            stored_as=tuple(sorted({*self.stored_as, *other.stored_as})),
        )


def model_weights(folder: str | Path) -> Weights:
    """Those of the model in `folder`, in one file or in several with an index.

    Raises:
        SettingsError: there is no such folder, or its safetensors cannot be read.
    """
    if not Path(folder).is_dir():
        raise SettingsError(f"There is no model folder {folder}. Pass the folder of a downloaded model.")
    return _counted(model_files(Path(folder)))


def adapter_weights(folder: str | Path) -> Weights:
    """Those of the LoRA adapter in `folder`.

    Raises:
        SettingsError: it has no readable safetensors.
    """
    return _counted([Path(folder) / WEIGHTS_FILE])


def _counted(files: Iterable[Path]) -> Weights:
    total = Weights(parameters=0, bytes=0, stored_as=())
    for path in files:
        try:
            with path.open("rb") as file:
                for entry in tensors(file).values():
                    begin, end = entry["data_offsets"]
                    total += Weights(parameters=prod(entry["shape"]), bytes=end - begin, stored_as=(entry["dtype"],))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise SettingsError(
                f"{path} is not a readable safetensors file: {error}. Download the model again, or save it with a "
                "current transformers."
            ) from error
    return total
