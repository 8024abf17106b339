"""Looking at single facts and changing them by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from ..errors import InvalidInputError, NotFoundError, RetiredError
from ..store.base import Change, FactStore, Retirement
from ..types import Fact, Operation, Scope, Turn, clean_text, fact_id
from .effects import Embed, Flow

if TYPE_CHECKING:
    from .remember import Rules


def get(store: FactStore, scope: Scope, id: str) -> Flow[Fact | Turn]:
    """The fact, of whatever version, or the turn with this id.

    Raises:
        NotFoundError: there is none in this scope.
    """
    found = yield from store.get(scope, id)
    if found is None:
        raise NotFoundError(f"No fact or turn {id!r} in scope {scope}.")
    return found


def history(store: FactStore, scope: Scope, id: str) -> Flow[list[Fact]]:
    """Every version of the fact `id` belongs to, oldest first.

    Raises:
        NotFoundError: no such fact in this scope.
    """
    start = yield from _fact(store, scope, id)
    versions = {start.id: start}
    edge = [start.id]
    while edge:  # back in time; several old facts may have been replaced by one
        older = yield from store.superseded(scope, edge)
        edge = [fact.id for fact in older if fact.id not in versions]
        versions.update((fact.id, fact) for fact in older)
    newest = start
    while newest.superseded_by and newest.superseded_by not in versions:
        found = yield from store.get(scope, newest.superseded_by)
        if not isinstance(found, Fact):
            break
        newest = versions[found.id] = found
    return sorted(versions.values(), key=lambda fact: (fact.valid_from, fact.recorded_at, fact.version))


def edit(store: FactStore, scope: Scope, id: str, text: str, rules: Rules) -> Flow[Fact]:
    """Replace a fact's text by hand; the old version stays in its history. Returns the new version, or the fact that
    said exactly this already.

    Raises:
        NotFoundError: no such fact. RetiredError: `id` is an old version. ConflictError: it changed meanwhile.
        InvalidInputError: blank text.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError("The new text is blank; use delete() to retire a fact.")
    old = yield from _current(store, scope, id)
    text = clean_text(text).strip()
    if text == old.text:
        return old
    vectors = yield from Embed([rules.compared(text, edited=old.text)])
    now = rules.clock()
    new = replace(
        old,
        id=fact_id(f"{old.id}:{old.version}", text),
        text=text,
        valid_from=now,
        recorded_at=now,
        operation="UPDATE",
        version=old.version + 1,
        metadata={**old.metadata, "edited": True},
    )
    retirement = _retirement(old, now, "UPDATE", new.id)
    yield from store.commit(old.scope, Change(add=((new, vectors[0]),), retire=(retirement,)))
    return (yield from as_kept(store, [new]))[0]


def delete(store: FactStore, scope: Scope, id: str, rules: Rules) -> Flow[Fact]:
    """Retire a fact: search no longer sees it, history does. `erase` is what removes physically.

    Raises:
        NotFoundError, RetiredError, ConflictError: as `edit`.
    """
    old = yield from _current(store, scope, id)
    retirement = _retirement(old, rules.clock(), "DELETE", None)
    yield from store.commit(old.scope, Change(retire=(retirement,)))
    return replace(old, retired_at=retirement.retired_at, retired_by="DELETE", valid_to=retirement.valid_to)


def forget(store: FactStore, scope: Scope, id: str, rules: Rules) -> Flow[list[Fact | Turn]]:
    """Leave a fact, of whatever version, and what it was told with out of search: the current version is retired, and
    the turns that all its versions came from are forgotten. Or a single turn. Returns what was changed.

    Other facts of the same turns stay, and so do the records: `erase` is what removes physically.

    Raises:
        NotFoundError: no such fact or turn. ConflictError: the fact changed meanwhile.
    """
    found = yield from get(store, scope, id)
    if isinstance(found, Turn):
        return list((yield from store.forget(scope, [id])))
    line = yield from history(store, scope, id)
    known = {fact.id for fact in line}
    newest = next((fact for fact in line if fact.superseded_by not in known), found)
    versions = yield from history(store, scope, newest.id)  # with all that was merged into it
    turns = yield from store.forget(scope, [fact.id for fact in versions])  # first: what is broken off is done again
    retired: list[Fact | Turn] = []
    for fact in versions:
        if not fact.retired:
            retired += [(yield from delete(store, scope, fact.id, rules))]
    return retired + turns


def as_kept(store: FactStore, new: Sequence[Fact]) -> Flow[list[Fact]]:
    """Facts that were just committed, as the store has them: one that said the same already stands for a new one."""
    kept = {fact.id: fact for fact in new}
    current = [fact for fact in new if not fact.retired]
    for owner in dict.fromkeys(fact.scope for fact in current):
        mine = [fact for fact in current if fact.scope == owner]
        found = yield from store.same_text(owner, [fact.text for fact in mine])
        for fact, same in zip(mine, found, strict=True):
            if same is not None and same.id != fact.id and same.scope == owner:
                kept[fact.id] = same
    return list(kept.values())


def _retirement(old: Fact, now: datetime, by: Operation, superseded_by: str | None) -> Retirement:
    return Retirement(
        id=old.id,
        version=old.version,
        retired_by=by,
        retired_at=now,
        valid_to=now,
        superseded_by=superseded_by,
    )


def _fact(store: FactStore, scope: Scope, id: str) -> Flow[Fact]:
    found = yield from store.get(scope, id)
    if not isinstance(found, Fact):
        raise NotFoundError(f"No fact {id!r} in scope {scope}.")
    return found


def _current(store: FactStore, scope: Scope, id: str) -> Flow[Fact]:
    fact = yield from _fact(store, scope, id)
    if not fact.retired:
        return fact
    newest, seen = fact, {fact.id}
    while newest.superseded_by and newest.superseded_by not in seen:
        following = yield from store.get(scope, newest.superseded_by)
        if not isinstance(following, Fact):
            break
        newest = following
        seen.add(newest.id)
    if newest.retired:
        raise RetiredError(f"Fact {id} was deleted; nothing took its place.", current_id=None)
    raise RetiredError(f"Fact {id} is an old version; the current one is {newest.id}.", current_id=newest.id)
