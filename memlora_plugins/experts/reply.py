"""Reading what a model said: thinking traces cut, the JSON found, small faults repaired, cut-off lists salvaged.

Well-formed JSON is always preferred; repairs are tried only where there is none. Of several answers the last counts:
models draft before they decide. Everything here takes time linear in the length of the reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ReplyError

_THINK_TAG = re.compile(r"[<\[◁](/?)(?:think|thinking|thought|reasoning)[>\]▷]", re.I)
_CHANNEL = "<|channel|>"
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b(?:[^<]|<\|constrain\|>){0,40}<\|message\|>")
_HARMONY_TOKEN = re.compile(r"<\|(?:end|return|start|call)\|>")
_BARE_TRACE = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z\s\"'{])")
_BARE_FINAL = "assistantfinal"

_START = re.compile(r"\{\s*[\"}]|\[\s*[\"{\]]")
_LOOSE_LIST = re.compile(r"\[\s*[\"'{“‘]")
_SPECIAL = re.compile(r"[\"'\\\[\]{}]")
_STRING_ENDS = re.compile(r"\s*(?:[,:\]}]|\Z)|\s+\"")
_ESCAPE_OR_QUOTE = re.compile(r"\\.?|\"", re.S)
_ESCAPABLE = '"\\/bfnrtu'
_QUOTES = "\"'“”‘’`"
_MOST_FAILURES = 500
_MOST_REPAIRED_CHARS = 50_000
_MOST_REPAIRED_DEPTH = 40
_KEY_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """The items of a list reply. `truncated`: the list had no end, its complete items are here. `repaired`: the JSON
    was not well-formed."""

    items: list[Any]
    truncated: bool = False
    repaired: bool = False


def after_thinking(text: str) -> str:
    """`text` without thinking traces, trimmed: `<think>…</think>` and its kin, closed, unclosed or without its
    beginning, and the analysis channel of harmony replies, with special tokens or without."""
    if _CHANNEL in text:
        _, *final = _FINAL_CHANNEL.split(text)
        return _HARMONY_TOKEN.split(final[-1], maxsplit=1)[0].strip() if final else ""
    if trace := _BARE_TRACE.match(text):
        _, found, answer = text.rpartition(_BARE_FINAL)
        if found:
            return answer.strip()
        if text[trace.end() :][:1].isupper():  # "analysisWe need to …" and no end: ordinary words are not glued
            return ""
    kept: list[str] = []
    at, thinking = 0, False
    for tag in _THINK_TAG.finditer(text):
        if not tag[1]:
            if not thinking:
                kept.append(text[at : tag.start()])
            thinking = True
        else:
            if not thinking:
                kept.clear()  # the chat template had opened the trace
            thinking, at = False, tag.end()
    if not thinking:
        kept.append(text[at:])
    return "".join(kept).strip()


def find_json(text: str, *, key: str, is_item: Callable[[Any], bool]) -> Reading:
    """The list that `text` gives for `key`: from the object that has it, or from a bare list of such items.

    `is_item` says whether a value looks like an item; it decides what counts as a bare list, the items of a list under
    `key` are returned as they are.

    Raises:
        ReplyError: there is nothing of the kind in `text`, or it was cut off before its first item.
    """
    for reading in _readings(text, key, is_item):
        return reading
    raise unreadable(text, f'a JSON object with a list "{key}"')


def find_object(text: str, *, key: str) -> dict[str, Any]:
    """The JSON object in `text` that has `key`.

    Raises:
        ReplyError: there is none.
    """
    said = after_thinking(text)
    for values in ([_whole(text)], _values(said)):
        holders = [holder for value in values for holder in _holders(value, key)]
        if holders:
            return holders[-1]
    start = said.find("{")
    if start >= 0 and (span := _walk(said, start)).end is not None:
        holders = _holders(_repaired(span.piece(said), span.depth), key)
        if holders:
            return holders[-1]
    raise unreadable(text, f'a JSON object with "{key}"')


def unreadable(text: str, wanted: str) -> ReplyError:
    """The error for a reply that is not what was asked for."""
    if not after_thinking(text):
        return ReplyError(
            f"The model said nothing{' after its thinking trace' if text.strip() else ''}; expected {wanted}. "
            "Allow more output tokens, or check the model's chat template.",
            reply=text,
        )
    return ReplyError(
        f"The model's reply cannot be read as {wanted}. Check that this model serves this expert, and that the server "
        "supports structured output.",
        reply=text,
    )


def _readings(text: str, key: str, is_item: Callable[[Any], bool]) -> Iterator[Reading]:
    """Readings of `text`, the most trustworthy first."""
    whole = _whole(text)
    for value in _under_key(whole, key, is_item):
        yield Reading(value)
    said = after_thinking(text)
    values = _values(said)
    for value in reversed(values):
        for items in _under_key(value, key, is_item):
            yield Reading(items)
    name = re.compile(rf"(?<![\\\w])[{_QUOTES}]?{re.escape(key)}[{_QUOTES}]?\s*[:=]\s*(?=\[)", re.I)
    yield from _loose_lists(said, name, is_item)
    if name.search(said):  # what else there is stands inside of the answer
        return
    for value in reversed(values):
        if isinstance(value, list) and (not value or any(map(is_item, value))):
            yield Reading(value)
    yield from _loose_lists(said, _LOOSE_LIST, is_item)
    loose = [value for value in values if isinstance(value, dict) and is_item(value)]
    if loose:
        yield Reading(loose, repaired=True)


# Well-formed JSON


def _merge_doubled(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key, value in pairs:
        earlier = merged.get(key)
        if isinstance(earlier, list) and isinstance(value, list):
            earlier.extend(value)
        else:
            merged[key] = value
    return merged


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_merge_doubled)


def _whole(text: str) -> Any:
    """`text` as JSON if it is nothing else: no trace is looked for inside of well-formed JSON."""
    try:
        value = _DECODER.decode(text.strip())
        return _DECODER.decode(value) if isinstance(value, str) else value  # some encode it twice
    except (ValueError, RecursionError):
        return None


def _values(text: str) -> list[Any]:
    """The well-formed objects and lists in `text`, outermost ones, left to right."""
    found: list[Any] = []
    at = failures = spent = 0
    while failures < _MOST_FAILURES and spent <= 4 * len(text):
        start = _START.search(text, at)
        if start is None:
            break
        try:
            value, at = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError) as error:
            failures += 1
            spent += getattr(error, "pos", start.start()) - start.start()
            at = start.start() + 1
        else:
            found.append(value)
    return found


def _holders(value: Any, key: str) -> list[dict[str, Any]]:
    """The objects in `value` that have `key`, outermost first."""
    holders: list[dict[str, Any]] = []
    level = [value]
    for _ in range(_KEY_DEPTH):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                folded = {name.strip().casefold(): held for name, held in each.items()}
                if key in folded:
                    holders.append(folded)
                else:
                    inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        level = inner
    return holders


def _under_key(value: Any, key: str, is_item: Callable[[Any], bool]) -> Iterator[list[Any]]:
    for holder in _holders(value, key):
        held = holder[key]
        if isinstance(held, list):
            yield held
        elif held is None or held == "":
            yield []
        elif is_item(held):
            yield [held]
        elif isinstance(held, dict):
            yield list(held.values())


# Faulty JSON


@dataclass(frozen=True, slots=True)
class _Span:
    """A bracket in a text: where it starts, where it ends (None: nowhere), where its last complete item ends, how deep
    it nests, and the strings directly inside of it."""

    start: int
    end: int | None
    complete: int | None
    depth: int
    strings: tuple[tuple[int, int], ...]

    def piece(self, text: str) -> str:
        """The bracket with what is in it; closed after its last complete item if it has no end."""
        if self.end is not None:
            return text[self.start : self.end]
        return f"{text[self.start : self.complete]}]" if self.complete else "[]"


def _loose_lists(text: str, pattern: re.Pattern[str], is_item: Callable[[Any], bool]) -> Iterator[Reading]:
    """The lists that start where `pattern` says, the last first, read with repairs.

    A list without an end gives its complete items, if it has any.
    """
    spans: list[_Span] = []
    at: int | None = 0
    while at is not None and (found := pattern.search(text, at)):
        spans.append(_walk(text, text.index("[", found.start())))
        at = spans[-1].end
    room = _MOST_REPAIRED_CHARS
    for span in reversed(spans):
        if span.depth == 1 and span.strings:
            items = [item for start, end in span.strings if is_item(item := _unquoted(text[start:end]))]
        else:
            piece = span.piece(text)
            items, room = _repaired_list(piece, span.depth, room)
            items = [item for item in items if is_item(item) and _was_quoted(item, piece)]
        if items or (span.end is not None and not text[span.start + 1 : span.end - 1].strip()):
            yield Reading(items, truncated=span.end is None, repaired=True)


def _walk(text: str, start: int) -> _Span:
    """The bracket at `start`.

    A quote inside of a string ends it only before `,`, `:`, a closing bracket or another quote, so unescaped quotes
    are survived.
    """
    depth = deepest = skip = opened = 0
    complete: int | None = None
    strings: list[tuple[int, int]] = []
    quote = ""
    for special in _SPECIAL.finditer(text, start):
        at, sign = special.start(), special[0]
        if at < skip:
            continue
        if quote:
            if sign == "\\":
                skip = at + 2
            elif sign == quote and _STRING_ENDS.match(text, at + 1):
                quote = ""
                if depth == 1:
                    complete = at + 1
                    strings.append((opened, complete))
        elif sign == '"' or (sign == "'" and _value_expected(text, at)):
            quote, opened = sign, at
        elif sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth -= 1
            if depth == 0:
                return _Span(start, at + 1, complete, deepest, tuple(strings))
            complete = at + 1 if depth == 1 else complete
    return _Span(start, None, complete, deepest, tuple(strings))


def _unquoted(literal: str) -> str:
    """What a string literal in either quotes says; wrong escapes and unescaped quotes stand for themselves."""
    body = _ESCAPE_OR_QUOTE.sub(_escape, literal[1:-1])
    try:
        value: str = _DECODER.decode(f'"{body}"')
    except ValueError:
        return literal[1:-1]
    return value


def _escape(found: re.Match[str]) -> str:
    sign = found[0]
    if sign == '"':
        return '\\"'
    if sign == "\\'":
        return "'"
    return sign if len(sign) > 1 and sign[1] in _ESCAPABLE else f"\\{sign}"


def _value_expected(text: str, at: int) -> bool:
    before = at - 1
    while before >= 0 and text[before].isspace():
        before -= 1
    return before >= 0 and text[before] in "[{,:"


def _repaired_list(piece: str, depth: int, room: int) -> tuple[list[Any], int]:
    """The items of a faulty list, none if it is hopeless, and how many more characters may be repaired."""
    try:
        items = _DECODER.decode(piece)
    except (ValueError, RecursionError):
        room -= len(piece)
        items = _repaired(piece, depth) if room >= 0 else None
    return (items if isinstance(items, list) else []), room


def _repaired(piece: str, depth: int) -> Any:
    """`piece` as JSON, as far as json-repair makes sense of it; None where that fails or would take too long."""
    if len(piece) > _MOST_REPAIRED_CHARS or depth > _MOST_REPAIRED_DEPTH:
        return None
    import json_repair

    try:
        return json_repair.loads(piece, skip_json_loads=True)
    except (ValueError, RecursionError):
        return None


def _was_quoted(item: Any, source: str) -> bool:
    """Repairing turns bare words into strings; only what stood in quotes counts as said."""
    if not isinstance(item, str):
        return True
    beginning = re.match(r"[^\W_]*", item.strip())
    if not beginning or not beginning[0].isascii():
        return any(quote in source for quote in _QUOTES)
    return re.search(rf"[{_QUOTES}]\s*{re.escape(beginning[0])}", source) is not None
