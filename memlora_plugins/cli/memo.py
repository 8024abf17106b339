"""`memlora memo`: a corpus becomes a Memory model, which is asked."""

from __future__ import annotations

import typer

from . import memo_ask, memo_merge, memo_synthesize, memo_train

app = typer.Typer(help="Make a corpus into a small Memory model, and ask it.", no_args_is_help=True)

app.command()(memo_synthesize.synthesize)
app.command()(memo_synthesize.report)
app.command()(memo_train.train)
app.command()(memo_ask.ask)
app.command()(memo_ask.serve)
app.command()(memo_ask.calibrate)
app.command()(memo_merge.merge)
app.command()(memo_merge.update)


@app.callback()
def _group() -> None:
    """Make a corpus into a small Memory model, and ask it."""
