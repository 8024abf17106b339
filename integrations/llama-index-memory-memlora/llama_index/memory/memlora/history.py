"""The messages of one session, in order, as the memory keeps them.

They are turns in the store, never rewritten. Where a program sets or resets a chat history, a mark says which messages
it consists of from then on; what was said before stays remembered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from llama_index.core.base.llms.types import ChatMessage

from memlora_plugins import AddResult, Memory, Message, Scope, Turn
from memlora_plugins.flows.effects import Flow
from memlora_plugins.plugs.doors import UNAVAILABLE, through

from .events import warn
from .messages import as_message, from_kept, is_reply, is_spoken, same

_MARK = "llama_index_history"  # key of a mark's metadata: JSON list of message ids
_FEWEST, _FACTOR = 4, 4  # turns read at first, and how many times more if that is too few
_MOST_LEFT = 50  # turns of earlier processes that are distilled with an exchange


class Entry(NamedTuple):
    """A message of the session, with the id that its turn is known by; `spoken` if a search can find it."""

    id: str
    message: ChatMessage
    spoken: bool


class History:
    """What was said in a session, as its turns in the store tell it: several processes may add to it.

    While the store is out of reach, what is known of it is shown, and new messages wait here for the next write.
    """

    def __init__(self, memory: Memory, scope: Scope) -> None:
        self.memory = memory
        self.scope = scope
        self._log: list[Turn] = []  # the latest turns: as they were last read, and as they were written since
        self._read = 0  # how many of them were read
        self._whole = False  # whether the first of the session is among them
        self._places: dict[str, int] = {}  # where each is, by turn id
        self._made: dict[str, Entry] = {}  # by turn id
        self._view: tuple[list[Entry], bool] | None = None  # what the log says
        self._unkept: list[Message] = []
        self._open: list[Message] | None = None  # kept and not handed on to be distilled; None: the store knows

    def known(self) -> list[Entry]:
        """The messages as they were last read, and what was added here since."""
        return self._entries()[0]

    def read(
        self, enough: Callable[[Sequence[Entry]], bool] = lambda entries: False, *, everything: bool = False
    ) -> Flow[list[Entry]]:
        """The messages of the history, in order; only the latest where those are `enough`.

        It begins where it was last set or reset; with `everything` all turns of the session are read all the same.
        """
        if self._unkept:  # the store did not answer just now
            return self.known()
        size = _FEWEST + len(self._log) - self._read
        try:
            while True:
                newest: list[Turn] = yield from through(self.memory, partial(_newest, scope=self.scope, limit=size))
                self._heed(newest[::-1], first_is_there=len(newest) < size)
                entries, complete = self._entries()
                if self._whole or ((complete or enough(entries)) and not everything):
                    return entries
                size = max(size, len(self._log)) * _FACTOR
        except UNAVAILABLE as error:
            warn("history", error)
            return self.known()

    def _heed(self, newest: list[Turn], *, first_is_there: bool) -> None:
        """Bring the log up to date with the latest turns, which may begin with the session's first.

        They tell all that is new if they reach back to what was read before. What was written here since does not
        count: others may have written in between.
        """
        ids = [turn.id for turn in newest]
        place = 0 if first_is_there else self._places.get(ids[0], self._read)
        anchored = first_is_there or place < self._read
        before = place if anchored else 0
        if not anchored or ids != [turn.id for turn in self._log[before:]]:
            self._log = self._log[:before] + newest
            self._places = {turn.id: place for place, turn in enumerate(self._log)}
            self._view = None
        self._read = len(self._log)
        self._whole = first_is_there or (anchored and self._whole)

    def add(self, messages: Sequence[ChatMessage], *, wait: bool) -> Flow[AddResult | None]:
        """Keep messages; a reply among them ends the exchange, which is distilled then. None: the store could not take
        them, and they wait.
        """
        made = [message for message in map(as_message, messages) if message is not None]
        return (yield from self._write(made, distil=any(map(is_reply, messages)), wait=wait))

    def set(self, messages: Sequence[ChatMessage], *, wait: bool) -> Flow[AddResult | None]:
        """Let the history consist of `messages`. What the session holds already stays what it is, the rest is added."""
        yield from self.read(everything=True)
        known: dict[Hashable, list[str]] = {}
        for _, entry in reversed(list(self._items())):
            if entry is not None:
                known.setdefault(same(entry.message), []).append(entry.id)
        ids: list[str] = []
        new: list[Message] = []
        for message in messages:
            if ours := known.get(same(message)):
                ids.append(ours.pop())
            elif (made := as_message(message)) is not None:
                ids.append(made.id)
                new.append(made)
        return (yield from self.keep_only(ids, new, wait=wait))

    def keep_only(
        self, ids: Sequence[str], new: Sequence[Message] = (), *, wait: bool = False
    ) -> Flow[AddResult | None]:
        """Let the history consist of the messages with these ids, of which `new` are not kept yet."""
        mark = Message("tool", "[chat history set]", metadata={_MARK: json.dumps(list(ids))})
        return (yield from self._write([mark, *new], distil=bool(new), wait=wait))

    def _write(self, messages: Sequence[Message], *, distil: bool, wait: bool) -> Flow[AddResult | None]:
        batch = [*self._unkept, *messages]
        if not batch:
            return AddResult()
        try:
            if distil:
                left = (yield from self._left()) if self._open is None else self._open
                result: AddResult = yield from through(
                    self.memory, lambda door: door.add([*left, *batch], scope=self.scope, wait=wait)
                )
                self._open = []
            else:
                result = yield from through(self.memory, lambda door: door.keep(batch, scope=self.scope))
                self._open = None if self._open is None else [*self._open, *batch]
        except UNAVAILABLE as error:
            self._unkept, self._view = batch, None
            warn("keep", error, unkept=len(batch))
            return None
        for turn in result.turns:
            if turn.id not in self._places:
                self._places[turn.id] = len(self._log)
                self._log.append(turn)
        self._unkept, self._view = [], None
        return result

    def _left(self) -> Flow[list[Message]]:
        """What the session holds that is still to be distilled."""
        if self._whole:
            turns = [turn for turn in self._log if turn.pending][-_MOST_LEFT:]
        else:
            turns = yield from through(
                self.memory, lambda door: door.turns(scope=self.scope, pending=True, limit=_MOST_LEFT)
            )
        return [Message(turn.role, turn.text or turn.images, id=turn.message_id) for turn in turns]

    def _items(self) -> Iterator[tuple[Mapping[str, Any], Entry | None]]:
        """Metadata and message of everything in the log, and of what waits to be in it."""
        for turn in self._log:
            if turn.id not in self._made and (entry := _entry(turn.message_id, turn)) is not None:
                self._made[turn.id] = entry
            yield turn.metadata, self._made.get(turn.id)
        for waiting in self._unkept:
            yield waiting.metadata, _entry(waiting.id, waiting)

    def _entries(self) -> tuple[list[Entry], bool]:
        """The messages that the history consists of, and whether a mark says so for all of them. The same list as long
        as nothing is added.
        """
        if self._view is None:
            shown: dict[str, None] = {}
            found: dict[str, Entry] = {}
            marked = False
            for metadata, entry in self._items():
                if _MARK in metadata:
                    shown, marked = dict.fromkeys(json.loads(metadata[_MARK])), True
                elif entry is not None:
                    shown.setdefault(entry.id)
                    found[entry.id] = entry
            entries = [found[id] for id in shown if id in found]
            self._view = entries, marked and len(entries) == len(shown)
        return self._view


def _entry(id: str, kept: Turn | Message) -> Entry | None:
    message = from_kept(kept)
    return None if message is None else Entry(id, message, is_spoken(message))


def _newest(door: Any, *, scope: Scope, limit: int) -> Any:
    return door.turns(scope=scope, limit=limit, newest_first=True)
