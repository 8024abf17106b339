"""The commands, put together. Everything slow is imported inside the commands, so that `--help` is quick."""

from __future__ import annotations

import os
import warnings
from typing import Annotated

import typer

from . import chat, demo, distil, doctor, evaluate, memo, recall, remember, serve, train, transfer
from .output import tolerate_bytes

app = typer.Typer(
    name="memlora",
    help="Long-term memory for LLM agents that runs on small models.",
    epilog="Options can also be set as MEMLORA_* environment variables. Secrets only there: MEMLORA_API_KEY, "
    "MEMLORA_QDRANT_API_KEY, MEMLORA_EMBEDDER_API_KEY, MEMLORA_EXECUTIVE_API_KEY, "
    "MEMLORA_JUDGE_API_KEY, MEMLORA_VALIDATOR_API_KEY. "
    "Exit codes: 0 done, 1 an error with its remedy on stderr, "
    "2 wrong usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.command()(demo.demo)
app.command()(chat.chat)
app.command()(remember.add)
app.command()(recall.search)
app.command()(recall.answer)
app.command()(recall.facts)
app.command()(recall.history)
app.command()(remember.erase)
app.command()(transfer.export)
app.command("import")(transfer.import_)
app.command()(serve.serve)
app.command()(doctor.doctor)
app.command()(distil.distil)
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="eval")
app.add_typer(memo.app, name="memo")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("memlora-plugins"))
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, on stderr.")] = False,
) -> None:
    tolerate_bytes()
    warnings.simplefilter("ignore", FutureWarning)  # what libraries tell each other's developers
    os.environ.setdefault("TQDM_DELAY", "2")  # seconds: a bar of another library is worth showing only if it lasts
    if verbose:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
