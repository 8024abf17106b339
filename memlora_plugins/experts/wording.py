"""Text on its way into a prompt: made harmless, marked where it is memory, compared by its words.

Everything that a person or a memory says goes through `one_line` before it stands in a prompt. It then cannot start
a line of its own (so `assistant: …` in a message forges no other speaker) and holds no chat-template token.
"""

from __future__ import annotations

import re
from datetime import datetime

from ..types import as_utc, clean_text

MEMORY_BEGIN = "<memlora-memories>"
"""Stands before memories that were put into a prompt; `strip_injected` removes from here …"""
MEMORY_END = "</memlora-memories>"
"""… to here."""

QUESTION_MARK = re.compile(r"[?？؟]")
_MARKER = re.compile(f"{re.escape(MEMORY_BEGIN)}|{re.escape(MEMORY_END)}")
_UNSEEN = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_TEMPLATE_TOKEN = re.compile(
    r"<(?=\||/?(?:memlora-memories|start_of_turn|end_of_turn|start_of_image|bos|eos|pad|unk|s|im_start|im_end)>)", re.I
)
_INSTRUCTION_TOKEN = re.compile(r"\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|IMG)\])")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be been by for from had has have he her his i in is it its my of on or she that the their "
        "them they this to user was were who will with "
        "d ll m re s t ve"  # what is left of "I'd", "she'll" …
    )
)
_ARTICLES = frozenset(("a", "an", "the"))
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def one_line(text: str) -> str:
    """`text` on one line: white space collapsed, control and direction characters gone, template tokens broken up."""
    line = " ".join(_UNSEEN.sub(" ", clean_text(text)).split())
    return _INSTRUCTION_TOKEN.sub("[ ", _TEMPLATE_TOKEN.sub("< ", line))


def speaker(role: str, name: str | None) -> str:
    """How a speaker is called at the start of a line: `user`, or `user Ana`."""
    called = one_line((name or "").replace(":", " "))[:60].strip()
    return f"{role} {called}" if called and called.casefold() != role else role


def day(moment: datetime) -> str:
    """A date as prompts show it, with the weekday that "last Tuesday" needs: `Mon 2023-05-08` (UTC)."""
    date = as_utc(moment).date()
    return f"{_DAYS[date.weekday()]} {date.isoformat()}"


def mark_injected(text: str) -> str:
    """`text` (memories, for a prompt) between the markers; markers inside of it are broken up."""
    return f"{MEMORY_BEGIN}\n{_MARKER.sub(lambda found: found[0].replace('<', '< '), text)}\n{MEMORY_END}"


def strip_injected(text: str) -> str:
    """`text` without the memories that `mark_injected` put there.

    Only whole blocks go, nested ones with what surrounds them. A marker without its partner is what somebody typed:
    it stays, and so does all text around it.
    """
    if MEMORY_BEGIN not in text:
        return text
    opened: list[int] = []
    blocks: list[tuple[int, int]] = []
    for marker in _MARKER.finditer(text):
        if marker[0] == MEMORY_BEGIN:
            opened.append(marker.start())
        elif opened:
            start = opened.pop()
            while blocks and blocks[-1][0] > start:
                blocks.pop()
            blocks.append((start, marker.end()))
    kept, at = [], 0
    for start, end in blocks:
        kept.append(text[at:start])
        at = end
    kept.append(text[at:])
    return "".join(kept)


def words(text: str) -> frozenset[str]:
    """The words of `text`, case aside; scripts without spaces count by character."""
    found: set[str] = set()
    for word in _WORD.findall(text.casefold()):
        if _UNSPACED.search(word):
            found.update(word)
        else:
            found.add(word)
    return frozenset(found)


def meaning(text: str) -> frozenset[str]:
    """The words that say what `text` is about."""
    return words(text) - _STOP_WORDS


def content_words(text: str) -> frozenset[str]:
    """The words that say what `text` is about; all of them where nothing else is left."""
    return meaning(text) or words(text)


def unspaced(text: str) -> bool:
    """Whether some of `text` is in a script without spaces between words."""
    return _UNSPACED.search(text) is not None


def tells(text: str, fact: str) -> bool:
    """Whether `text` has all words of `fact`, English articles aside."""
    return words(fact) - _ARTICLES <= words(text)


def overlap(one: str, other: str) -> float:
    """Share of content words in common, of the text that has fewer: 0 to 1."""
    a, b = content_words(one), content_words(other)
    return len(a & b) / min(len(a), len(b)) if a and b else 0.0
