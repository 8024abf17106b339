"""The messages of one session, in order, as the memory keeps them.

They are turns in the store, never rewritten. Where a program sets or resets a chat history, a mark says which messages
it consists of from then on; what was said before stays remembered.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from llama_index.core.base.llms.types import ChatMessage

from memlora_plugins import AddResult, Memory, Message, Scope, Turn
from memlora_plugins.flows.effects import Flow
from memlora_plugins.plugs.doors import UNAVAILABLE, through

from .events import warn
from .messages import as_message, from_kept, is_reply, is_spoken, same

_MARK = "llama_index_history"  # key of a mark's metadata: JSON list of message ids
_FEWEST, _FACTOR = 2, 4  # turns read besides one's own, and how many times more if that is too few
_MOST_LEFT = 50  # turns of earlier processes that are distilled with an exchange


class Entry(NamedTuple):
    """A message of the session, with the id that its turn is known by; `spoken` if a search can find it."""

    id: str
    message: ChatMessage
    spoken: bool


@dataclass(frozen=True, eq=False, slots=True)
class _Setting:
    """That the history is to consist of these messages; which of them the session knows already, the store will say."""

    messages: tuple[tuple[ChatMessage, Message], ...]


class History:
    """What was said in a session, as its turns in the store tell it: several processes may add to it.

    What is added goes through a queue. While the store is out of reach it waits there, and what is known of the history
    is shown. A message that two writers take from the queue is written twice with one id, which changes nothing.
    """

    def __init__(self, memory: Memory, scope: Scope) -> None:
        self.memory = memory
        self.scope = scope
        self._log: list[Turn] = []  # the latest turns: as they were last read, and as they were written since
        self._read_so_far = 0  # how many of them were read
        self._whole = False  # whether the first of the session is among them
        self._places: dict[str, int] = {}  # where each is, by turn id
        self._made: dict[str, Entry] = {}  # by turn id
        self._view: tuple[list[Entry], bool] | None = None  # what the log and the queue say
        self._queue: list[Message | _Setting] = []
        self._open: dict[str, Message] = {}  # kept here and not handed on to be distilled
        self._others_open = True  # whether the store may know of more, which others left or which failed
        self._lock = threading.Lock()  # over the fields; never held while the store is asked

    def known(self) -> list[Entry]:
        """The messages as they were last read, and what was added here since."""
        return self._entries()[0]

    def read(
        self, enough: Callable[[Sequence[Entry]], bool] = lambda entries: False, *, everything: bool = False
    ) -> Flow[list[Entry]]:
        """The messages of the history, in order; only the latest where those are `enough`. What is known of them, and a
        warning, while the store is out of reach.

        It begins where it was last set or reset; with `everything` all turns of the session are read all the same.
        """
        try:
            yield from self.refresh(enough, everything=everything)
        except UNAVAILABLE as error:
            warn("history", error)
        return self.known()

    def refresh(
        self, enough: Callable[[Sequence[Entry]], bool] = lambda entries: False, *, everything: bool = False
    ) -> Flow[None]:
        """As `read`.

        Raises:
            StoreError: the store is out of reach.
        """
        size = _FEWEST + len(self._log) - self._read_so_far
        while True:
            newest: list[Turn] = yield from through(self.memory, partial(_newest, scope=self.scope, limit=size))
            with self._lock:
                self._heed(newest[::-1], first_is_there=len(newest) < size)
            entries, complete = self._entries()
            if self._whole or ((complete or enough(entries)) and not everything):
                return
            size = max(size, len(self._log)) * _FACTOR

    def _heed(self, newest: list[Turn], *, first_is_there: bool) -> None:
        """Bring the log up to date with the latest turns, which may begin with the session's first.

        They tell all that is new if they reach back to what was read before. What was written here since does not
        count: others may have written in between.
        """
        ids = [turn.id for turn in newest]
        place = 0 if first_is_there else self._places.get(ids[0], self._read_so_far)
        anchored = first_is_there or place < self._read_so_far
        before = place if anchored else 0
        if not anchored or ids != [turn.id for turn in self._log[before:]]:
            self._log = self._log[:before] + newest
            self._places = {turn.id: place for place, turn in enumerate(self._log)}
            self._view = None
        self._read_so_far = len(self._log)
        self._whole = first_is_there or (anchored and self._whole)

    def add(self, messages: Sequence[ChatMessage], *, wait: bool) -> Flow[AddResult | None]:
        """Keep messages; a reply among them ends the exchange, which is distilled then. None: the store could not take
        them, and they wait.
        """
        made = [message for message in map(as_message, messages) if message is not None]
        return (yield from self._write(made, distil=any(map(is_reply, messages)), wait=wait))

    def set(self, messages: Sequence[ChatMessage], *, wait: bool) -> Flow[AddResult | None]:
        """Let the history consist of `messages`. What the session holds already stays what it is, the rest is added and
        distilled.
        """
        made = ((message, as_message(message)) for message in messages)
        setting = _Setting(tuple((message, kept) for message, kept in made if kept is not None))
        return (yield from self._write([setting], distil=True, wait=wait))

    def _write(self, new: Sequence[Message | _Setting], *, distil: bool, wait: bool) -> Flow[AddResult | None]:
        with self._lock:
            self._queue.extend(new)
            taken = list(self._queue)
            self._view = None
        result, handed_on, looked = AddResult(), dict[str, Message](), False
        try:
            if any(isinstance(item, _Setting) for item in taken):
                yield from self.refresh(everything=True)
            batch = self._resolved(taken)
            if batch and distil:
                looked = self._others_open
                handed_on = {**((yield from self._left()) if looked else {}), **self._open}
                given = [*handed_on.values(), *batch]
                result = yield from through(self.memory, lambda door: door.add(given, scope=self.scope, wait=wait))
            elif batch:
                result = yield from through(self.memory, lambda door: door.keep(batch, scope=self.scope))
        except UNAVAILABLE as error:
            warn("keep", error, unkept=sum(1 if isinstance(item, Message) else len(item.messages) for item in taken))
            return None
        with self._lock:
            self._queue = [item for item in self._queue if not any(item is one for one in taken)]
            for turn in result.turns:
                if turn.id not in self._places:
                    self._places[turn.id] = len(self._log)
                    self._log.append(turn)
            self._view = None
            self._others_open = bool(result.errors) or (self._others_open and not looked)
            self._open = {id: message for id, message in self._open.items() if id not in handed_on}
            if not distil:
                self._open.update((message.id, message) for message in batch)
        return result

    def _left(self) -> Flow[dict[str, Message]]:
        """What the session holds that is still to be distilled, by message id: enough to name it."""
        turns: list[Turn]
        if self._whole:  # some of these may have been distilled since; that is found out with the others
            turns = [turn for turn in self._log if turn.pending][-_MOST_LEFT:]
        else:
            turns = yield from through(
                self.memory, lambda door: door.turns(scope=self.scope, pending=True, limit=_MOST_LEFT)
            )
        return {turn.message_id: Message(turn.role, turn.text or turn.images, id=turn.message_id) for turn in turns}

    def _resolved(self, taken: Sequence[Message | _Setting]) -> list[Message]:
        """What is to be written: for a setting the messages that the session does not know, and a mark."""
        batch: list[Message] = []
        for item in taken:
            if isinstance(item, Message):
                batch.append(item)
                continue
            shown = [entry.id for entry in self._shown(batch)[0]]
            known: dict[Hashable, list[str]] = {}
            for _, entry in reversed(list(self._items(batch))):
                if entry is not None:
                    known.setdefault(same(entry.message), []).append(entry.id)
            ids: list[str] = []
            new: list[Message] = []
            for message, made in item.messages:
                if ours := known.get(same(message)):
                    ids.append(ours.pop())
                else:
                    ids.append(made.id)
                    new.append(made)
            batch.extend(new)
            if ids != [*shown, *(made.id for made in new)]:  # a history that goes on needs no mark
                batch.append(Message("tool", "[chat history set]", metadata={_MARK: json.dumps(ids)}))
        return batch

    def _entries(self) -> tuple[list[Entry], bool]:
        """The messages that the history consists of, and whether a mark says so for all of them. The same list as long
        as nothing is added.
        """
        view = self._view
        if view is None:
            with self._lock:
                view = self._view = self._shown(self._queue)
        return view

    def _shown(self, queue: Sequence[Message | _Setting]) -> tuple[list[Entry], bool]:
        shown: dict[str, None] = {}
        found: dict[str, Entry] = {}
        marked = False
        for metadata, entry in self._items(queue):
            if _MARK in metadata:
                shown, marked = dict.fromkeys(json.loads(metadata[_MARK])), True
            elif entry is not None:
                shown.setdefault(entry.id)
                found[entry.id] = entry
        entries = [found[id] for id in shown if id in found]
        return entries, marked and len(entries) == len(shown)

    def _items(self, queue: Sequence[Message | _Setting]) -> Iterator[tuple[Mapping[str, Any], Entry | None]]:
        """Metadata and message of everything in the log, and of what is on its way there."""
        for turn in self._log:
            if turn.id not in self._made and (entry := _entry(turn.message_id, turn)) is not None:
                self._made[turn.id] = entry
            yield turn.metadata, self._made.get(turn.id)
        for item in queue:
            if isinstance(item, Message):
                yield item.metadata, _entry(item.id, item)
            else:
                yield {_MARK: "[]"}, None
                for _, made in item.messages:
                    yield made.metadata, _entry(made.id, made)


def _entry(id: str, kept: Turn | Message) -> Entry | None:
    message = from_kept(kept)
    return None if message is None else Entry(id, message, is_spoken(message))


def _newest(door: Any, *, scope: Scope, limit: int) -> Any:
    return door.turns(scope=scope, limit=limit, newest_first=True)
