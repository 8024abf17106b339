"""`memlora chat`: a conversation that is remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ..errors import BackendNotConfiguredError, MemloraError
from ..types import Answer, Message, Scope, Token
from .options import Model, Place, Who, command, opened
from .output import complain, console, facts_table, hits_table, visible

if TYPE_CHECKING:
    from ..memory import Memory

_HELP = "/facts  /search WORDS  /erase  /quit (or Ctrl-D)"


@command
def chat(*, who: Who, place: Place, model: Model) -> None:
    """Talk; what you say is remembered. Without a model it only remembers and searches."""
    out = console()
    with opened(place, model) as memory:
        out.print(f"Memory of {who.scope}. {_HELP}")
        answers = memory.settings.has_model
        if not answers:
            out.print(
                "No model answers: lines are kept and searched, and facts wait to be "
                "distilled. Start with --base-url and --model (see `memlora serve --help`) for both."
            )
        while True:
            try:
                line = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                out.print()
                break
            if line == "/quit":
                break
            if not line:
                continue
            try:
                _reply(memory, who.scope, line, answers)
            except MemloraError as error:  # the conversation goes on; what was said is kept
                complain(f"error: {error}")
        _finish(memory, answers)


def _reply(memory: Memory, scope: Scope, line: str, answers: bool) -> None:
    out = console()
    words, _, rest = line.partition(" ")
    if words == "/facts":
        known = memory.facts(scope=scope)
        out.print(facts_table("what is known", known) if known else "nothing is known yet")
    elif words == "/search":
        out.print(hits_table("found", memory.search(rest, scope=scope)))
    elif words == "/erase":
        if typer.confirm(f"Erase everything remembered of {scope}?"):
            out.print(f"erased {memory.erase(scope=scope)} item(s)")
    elif words.startswith("/"):
        out.print(_HELP)
    elif answers:
        _converse(memory, scope, line)
    else:
        hits = memory.search(line, scope=scope, limit=3)
        memory.add([Message("user", line)], scope=scope)  # stays pending, for the day a model is there
        out.print(hits_table("kept; the closest so far", hits) if hits else "kept")


def _converse(memory: Memory, scope: Scope, line: str) -> None:
    """Answer from memory, then remember both lines; the person's is kept even if the model fails."""
    said = [Message("user", line)]
    try:
        for event in memory.stream(line, scope=scope):
            if isinstance(event, Token):
                typer.echo(visible(event.text), nl=False)
            elif isinstance(event, Answer):
                typer.echo()
                said.append(Message("assistant", event.text))
    finally:
        memory.add(said, scope=scope, wait=False)


def _finish(memory: Memory, answers: bool) -> None:
    """Let the background finish distilling for a moment; the rest is resumed by the next start."""
    if not answers:
        return
    err = console(stderr=True)
    with err.status("distilling what was said (Ctrl-C leaves the rest for the next start)"):
        try:
            result = memory.flush()
        except (KeyboardInterrupt, BackendNotConfiguredError):
            return
    for failure in result.errors:
        complain(f"warning: {failure}")
