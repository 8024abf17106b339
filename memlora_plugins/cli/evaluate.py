"""`memlora eval`: how good a memory is, measured."""

from __future__ import annotations

import typer

from . import eval_efficiency, eval_locomo, eval_memo, eval_musique, eval_pipeline, eval_retrieval, eval_vqa

app = typer.Typer(help="Measure how good a memory is.", no_args_is_help=True)

app.command()(eval_pipeline.pipeline)
app.command()(eval_locomo.locomo)
app.command()(eval_musique.musique)
app.command()(eval_memo.memo)
app.command()(eval_efficiency.efficiency)
app.command()(eval_retrieval.retrieval)
app.add_typer(eval_vqa.app, name="vqa")


@app.callback()
def _group() -> None:
    """Measure how good a memory is."""
