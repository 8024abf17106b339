"""How things are printed: tables for people, JSON for programs. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import MemloraError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from ..types import AddResult, Fact, FactEvent, Hit


def jsonable(value: Any) -> Any:
    """`value` in JSON's own types: dataclasses as objects, times as ISO 8601, errors as their text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: jsonable(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [jsonable(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, MemloraError):
        return {"type": type(value).__name__, "message": str(value)}
    return str(value) if isinstance(value, Path) else value


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json_text(jsonable(value), indent=2))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON for stdout: escaped where stdout cannot show every character, so that nothing is lost."""
    anything = (sys.stdout.encoding or "").lower().startswith("utf")
    return json.dumps(value, ensure_ascii=not anything, indent=indent)


def tolerate_bytes() -> None:
    """Characters that a standard stream cannot carry are replaced instead of ending the command."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def complain(line: str) -> None:
    """One line on stderr."""
    typer.echo(visible(" ".join(line.split())), err=True)


def visible(text: str) -> str:
    """`text` without control characters other than line breaks and tabs: what is remembered never steers a terminal."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs") else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def console(*, stderr: bool = False) -> Console:
    """A rich console that prints text as it is: no markup, no emoji codes, no guessed highlights."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=False)


def progress() -> Progress:
    """A progress bar on stderr that disappears when done; silent where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    err = console(stderr=True)
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def table(title: str, *columns: str) -> Table:
    """An empty table; the last column takes the room that is left."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    for name in columns[:-1]:
        made.add_column(name, no_wrap=True)
    made.add_column(columns[-1], ratio=1, overflow="fold")
    return made


def day(moment: datetime | None) -> str:
    """A date for people, or nothing."""
    return "" if moment is None else f"{moment:%Y-%m-%d}"


def hits_table(title: str, hits: Sequence[Hit]) -> Table:
    """What a search found, best first."""
    made = table(title, "score", "kind", "date", "text")
    for hit in hits:
        speaker = f"{hit.name or hit.role}: " if hit.kind == "turn" else ""
        made.add_row(f"{hit.score:.2f}", hit.kind, day(hit.created_at), visible(speaker + hit.text))
    return made


def facts_table(title: str, facts: Sequence[Fact]) -> Table:
    """Facts, one a row; a retired one says what became of it."""
    made = table(title, "id", "since", "until", "text")
    for fact in facts:
        until = day(fact.valid_to or fact.retired_at) if fact.retired else ""
        made.add_row(fact.id, day(fact.valid_from), until, visible(fact.text))
    return made


def versions_table(title: str, facts: Sequence[Fact]) -> Table:
    """The versions of one fact in the order given."""
    made = table(title, "operation", "valid from", "valid to", "recorded", "retired by", "text")
    for fact in facts:
        made.add_row(
            fact.operation,
            day(fact.valid_from),
            day(fact.valid_to),
            day(fact.recorded_at),
            fact.retired_by or "",
            visible(fact.text),
        )
    return made


def event_line(event: FactEvent) -> str:
    """One line on what happened to a fact."""
    line = f"{event.operation:<6} {event.fact.text}"
    if event.previous is not None and event.previous.text != event.fact.text:
        line += f"  (was: {event.previous.text})"
    return visible(line)


def added(result: AddResult) -> Sequence[str]:
    """What `add` did, line by line."""
    lines = [f"kept {len(result.turns)} new turn(s)"]
    lines += [event_line(event) for event in result.events]
    if result.pending:
        lines.append(f"{len(result.pending)} turn(s) still to distil; they are searchable already")
    return lines
