"""How memories are ranked: what of them is searched, and how the lists of the signals become one ranking.

Pure arithmetic on what a store read. Each point carries three vectors that are searched with the question:

- `text`: the embedding of what was said, with the speaker's name before it (`turn_text`), or of a fact;
- `context`: the unit-length sum of the `text` vectors of a turn and the turns around it in the session (`WINDOW`);
- `context_words`: the same window by words: term counts summed with the same weights, then saturated as in BM25.
  The engine multiplies by the inverse document frequency among the points of the scope's user and agent.

A short "Yes, last May!" is found by the question before it, and the words of a whole exchange weigh more than one
lucky word. A fact has no surroundings, so its context is itself. The weights were chosen on conversations other than
the one they were checked on; by evidence found, windows matter most, then adding up scores instead of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from datetime import datetime

    from ..types import Fact, Turn

Id = TypeVar("Id", int, str)

WINDOW = (1.0, 0.7, 0.4)
"""Share in a turn's context of the turn itself, of the next one on each side, and of the one after that."""

SIGNALS: Mapping[str, float] = {"text": 0.3, "context": 0.6, "context_words": 1.0}
"""The vectors that a search asks for, and their weights in the sum."""

CANDIDATES = 200
"""How many items each signal puts up at most. More changes the found evidence by less than a hundredth."""

FOR_EACH = 6
"""How many items each signal puts up for each that is wanted, up to `CANDIDATES`: few wanted, less to sort out. 10
find half a hundredth more of the evidence; 4 find one and a half less."""

COUNTING = {"k": 1e6, "b": 0.0}
"""`Bm25Config` arguments with which a document's BM25 weights are plain term counts (to one in a million)."""

SATURATION = 1.2
"""BM25's k: how fast the repetition of a word stops counting."""

LOOK_AHEAD = 3
"""`rerank` is worth giving this many times the items that are wanted; 5 found as much to two thousandths."""

CARRIED = 0.3
"""Share of a fact's score that its source turns get, and of a turn's score that its facts get."""

CAPTION = "caption"
"""Key in a message's metadata for a description in words of its images; it is searched with the text."""

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def turn_text(turn: Turn) -> str:
    """What of a turn is embedded: who said it, what was said, and what its images show."""
    text = f"{turn.name}: {turn.text}" if turn.name else turn.text
    caption = turn.metadata.get(CAPTION)
    return f"{text} [{caption}]" if isinstance(caption, str) and caption.strip() else text


def turn_words(turn: Turn) -> str:
    """What of a turn is searched by words: `turn_text` and the day, so that "in May 2023" finds it."""
    return f"{_day(turn.created_at)} {turn_text(turn)}"


def fact_words(fact: Fact) -> str:
    """What of a fact is searched by words."""
    return f"{_day(fact.valid_from)} {fact.text}"


def _day(moment: datetime) -> str:
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"


def window_sum(own: Mapping[int, float], around: Sequence[tuple[int, Mapping[int, float]]]) -> dict[int, float]:
    """Term counts of a window: `own` and, for each turn around it, (its distance 1…, its counts)."""
    total = dict(own)
    for distance, counts in around:
        share = WINDOW[distance]
        for term, count in counts.items():
            total[term] = total.get(term, 0.0) + share * count
    return total


def saturated(counts: Mapping[int, float]) -> dict[int, float]:
    """Term counts to BM25 weights, without the inverse document frequency."""
    return {term: count * (SATURATION + 1) / (count + SATURATION) for term, count in counts.items()}


def fuse(
    lists: Mapping[str, Sequence[tuple[Id, float]]], *, weights: Mapping[str, float] = SIGNALS
) -> list[tuple[Id, float]]:
    """One ranking from one list of (id, score) per signal, best first; ties by id.

    Scores of a list are measured from its lowest in standard deviations, weighted and added up. An item that a list
    lacks gets nothing from it, which is what the lowest gets. A list shorter than another (few items hold a word of
    the question) counts as filled up with zeros. Signals without a weight count 1. Scores are >= 0.
    """
    longest = max(map(len, lists.values()), default=0)
    totals: dict[Id, float] = {}
    for signal, found in lists.items():
        if not found:
            continue
        scores = [score for _, score in found]
        scores += [0.0] * (longest - len(scores))
        mean = sum(scores) / longest
        spread = math.dist(scores, [mean] * longest) / longest**0.5
        lowest = min(scores)
        # equal scores say that each item was found, and nothing else
        scale = weights.get(signal, 1.0) / spread if spread > 1e-9 else 0.0
        for id, score in found:
            totals[id] = totals.get(id, 0.0) + scale * (score - lowest)
    ordered = sorted((-total, id) for id, total in totals.items())
    return [(id, -total) for total, id in ordered]


def rerank(ranked: Sequence[tuple[str, float]], sources: Mapping[str, Collection[str]]) -> list[tuple[str, float]]:
    """Let facts and the turns they came from vouch for each other, and put echoes last.

    `ranked` is the best of `fuse`, about `LOOK_AHEAD` times as many as are wanted. `sources` gives, for each fact, the
    ids of the turns it came from; every other item counts as a turn. Leave out a fact that says something else than
    its turns by now (updated or edited), so that they do not stand in for it.

    An item all of whose sources better items cover already adds little: it goes behind those that bring something new.
    """
    before = dict(ranked)
    score = dict(ranked)
    vouched: dict[str, float] = {}
    for fact, turns in sources.items():
        here = [turn for turn in turns if turn in before]
        if here and fact in before:
            score[fact] += CARRIED * max(before[turn] for turn in here)
            for turn in here:
                vouched[turn] = max(vouched.get(turn, 0.0), before[fact])
    for turn, best in vouched.items():
        score[turn] += CARRIED * best
    covered: set[str] = set()
    new: list[tuple[str, float]] = []
    echoes: list[tuple[str, float]] = []
    for id in sorted(score, key=lambda id: (-score[id], id)):
        origin = sources.get(id) or (id,)
        (echoes if covered.issuperset(origin) else new).append((id, score[id]))
        covered.update(origin)
    return new + [(id, min(own, new[-1][1])) for id, own in echoes]
