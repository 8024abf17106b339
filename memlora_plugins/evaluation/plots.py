"""Figures without a display, as PNG files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; it draws without a display, whatever backend the process has chosen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, file: Path) -> None:
    """Write a figure as PNG.

    Raises:
        OSError: the file cannot be written; one that was there before is unchanged.
    """
    draft = file.with_name(f".{file.name}.draft")
    try:
        made.savefig(draft, format="png", dpi=120)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
