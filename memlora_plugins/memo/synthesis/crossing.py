"""Which chunks step 5 compares: pairs of a group, capped, and drawn so that every chunk has its share.

Pairs are the unit, as in the paper: their number grows with the square of the group (Appendix C), which the caps bound.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from math import comb
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from .options import SynthesisOptions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Crossing:
    """Two chunks of a group that are compared, by id, in the order of the group."""

    group: str
    one: str
    other: str

    @property
    def unit(self) -> str:
        """How a report calls it."""
        return f"{self.group}: {self.one} + {self.other}"


class GroupPlan(BaseModel):
    """How many of the pairs of a group's chunks are compared; the rest is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    chunks: int
    pairs: int
    compared: int

    @property
    def left_out(self) -> int:
        return self.pairs - self.compared


def plan(groups: Mapping[str, Sequence[str]], options: SynthesisOptions) -> tuple[list[Crossing], dict[str, GroupPlan]]:
    """The pairs to compare, group by group, and what the caps of `options` leave of each group.

    Where `max_cross_calls` is too few for all groups, they have one pair each in turn.
    """
    members = {name: list(dict.fromkeys(chunks)) for name, chunks in groups.items()}
    wanted = [_drawn_up(name, chunks, options) for name, chunks in members.items()]
    in_turn = (crossing for turn in zip_longest(*wanted) for crossing in turn if crossing is not None)
    chosen = set(islice(in_turn, options.max_cross_calls))
    kept = [[crossing for crossing in crossings if crossing in chosen] for crossings in wanted]
    plans = {
        name: GroupPlan(group=name, chunks=len(chunks), pairs=comb(len(chunks), 2), compared=len(crossings))
        for (name, chunks), crossings in zip(members.items(), kept, strict=True)
    }
    return [crossing for crossings in kept for crossing in crossings], plans


def drawn(items: Sequence[T], most: int, seed: str) -> list[T]:
    """At most `most` of `items`, in their order, drawn at random by `seed`."""
    if len(items) <= most:
        return list(items)
    places = random.Random(seed).sample(range(len(items)), most)
    return [items[place] for place in sorted(places)]


def _drawn_up(group: str, chunks: list[str], options: SynthesisOptions) -> list[Crossing]:
    place = {id: number for number, id in enumerate(chunks)}
    rounds = _rounds(chunks, random.Random(f"{options.seed}:{group}"))
    return [
        Crossing(group, *((a, b) if place[a] < place[b] else (b, a)))
        for a, b in islice(rounds, options.cross_pairs_per_group)
    ]


def _rounds(items: list[str], chance: random.Random) -> Iterator[tuple[str, str]]:
    """All pairs of `items`, in rounds in which each has one partner, as a tournament is drawn up.

    So however soon they are cut off, no item has many partners before another has any.
    """
    circle: list[str | None] = list(items)
    chance.shuffle(circle)
    if len(circle) % 2:
        circle.append(None)  # its partner rests
    half = len(circle) // 2
    for _ in range(len(circle) - 1):
        yield from ((a, b) for a, b in zip(circle[:half], circle[: half - 1 : -1], strict=True) if a and b)
        circle = [circle[0], circle[-1], *circle[1:-1]]
