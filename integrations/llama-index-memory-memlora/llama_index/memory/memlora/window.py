"""How much of a chat history a model is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama_index.core.base.llms.types import ChatMessage

from .history import Entry
from .messages import by_person


class Window:
    """The end of a history: whole exchanges that fit into some room, and always the last one.

    Where it is full, as much is left out at once as makes room for what comes next: a server's cache of the
    conversation stays valid for a while.
    """

    def __init__(self, count_tokens: Callable[[ChatMessage], int]) -> None:
        self._count = count_tokens
        self._known: dict[str, int] = {}  # tokens of messages, by id
        self._first: str | None = None  # id of the first message that is shown
        self._placed: tuple[Sequence[Entry], int] | None = None  # where that is in the entries last seen

    def reset(self) -> None:
        """Begin with the first message again."""
        self._first = self._placed = None

    def is_full(self, entries: Sequence[Entry], room: int) -> bool:
        """Whether there is more than has room, and a place to cut it."""
        return any(_begins(entries, place) for place in range(len(entries))) and sum(self._tokens(entries)) > room

    def start(self, entries: Sequence[Entry], *, room: int, at_once: int) -> int:
        """Where the messages begin that are shown. `at_once`: tokens that are left out together, at least."""
        place = _place(entries, self._first) or 0
        costs = self._tokens(entries)
        over = sum(costs[place:]) - room
        if over <= 0:
            return place
        passed, start = 0, place
        for at in range(place, len(entries)):
            if at > place and _begins(entries, at):
                start = at
                if passed >= max(over, at_once):
                    break
            passed += costs[at]
        return start

    def move(self, entries: Sequence[Entry], *, room: int, at_once: int) -> tuple[int, Sequence[Entry]]:
        """`start`, for good; and what was shown before and is not from now on."""
        if self._placed is not None and self._placed[0] is entries:
            return self._placed[1], ()
        start = self.start(entries, room=room, at_once=at_once)
        before = _place(entries, self._first)
        self._first = entries[start].id if entries else None
        self._placed = entries, start
        return start, () if before is None else entries[before:start]

    def _tokens(self, entries: Sequence[Entry]) -> list[int]:
        known = self._known
        for entry in entries:
            if entry.id not in known:
                known[entry.id] = self._count(entry.message)
        return [known[entry.id] for entry in entries]


def _place(entries: Sequence[Entry], id: str | None) -> int | None:
    return next((place for place, entry in enumerate(entries) if entry.id == id), None)


def _begins(entries: Sequence[Entry], place: int) -> bool:
    """Whether an exchange begins there, after another."""
    return place > 0 and by_person(entries[place].message) and not by_person(entries[place - 1].message)
