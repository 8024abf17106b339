"""`memlora export` and `memlora import`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..conversation_file import chat_message, is_export, rows
from ..errors import InvalidInputError, NotFoundError
from ..types import Message, Scope
from .options import Json, Model, Place, Who, command, explicit, opened
from .output import complain, console, json_text, print_json, progress

if TYPE_CHECKING:
    from ..memory import Memory

_ROWS = 256  # exported rows brought in at once
_TURNS = 64  # turns embedded and written at once
_DISTILLED = 8  # turns distilled at once: what is lost of the progress when an import is interrupted


@command
def export(
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file instead of standard output.")] = None,
    who: Who,
    place: Place,
) -> None:
    """Write a person's turns and facts, every version, as JSONL. `memlora import` reads it back."""
    import json

    with opened(place, resume=False) as memory:
        exported = memory.export(scope=who.scope)
        if output is None:
            for row in exported:
                typer.echo(json_text(row))
            return
        try:
            with output.open("w", encoding="utf-8") as file:
                written = sum(1 for row in exported if file.write(json.dumps(row, ensure_ascii=False) + "\n"))
        except OSError as error:
            raise InvalidInputError(f"{output} cannot be written: {error.strerror}.") from error
    complain(f"wrote {written} rows to {output}")


@dataclass(frozen=True, slots=True)
class _Imported:
    """What an import did."""

    read: int = 0
    new: int = 0
    facts: int = 0
    pending: int = 0
    errors: tuple[str, ...] = ()


@command
def import_(
    *,
    file: Annotated[
        Path | None,
        typer.Argument(help='JSONL: exported rows, or {"role", "content", …} per line.', show_default=False),
    ] = None,
    locomo: Annotated[
        Path | None, typer.Option(help="A LoCoMo file; --user names the conversation by its sample_id.")
    ] = None,
    distil: Annotated[
        bool | None,
        typer.Option("--distil/--no-distil", help="Distil facts too. Default: if --model names one."),
    ] = None,
    json: Json = False,
    who: Who,
    place: Place,
    model: Model,
) -> None:
    """Bring in conversations or exported rows. What is there already stays, so a broken import can be repeated."""
    if (file is None) == (locomo is None):
        raise typer.BadParameter("give either a FILE or --locomo FILE")
    from ..settings import load_settings

    settings = load_settings(**explicit(place, model))
    named = settings.model is not None and settings.has_model
    wanted = named if distil is None else distil
    if distil is None and settings.model is None:
        then = "nano does it (see its card)" if settings.has_model else "they wait for one: `memlora doctor --flush`"
        complain(
            "note: no model is named, so turns are kept and searchable, but no facts are distilled. "
            f"With --distil, {then}."
        )
    with opened(place, model, resume=False) as memory:
        if locomo is not None:
            done = _add(memory, who.scope, _locomo(locomo, who.scope), wanted)
        else:
            done = _import_file(memory, who.scope, Path(file or ""), wanted)
    if json:
        print_json(done)
    else:
        console().print(f"read {done.read}, new {done.new}, facts changed {done.facts}, still to distil {done.pending}")
    for error in done.errors:
        complain(f"warning: {error}")


def _import_file(memory: Memory, scope: Scope, file: Path, distil: bool) -> _Imported:
    found = list(rows(file))
    if not found:
        return _Imported()
    if not is_export(found[0][1]):
        return _add(memory, scope, [(scope, chat_message(file, number, row)) for number, row in found], distil)
    done = _Imported()
    with progress() as bar:
        for batch in _batches(bar.track(found, description="importing rows"), _ROWS):
            new = memory.load((row for _, row in batch), scope=scope)
            done = replace(done, read=done.read + len(batch), new=done.new + new)
    return done


def _add(memory: Memory, scope: Scope, messages: Sequence[tuple[Scope, Message]], distil: bool) -> _Imported:
    """Add in order, a session at a time: facts are distilled against what the earlier turns left."""
    done = _Imported()
    scope = scope.without_session()
    before = memory.count(scope=scope)["turns"]
    with progress() as bar:
        task = bar.add_task("distilling turns" if distil else "keeping turns", total=len(messages))
        for session, group in itertools.groupby(messages, key=lambda pair: pair[0]):
            for batch in _batches(group, _DISTILLED if distil else _TURNS):
                result = memory.add([message for _, message in batch], scope=session, wait=True, distil=distil)
                done = _Imported(
                    read=done.read + len(batch),
                    facts=done.facts + len([event for event in result.events if event.operation != "NONE"]),
                    pending=done.pending + len(result.pending),
                    errors=tuple(dict.fromkeys((*done.errors, *(str(failure) for failure in result.errors)))),
                )
                bar.advance(task, len(batch))
    return replace(done, new=memory.count(scope=scope)["turns"] - before)


def _locomo(file: Path, scope: Scope) -> list[tuple[Scope, Message]]:
    """The conversation whose sample_id is the user, each session of it under its own id."""
    from ..evaluation import locomo

    conversations = {conversation.sample_id: conversation for conversation in locomo.load(file)}
    if scope.user_id not in conversations:
        raise NotFoundError(f"No conversation {scope.user_id!r} in {file}; it has {', '.join(conversations)}.")
    said = locomo.messages(conversations[scope.user_id])
    return [(replace(scope, session_id=session), message) for session, message in said]


def _batches(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch
