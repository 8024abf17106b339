"""Reading a judge's reply: a label counts only where exactly one is claimed, and by the judge itself."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import ReplyError
from ..experts.reply import after_thinking
from ..experts.wording import one_line

_MOST_STARTS = 50
_LABELS = {"correct": True, "wrong": False, "incorrect": False}
_WORD = re.compile(r"\b(?:correct|wrong|incorrect)\b", re.I)
_CAPITAL = re.compile(r"\b(?:CORRECT|WRONG|INCORRECT)\b")
_KEY = re.compile(r"(?<!\\)[\"'“]label[\"'”]\s*:", re.I)
_LAST_VALUE = re.compile(r"\s*[\"'“]?(correct|wrong|incorrect|true|false)[\"'”]?[\s,}\]]*", re.I)
_START = re.compile(r"\{\s*\"")
_FENCE = re.compile(r"```\w*")
_STATEMENT = re.compile(r"\n|(?<=[.!?;])[\"'*_)]*\s|\s[—–-]+\s")
_LEAD_IN = frozenset(
    {
        "so",
        "thus",
        "hence",
        "therefore",
        "the",
        "my",
        "final",
        "conclusion",
        "label",
        "verdict",
        "judgement",
        "judgment",
        "answer",
        "given",
        "generated",
        "is",
        "it",
        "this",
        "that",
        "as",
        "i",
        "mark",
    }
)


def read(reply: str, *, cut_off: bool = False) -> tuple[bool, str]:
    """Whether the reply says CORRECT, and the reason it gives, which may be empty.

    Read is a label that the judge claims as its own: `label` of the JSON object that the reply is or ends in, whole or
    without its end; or the one label word of a reply in prose, if its last statement says nothing else. Case does not
    matter, and true and false will do. Of a reply that was `cut_off`, only a whole object counts.

    Raises:
        ReplyError: none is claimed, or more than one; the message says what was wrong with the reply.
    """
    said = _FENCE.sub("", after_thinking(reply)).strip()
    found = _whole(reply.strip()) or _whole(said)
    if found is not None:
        return _of_object(found, reply)
    if cut_off:
        raise ReplyError("it was cut off before its end; give a shorter reason", reply=reply)
    if not said:
        raise ReplyError("it is empty", reply=reply)
    if said.startswith("{"):
        return _half_object(said, reply), ""
    found, before = _last_object(said)
    if found is not None:
        correct, reason = _of_object(found, reply)
        if _KEY.search(before) or any(_LABELS[word.casefold()] != correct for word in _CAPITAL.findall(before)):
            raise _several(reply)
        return correct, reason
    return _prose(said, reply)


def _several(reply: str) -> ReplyError:
    return ReplyError("it names more than one label, so that it is not clear which one is meant", reply=reply)


def _none(reply: str) -> ReplyError:
    return ReplyError('it has no "label" that is either "CORRECT" or "WRONG"', reply=reply)


_Object = dict[str, list[Any]]
"""A JSON object by its keys, lower case; with all values of a key, as it may stand there twice."""


def _pairs(pairs: list[tuple[str, Any]]) -> _Object:
    values: _Object = {}
    for key, value in pairs:
        values.setdefault(key.strip().casefold(), []).append(value)
    return values


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_pairs)


def _whole(text: str) -> _Object | None:
    """The object that `text` is, also in a list of its own or encoded twice; None if it is none."""
    try:
        value = _DECODER.decode(text)
        value = _DECODER.decode(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, dict) else None


def _last_object(text: str) -> tuple[_Object | None, str]:
    """The object that `text` ends in, if it does, and what stands before it: whole statements, or it is quoted."""
    for start, _ in zip(_START.finditer(text), range(_MOST_STARTS), strict=False):
        before = text[: start.start()].rstrip(" \t")
        if before.endswith(("\n", ".", "!", "?", ":", ";")) and (found := _whole(text[start.start() :])) is not None:
            return found, before
    return None, text


def _of_object(found: _Object, reply: str) -> tuple[bool, str]:
    match found.get("label"):
        case [bool() as correct]:
            pass
        case [str(label)] if (word := label.strip(" \n\t.!*_`\"'").casefold()) in _LABELS:
            correct = _LABELS[word]
        case [_, _, *_]:
            raise _several(reply)
        case _:
            raise _none(reply)
    reasons = found.get("reason", [])
    return correct, one_line(reasons[0]) if reasons and isinstance(reasons[0], str) else ""


def _half_object(said: str, reply: str) -> bool:
    """The label of an object that is not well-formed: its only one, and the last thing it says."""
    keys = list(_KEY.finditer(said))
    if len(keys) > 1:
        raise _several(reply)
    own = keys and said[: keys[0].start()].rstrip()
    value = _LAST_VALUE.fullmatch(said, keys[0].end()) if own == "{" or (own and own.endswith(",")) else None
    if value is None:
        raise _none(reply)
    word = value[1].casefold()
    return _LABELS.get(word, word == "true")


def _prose(said: str, reply: str) -> tuple[bool, str]:
    """The only label word, where it stands last and the statement that it ends says nothing but it.

    "The answer is not correct" has one label word too, and claims the other label.
    """
    labels = list(_WORD.finditer(said))
    if len(labels) != 1:
        raise _several(reply) if labels else _none(reply)
    label = labels[0]
    before, after = said[: label.start()], said[label.end() :]
    start = max((found.end() for found in _STATEMENT.finditer(before)), default=0)
    strange = re.sub(r"[\w\s*`:=\"'#]", "", before[start:]) or after.strip(" \n\t.!*_`\"'")
    if strange or not _leads_in(before[start:]):
        raise _none(reply)
    return _LABELS[label[0].casefold()], "" if _leads_in(before) else one_line(before[:start])


def _leads_in(text: str) -> bool:
    """Whether `text` says no more than that a label follows."""
    return all(word in _LEAD_IN for word in re.findall(r"[^\W_]+", text.casefold()))
