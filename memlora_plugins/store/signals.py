"""The vectors of a point, made with the arithmetic of `ranking`.

A turn's context reaches over its neighbours in the conversation, so a new turn also changes theirs; their term counts
are made again from their text, so that only what is searched is stored.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import TYPE_CHECKING

import numpy as np
import qdrant_edge

from ..types import Fact, Scope, Turn
from . import ranking
from .engine import Point, Sparse, Vectors
from .rows import read_turn

if TYPE_CHECKING:
    from ..embedding import Vector

REACH = len(ranking.WINDOW) - 1
"""How many turns on each side belong to a context."""


@dataclass(frozen=True, slots=True)
class Place:
    """A turn in its conversation: what its own and its neighbours' contexts are made of."""

    id: str
    order: tuple[int, str, str]
    text: Vector | None
    counts: Mapping[int, float]

    @classmethod
    def of(cls, turn: Turn, text: Vector | None) -> Place:
        """The place of a turn with its `text` vector."""
        order = (turn.position, turn.recorded_at.isoformat(), turn.id)
        return cls(turn.id, order, text, _counts(ranking.turn_words(turn), turn.scope))

    @classmethod
    def stored(cls, point: Point) -> Place:
        """The place of a stored turn."""
        text = point.vectors.get("text")
        vector = None if text is None or isinstance(text, Sparse) else np.asarray(text, np.float32)
        return cls.of(read_turn(point.id, point.payload), vector)


def fact_vectors(fact: Fact, vector: Vector | None) -> Vectors:
    """The vectors of a fact. A retired one has none: it is never searched."""
    if fact.retired:
        return {}
    vectors: dict[str, Sequence[float] | Sparse] = {}
    if vector is not None:
        vectors["text"] = vectors["context"] = vector.tolist()
    words = _weights(_counts(ranking.fact_words(fact), fact.scope))
    return vectors | ({"context_words": words} if words.indices else {})


def contexts(line: Iterable[Place], *, of: set[str]) -> dict[str, Vectors]:
    """`context` and `context_words`, by id, of the turns named in `of` and of those that have one of them in reach.

    `line` is a stretch of one conversation, in any order.
    """
    ordered = sorted(line, key=lambda place: place.order)
    made: dict[str, Vectors] = {}
    for index, place in enumerate(ordered):
        first = max(0, index - REACH)
        near = list(enumerate(ordered[first : index + REACH + 1], first))
        if not any(other.id in of for _, other in near):
            continue
        around = [(abs(position - index), other) for position, other in near if position != index]
        vectors: dict[str, Sequence[float] | Sparse] = {}
        dense = _window_vector(place, around)
        if dense is not None:
            vectors["context"] = dense
        words = _weights(ranking.window_sum(place.counts, [(distance, other.counts) for distance, other in around]))
        if words.indices:
            vectors["context_words"] = words
        made[place.id] = vectors
    return made


def query_words(text: str, scope: Scope) -> Sparse:
    """The words of a question, as the user's points have them."""
    words = _bm25().embed_query(text)
    return Sparse(_numbers(words, scope), tuple(words.values))


def _counts(text: str, scope: Scope) -> dict[int, float]:
    words = _bm25().embed_document(text)
    return dict(zip(_numbers(words, scope), words.values, strict=True))


def _numbers(words: qdrant_edge.SparseVector, scope: Scope) -> tuple[int, ...]:
    """The numbers of words, of each user others: a word's points are one person's, so a search is not through all.

    Two words of a user stay two (the same bits of both are flipped). Users who share a number share a list, no more:
    the filter keeps them apart.
    """
    own = zlib.crc32(scope.user_id.encode())
    return tuple(number ^ own for number in words.indices)


def _weights(counts: Mapping[int, float]) -> Sparse:
    weights = ranking.saturated(counts)
    return Sparse(tuple(weights), tuple(weights.values()))


@cache
def _bm25() -> qdrant_edge.Bm25:
    return qdrant_edge.Bm25(qdrant_edge.Bm25Config(k=ranking.COUNTING["k"], b=ranking.COUNTING["b"]))


def _window_vector(place: Place, around: Sequence[tuple[int, Place]]) -> Sequence[float] | None:
    window = [(0, place), *around]
    parts = [ranking.WINDOW[distance] * other.text for distance, other in window if other.text is not None]
    if not parts:
        return None
    total = reduce(np.add, parts)
    length = math.sqrt(total @ total)
    if length == 0.0:
        return None if place.text is None else place.text.tolist()
    unit: list[float] = (total / length).tolist()
    return unit
