"""`memlora eval`: how good a memory is, measured."""

from __future__ import annotations

import typer

from . import eval_musique, eval_pipeline

app = typer.Typer(help="Measure how good a memory is.", no_args_is_help=True)

app.command()(eval_pipeline.pipeline)
app.command()(eval_musique.musique)


@app.callback()
def _group() -> None:
    """Measure how good a memory is."""
