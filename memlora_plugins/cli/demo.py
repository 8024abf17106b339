"""`memlora demo`: an example conversation, remembered, searched and asked about, with nothing to download."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..types import AddResult, Fact, Hit, Scope
from .demo_conversation import PERSON, QUESTIONS, SESSIONS, Session
from .options import Json, Model, adapters, command
from .output import complain, console, day, event_line, print_json, progress, table, versions_table, visible

if TYPE_CHECKING:
    from rich.table import Table

    from ..memory import Memory

_SCOPE = Scope("maya", agent_id="memlora-demo")
_STRANGER = Scope("somebody-else", agent_id="memlora-demo")
_SHOWN = 3  # hits shown for a question


@dataclass(frozen=True, slots=True)
class _Asked:
    question: str
    hits: list[Hit]
    answer: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """Everything the demo has to show."""

    parts: str
    sessions: list[AddResult]
    facts: list[Fact]
    asked: list[_Asked]
    history: list[Fact]
    counts: dict[str, int]
    stranger: list[Hit]


@command
def demo(
    *,
    path: Annotated[
        Path | None, typer.Option(help="A folder to keep the memory in.", show_default="a temporary one")
    ] = None,
    json: Json = False,
    model: Model,
) -> None:
    """Remember an example conversation and show what was kept and found. Offline unless --base-url is given."""
    with ExitStack() as stack:
        folder = path or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memlora-demo-")))
        memory = stack.enter_context(_memory(folder, model))
        if not json:
            _introduce(repr(memory))
        seen = _play(memory)
    if json:
        print_json(seen)
    else:
        _show(seen)
        if path is not None:
            console().print(f'The memory is kept: memlora search "tennis" --user {_SCOPE.user_id} --path {path}')
    for failure in (failure for result in seen.sessions for failure in result.errors):
        complain(f"warning: {failure}")


def _memory(folder: Path, model: Model) -> Memory:
    """A memory for the demo, in `folder` whatever the environment says."""
    from ..core import build_backend, build_embedder, fitted
    from ..memory import Memory
    from ..serving.unconfigured import not_configured
    from ..settings import load_settings
    from ..store.edge import EdgeFactStore

    settings = fitted(
        load_settings(
            path=folder,
            resume=False,
            base_url=model.base_url,
            api=model.api,
            model=model.model,
            adapters=adapters(model.adapter),
        )
    )
    if not settings.has_model:
        raise not_configured("extraction")
    return Memory(
        backend=build_backend(settings),
        store=EdgeFactStore(folder),
        embedder=build_embedder(settings),
        settings=settings,
    )


def _play(memory: Memory) -> _Seen:
    sessions = []
    with progress() as bar:
        for session in bar.track(SESSIONS, description="remembering"):
            scope = Scope(_SCOPE.user_id, _SCOPE.agent_id, session.id)
            sessions.append(memory.add(session.messages(), scope=scope))
        asked = [
            _Asked(
                question,
                memory.search(question, scope=_SCOPE, limit=_SHOWN),
                memory.answer(question, scope=_SCOPE).text,
            )
            for question in bar.track(QUESTIONS, description="asking")
        ]
    facts = memory.facts(scope=_SCOPE)
    updated = next((fact for fact in facts if fact.version > 1), None)
    return _Seen(
        parts=repr(memory),
        sessions=sessions,
        facts=facts,
        asked=asked,
        history=memory.history(updated.id, scope=_SCOPE) if updated else [],
        counts=memory.count(scope=_SCOPE),
        stranger=memory.search(QUESTIONS[0], scope=_STRANGER),
    )


def _introduce(parts: str) -> None:
    from rich.panel import Panel

    text = f"{PERSON} and an assistant talk in {len(SESSIONS)} sessions from January to June 2025.\n\n{parts}"
    console().print(Panel(text, title="memlora demo", title_align="left"))


def _show(seen: _Seen) -> None:
    out = console()
    lines = sum(len(session.lines) for session in SESSIONS)
    out.print(f"{2 * lines} turns. What was remembered:\n")
    for session, result in zip(SESSIONS, seen.sessions, strict=True):
        out.print(_session_table(session, result), "")
    counts = seen.counts
    out.print(
        f"In the store now: {counts['turns']} turns, {counts['facts']} current facts, {counts['retired']} retired "
        f"versions, {counts['pending']} turns still to distil.\n"
    )
    for asked in seen.asked:
        out.print(_asked_table(asked), "")
    if seen.history:
        out.print(versions_table("History of a fact that changed: nothing is overwritten", seen.history), "")
    found = f"{len(seen.stranger)} hits" if seen.stranger else "nothing"
    out.print(f"The first question, asked in the name of another user, finds {found}.")


def _session_table(session: Session, result: AddResult) -> Table:
    made = table(f"{day(session.start)}: {len(session.lines)} lines of {PERSON}", "", "fact")
    for event in result.events:
        operation, _, text = event_line(event).partition(" ")
        made.add_row(operation, text.strip())
    return made


def _asked_table(asked: _Asked) -> Table:
    made = table(visible(asked.question), "found", "date", "text")
    for hit in asked.hits:
        made.add_row(hit.kind, day(hit.created_at), visible(hit.text))
    made.add_section()
    made.add_row("answer", "", visible(asked.answer), style="bold")
    return made
