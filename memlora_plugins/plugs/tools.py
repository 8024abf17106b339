"""Memory in an agent's own hands: what the three tools are called, take and do. Each is a flow to a `Done`.

Whose memory it is, the application says: no tool takes a user as an argument, and what a model makes up besides the
arguments is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ..errors import ClosedError, ForkedError, MemloraError, ScopeError
from ..experts.generation import memory_line
from ..experts.wording import mark_injected
from ..flows.effects import Flow
from ..memory import Memory
from ..types import AddResult, Fact, Hit, Scope, Turn
from .doors import through

APPLICATION_ERRORS = (ScopeError, ClosedError, ForkedError)
"""What a model cannot do anything about."""


class Done(NamedTuple):
    """What the model reads, and what the program gets."""

    told: str
    result: Any


class SearchArguments(BaseModel):
    """What a model passes to `search_memory`."""

    model_config = ConfigDict(extra="ignore")

    query: str = Field(description="What to look for, in plain words.", min_length=1)
    limit: int = Field(default=10, description="How many memories at most.", ge=1, le=50)


class SaveArguments(BaseModel):
    """What a model passes to `save_memory`."""

    model_config = ConfigDict(extra="ignore")

    text: str = Field(
        description="One statement about the person that is understood by itself: with names and dates, without "
        "'she', 'there' or 'tomorrow'.",
        min_length=1,
    )


class ForgetArguments(BaseModel):
    """What a model passes to `forget_memory`."""

    model_config = ConfigDict(extra="ignore")

    memory_ids: list[str] = Field(description="Ids of memories, as search_memory gives them.", min_length=1)


SEARCH = (
    "Look up what is remembered of the person you are talking with, from this and all earlier conversations. "
    "Each line begins with the id of the memory and its date. Where two lines disagree, the later one is true now."
)
SAVE = (
    "Note one thing about the person that will matter in later conversations. It is compared with what is known: "
    "it may replace an older memory, or be known already."
)
FORGET = (
    "Forget memories that the person wants forgotten, or that are wrong. Look them up with search_memory first and "
    "name every one that tells of it."
)


def search(memory: Memory, scope: Scope, asked: SearchArguments) -> Flow[Done]:
    """Looks something up; the result is the list of hits."""
    hits: list[Hit] = yield from through(memory, lambda door: door.search(asked.query, scope=scope, limit=asked.limit))
    lines = "\n".join(f"{hit.id} {memory_line(hit)}" for hit in hits)
    return Done(mark_injected(lines) if hits else "Nothing is remembered about that.", hits)


def save(memory: Memory, scope: Scope, asked: SaveArguments, *, wait: bool = True) -> Flow[Done]:
    """Notes a statement as it stands; the result is the `AddResult`.

    `wait=False`: it is compared with what is known in the background, and the model is only told that it is kept.
    """
    result: AddResult = yield from through(memory, lambda door: door.note(asked.text, scope=scope, wait=wait))
    changed = [event.fact.text for event in result.events if event.operation in ("ADD", "UPDATE")]
    if changed:
        return Done(f"Saved: {' '.join(changed)}", result)
    return Done("Known already." if result.events else "Kept; it will be found a little later.", result)


def forget(memory: Memory, scope: Scope, asked: ForgetArguments) -> Flow[Done]:
    """Leaves memories out of search, with the words they came from; the result lists the ids. The records stay:
    `Memory.erase` is for the application, not for a model.

    Raises:
        MemloraError: none of them could be forgotten.
    """
    gone: dict[str, str] = {}
    failed: list[str] = []
    for id in asked.memory_ids:
        try:
            forgotten: Sequence[Fact | Turn] = yield from through(memory, partial(_forget, id=id, scope=scope))
        except APPLICATION_ERRORS:
            raise
        except MemloraError as error:
            failed.append(str(error))
        else:
            gone.update((item.id, item.text) for item in forgotten if isinstance(item, Fact) or item.role != "tool")
    if failed and not gone:
        raise MemloraError(" ".join(failed))
    return Done(" ".join([f"Forgotten: {len(gone)} memories.", *failed]), list(gone))


def _forget(door: Any, *, id: str, scope: Scope) -> Any:
    return door.forget(id, scope=scope)


def told_events(result: AddResult) -> list[dict[str, str]]:
    """What became of facts, for a program or a trace."""
    return [{"operation": event.operation, "id": event.fact.id, "text": event.fact.text} for event in result.events]
