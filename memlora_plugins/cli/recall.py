"""`memlora search`, `answer`, `facts` and `history`: reading what is remembered."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Json, Model, Place, Who, command, opened
from .output import console, facts_table, hits_table, print_json, versions_table, visible


@command
def search(
    *,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 10,
    json: Json = False,
    who: Who,
    place: Place,
) -> None:
    """Find facts and turns. Needs no model."""
    with opened(place, resume=False) as memory:
        hits = memory.search(query, scope=who.scope, limit=limit)
    if json:
        print_json(hits)
    elif hits:
        console().print(hits_table(f"{len(hits)} found for {who.scope}", hits))
    else:
        console().print(f"nothing found for {who.scope}")


@command
def answer(
    *,
    question: Annotated[str, typer.Argument(help="What to ask.")],
    json: Json = False,
    who: Who,
    place: Place,
    model: Model,
) -> None:
    """Answer a question from memory, with the generation expert."""
    with opened(place, model, resume=False) as memory:
        result = memory.answer(question, scope=who.scope)
    if json:
        print_json(result)
    else:
        typer.echo(visible(result.text))  # as it is: a console would wrap it where no terminal is


@command
def facts(
    *,
    all: Annotated[bool, typer.Option("--all", help="Also facts that were replaced or deleted.")] = False,
    json: Json = False,
    who: Who,
    place: Place,
) -> None:
    """List what is known of a person."""
    with opened(place, resume=False) as memory:
        known = memory.facts(scope=who.scope, retired=all)
    if json:
        print_json(known)
    elif known:
        console().print(facts_table(f"{len(known)} fact(s) of {who.scope}", known))
    else:
        console().print(f"no facts of {who.scope}")


@command
def history(
    *,
    id: Annotated[str, typer.Argument(help="A fact's id, of any version; see `memlora facts`.")],
    json: Json = False,
    who: Who,
    place: Place,
) -> None:
    """Show every version of a fact, oldest first."""
    with opened(place, resume=False) as memory:
        versions = memory.history(id, scope=who.scope)
    if json:
        print_json(versions)
    else:
        console().print(versions_table(f"{len(versions)} version(s)", versions))
