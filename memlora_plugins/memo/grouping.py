"""Groups of texts that are about the same thing, from their embeddings."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..embedding import Vectors

GROUP_SIZE = 6
MIN_SIMILARITY = 0.3

_CELLS = 1 << 24  # of the table of similarities, at a time: 64 MB
_DIGITS = 5  # what machines agree on


def by_similarity(
    vectors: Vectors, *, size: int = GROUP_SIZE, at_least: float = MIN_SIMILARITY
) -> list[tuple[int, ...]]:
    """Groups of 2 to `size` texts, as their places in `vectors` (unit length); a text is in one group at most.

    Greedy, with average links: again and again the two groups become one whose texts have the highest mean similarity
    (cosine) with each other, while that is `at_least` and the group is not too large. At first each text is a group.
    Groups are put together only over a text and one of its nearest, `2 * size` of each, so that the time goes with the
    square of the number of texts and the memory with the number. Equal vectors give equal groups, in order of place.
    """
    pairs = _near_pairs(vectors, 2 * size, at_least)
    again: list[tuple[float, int, int]] = []  # a heap of pairs whose groups have grown apart
    group = list(range(len(vectors)))  # of each text: the place of its group's first text
    members: dict[int, list[int]] = {}
    totals: dict[int, NDArray[np.float32]] = {}
    pair = next(pairs, None)
    while pair or again:
        if pair and (not again or pair <= again[0]):
            (distance, one, other), pair = pair, next(pairs, None)
        else:
            distance, one, other = heapq.heappop(again)
        here, there = sorted((group[one], group[other]))
        ours, theirs = members.get(here, [here]), members.get(there, [there])
        if here == there or len(ours) + len(theirs) > size:
            continue
        total, added = totals.get(here, vectors[here]), totals.get(there, vectors[there])
        mean = round(
            float(total @ added) / (len(ours) * len(theirs)), _DIGITS
        )  # the products' sum is the sums' product
        if mean < at_least:
            continue
        if -mean > distance:
            heapq.heappush(again, (-mean, one, other))
            continue
        members[here], totals[here] = ours + theirs, total + added
        members.pop(there, None)
        totals.pop(there, None)
        for place in theirs:
            group[place] = here
    return [tuple(sorted(members[here])) for here in sorted(members)]


def _near_pairs(vectors: Vectors, nearest: int, at_least: float) -> Iterator[tuple[float, int, int]]:
    """Each text with its nearest ones, every pair once, as (-similarity, place, place): the most similar first."""
    import numpy as np

    count = len(vectors)
    nearest = min(nearest, count - 1)
    if nearest < 1:
        return
    rows = max(1, _CELLS // count)
    found: list[NDArray[np.intp]] = []
    similar: list[NDArray[np.float32]] = []
    for start in range(0, count, rows):
        near = vectors[start : start + rows] @ vectors.T
        here = np.arange(start, start + len(near))
        near[here - start, here] = -np.inf
        places = np.argpartition(near, -nearest, axis=1)[:, -nearest:]
        scores = np.take_along_axis(near, places, axis=1).round(_DIGITS)
        enough = scores >= at_least
        others, own = places[enough], np.broadcast_to(here[:, None], places.shape)[enough]
        found.append(np.minimum(own, others) * count + np.maximum(own, others))
        similar.append(scores[enough])
    pairs, at = np.unique(np.concatenate(found), return_index=True)
    distances = -np.concatenate(similar)[at]
    for place in np.lexsort((pairs, distances)):
        yield round(float(distances[place]), _DIGITS), int(pairs[place] // count), int(pairs[place] % count)
