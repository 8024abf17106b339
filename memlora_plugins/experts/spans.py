"""Answers in the words of the memories that they come from, as a regular expression of the reply.

A small model that copies slips ("Porto or or or"). So it is not left to spell: an answer is a stretch of words of one
memory, or one of the sentences that a trained expert says where no memory answers. Which stretch it is, and whether one
answers at all, stays the model's to tell.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Hit
from .clauses import either, literal, parts
from .generation import NO_ANSWERS
from .quotes import unnamed
from .wording import one_line, unspaced

_LONGEST = 10  # words of an answer
_MOST = 300  # words of the memories; more would cost more than the slips that this prevents
_BEFORE = "([{\"“'‘«"


def pattern(memories: Sequence[Hit]) -> str | None:
    """What an answer from `memories` can be; None, so that words are free, where they are long, not set apart by
    spaces, or would be read as thinking. Without memories it is one of `generation.NO_ANSWERS`."""
    texts = [one_line(unnamed(hit.text) if hit.kind == "fact" else hit.text) for hit in memories]
    free = any(unspaced(text) or "think>" in text.casefold() for text in texts)
    if free or sum(len(text.split()) for text in texts) > _MOST:
        return None
    stretches = [stretch for text in texts for stretch in _stretches(text.split())]
    return f" ?{either([*map(literal, NO_ANSWERS), *dict.fromkeys(stretches)])}"


def _stretches(pieces: Sequence[str]) -> list[str]:
    """An expression for each word, of all stretches that begin with it."""
    found: list[str] = []
    for begin, piece in enumerate(pieces):
        if not parts(piece)[0].lstrip(_BEFORE):
            continue
        follows = ""
        for at in range(min(begin + _LONGEST, len(pieces)) - 1, begin - 1, -1):
            word, marks = parts(pieces[at])
            said = literal(word) if at > begin else _begun(word.lstrip(_BEFORE))
            if follows:
                follows = f"{said}(?:{literal(marks)} {follows})?" if word else f"{literal(marks)} {follows}"
            else:
                follows = said
        found.append(follows)
    return found


def _begun(word: str) -> str:
    """A word as it is, or with a capital, as an answer begins."""
    first, rest = word[0], literal(word[1:])
    return f"[{first}{first.upper()}]{rest}" if first.islower() and len(first.upper()) == 1 else literal(first) + rest
