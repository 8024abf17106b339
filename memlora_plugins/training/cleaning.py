"""From what a teacher said to what a student should say (the paper's section 3.2, *Data preparation*).

The thinking is cut and the minimal JSON kept, by the same reading that the memory itself uses: the target says what
was understood, as compact as the served grammar would write it. An update target has operations on new facts only: an
ADD, UPDATE or DELETE, or a NONE where a new fact is known already; what a teacher says of old memories that no new
fact touches is left out. A reply that is not whole makes no target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ReplyError
from ..experts import extraction, update
from ..experts.reply import after_thinking, find_json
from ..serving.base import ChatMessage, Completion
from ..types import clean_text

_SHORT: Mapping[str, str] = {"extraction": extraction.SHORT_PROMPT, "update": update.SHORT_PROMPT}


@dataclass(frozen=True, slots=True)
class Target:
    """The reply to learn. `empty`: it lists nothing."""

    reply: str
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why there is nothing to learn."""

    reason: str


def short_prompt(expert: str, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """What the trained expert is asked in place of `messages`, a prompt of extraction or update in either style."""
    if len(messages) == 1:
        return list(messages)
    asked = messages[-1]["content"]  # after its examples, a full prompt ends in the bare question
    return [{"role": "user", "content": f"{asked}\n{_SHORT[expert]}"}]


def cleaned(expert: str, messages: Sequence[ChatMessage], said: Completion) -> Target | Dropped:
    """What a reply of extraction or update teaches. `messages` is its prompt, in either style."""
    if not after_thinking(said.text):
        return Dropped("cut off" if said.finish_reason == "length" else "empty reply")
    try:
        target, truncated = _understood(expert, str(messages[-1]["content"]), said.text)
    except ReplyError:
        return Dropped("cut off" if said.finish_reason == "length" else "unreadable reply")
    if truncated or said.finish_reason == "length":
        return Dropped("cut off")
    return target


def _understood(expert: str, prompt: str, text: str) -> tuple[Target | Dropped, bool]:
    if expert == "extraction":
        found = extraction.read(text)
        return Target(extraction.target(found.facts), empty=not found.facts), found.truncated
    old, new = update.lists(prompt)
    decisions = update.read(text, old, new)
    if not find_json(text, key="memory", is_item=lambda item: isinstance(item, dict)).items:
        return Dropped("no operation"), decisions.truncated
    return Target(update.target(decisions.items, old, new)), decisions.truncated


def all_added(prompt: str) -> str:
    """The reply of an update expert that adds every new fact of `prompt`."""
    old, new = update.lists(prompt)
    return update.target([update.Decision("ADD", text, None, fact) for fact, text in enumerate(new)], old, new)


def answer_of(text: str) -> Target | Dropped:
    """The target of a question whose answer the dataset gives."""
    answer = " ".join(clean_text(text).split())
    return Target(answer) if answer else Dropped("answer missing")
