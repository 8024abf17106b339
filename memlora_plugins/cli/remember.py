"""`memlora add` and `memlora erase`."""

from __future__ import annotations

import sys
import uuid
from enum import StrEnum
from typing import Annotated

import typer

from ..conversation_file import moment
from ..types import Message
from .options import Json, Model, Place, Who, command, opened
from .output import added, complain, console, print_json


class Role(StrEnum):
    """Who said it."""

    user = "user"
    assistant = "assistant"
    system = "system"
    tool = "tool"


@command
def add(
    *,
    text: Annotated[str, typer.Argument(help="What was said; - reads standard input.")],
    role: Annotated[Role, typer.Option(help="Who said it.")] = Role.user,
    name: Annotated[str | None, typer.Option(help="The speaker's name.")] = None,
    at: Annotated[str | None, typer.Option(help="When, ISO 8601; UTC unless it says otherwise. Default: now.")] = None,
    id: Annotated[str | None, typer.Option(help="The message's id: adding it again changes nothing.")] = None,
    no_distil: Annotated[bool, typer.Option("--no-distil", help="Keep the words only, distil no facts.")] = False,
    json: Json = False,
    who: Who,
    place: Place,
    model: Model,
) -> None:
    """Remember one message. It is kept even when the model fails: then its facts are distilled later."""
    said = sys.stdin.read() if text == "-" else text
    message = Message(role.value, said, id=id or str(uuid.uuid4()), name=name, created_at=moment(at))
    with opened(place, model, resume=False) as memory:
        result = memory.add([message], scope=who.scope, wait=True, distil=not no_distil)
    if json:
        print_json(result)
    else:
        for line in added(result):
            console().print(line)
    for failure in result.errors:
        complain(f"warning: {failure}")


@command
def erase(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    who: Who,
    place: Place,
) -> None:
    """Remove a person's turns, facts and history physically. With --session: that conversation only."""
    if not yes:
        typer.confirm(f"Erase everything remembered of {who.scope}? This cannot be undone.", abort=True, err=True)
    with opened(place, resume=False) as memory:
        count = memory.erase(scope=who.scope)
    if json:
        print_json({"erased": count})
    else:
        console().print(f"erased {count} item(s) of {who.scope}")
