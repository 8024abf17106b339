"""Figures without a display, as PNG files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .statistics import Interval


def available() -> bool:
    """Whether figures can be drawn here: matplotlib is installed."""
    return find_spec("matplotlib") is not None


def markdown(caption: str, file: str, *, drawn: bool) -> str:
    """The figure in a report, or how to get it where it was not `drawn`."""
    return (
        f"![{caption}]({file})" if drawn else "No figure: install matplotlib with pip install 'memlora-plugins[eval]'."
    )


def errors(intervals: Sequence[Interval]) -> list[list[float]]:
    """Error bars from means to both ends of their intervals, as matplotlib's `xerr` or `yerr` takes them."""
    return [
        [max(0.0, one.mean - one.low) for one in intervals],
        [max(0.0, one.high - one.mean) for one in intervals],
    ]


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
