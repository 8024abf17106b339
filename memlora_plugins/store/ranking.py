"""How memories are ranked: what of them is searched, and how the lists of the signals become one ranking.

Pure arithmetic on what a store read. Each point carries three vectors that are searched with the question:

- `text`: the embedding of what was said, with the speaker's name before it (`turn_text`), or of a fact;
- `context`: the unit-length sum of the `text` vectors of a turn and the turns around it in the session (`WINDOW`);
- `context_words`: the same window by words: term counts summed with the same weights, then saturated as in BM25.
  The engine multiplies by the inverse document frequency among the points of the scope's user and agent.

A short "Yes, last May!" is found by the question before it, and the words of a whole exchange weigh more than one
lucky word. A fact has no surroundings, so its context is itself. By evidence found, windows matter most, then adding up
scores instead of ranks.

What is chosen when a question is asked is a `Ranking`, which a store takes. What is fixed when a memory is written, and
constant here: the texts that are embedded and searched by words, `WINDOW`, `COUNTING` and `SATURATION`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from ..errors import SettingsError

if TYPE_CHECKING:
    from datetime import datetime

    from ..types import Fact, Turn

Id = TypeVar("Id", int, str)
Fusion = Literal["scores", "rrf"]

WINDOW = (1.0, 0.7, 0.4)
"""Share in a turn's context of the turn itself, of the next one on each side, and of the one after that."""

COUNTING = {"k": 1e6, "b": 0.0}
"""`Bm25Config` arguments with which a document's BM25 weights are plain term counts (to one in a million)."""

SATURATION = 1.2
"""BM25's k: how fast the repetition of a word stops counting."""

CAPTION = "caption"
"""Key in a message's metadata for a description in words of its images; it is searched with the text."""

SIGNALS = ("text", "context", "context_words")
"""The vectors that a search can ask for."""

RRF = 60
"""Reciprocal rank fusion adds up weight / (RRF + rank), ranks from 1."""

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How the answer to a question is ranked: nothing here is about what is stored, so one memory can be asked in many
    ways. The weights were chosen on conversations other than the one they were checked on.

    Raises:
        SettingsError: a field is out of its range, or no signal has a weight.
    """

    text: float = 0.3
    """Weight of the signal `text`, the meaning of the thing itself. A signal without weight is not searched."""
    context: float = 0.6
    """Weight of `context`, the meaning of a turn with its neighbours."""
    context_words: float = 1.0
    """Weight of `context_words`, the words of a turn with its neighbours."""
    fusion: Fusion = "scores"
    """How the signals' lists become one: by adding up scores, or, with `rrf`, by ranks alone; see `fuse`."""
    carried: float = 0.3
    """Share of a fact's score that its source turns get, and of a turn's score that its facts get."""
    named: float = 0.2
    """Share of the best score that is added to what is said by somebody whom the question names, or about them
    (`names.named`). Names are those of the turns that are found: among facts alone, nobody is known by name."""
    candidates: int = 200
    """How many items each signal puts up at most. More changes the found evidence by less than a hundredth."""
    for_each: int = 6
    """How many items each signal puts up for each that is wanted, up to `candidates`: few wanted, less to sort out. 10
    find most of a hundredth more of the evidence, and take a third longer."""
    look_ahead: int = 3
    """`rerank` is given this many times the items that are wanted; 5 found as much to two thousandths."""

    def __post_init__(self) -> None:
        for name in (*SIGNALS, "carried", "named"):
            _check(name, getattr(self, name), 0, whole=False)
        for name in ("candidates", "for_each", "look_ahead"):
            _check(name, getattr(self, name), 1, whole=True)
        if self.fusion not in get_args(Fusion):
            raise SettingsError(f"Ranking.fusion is {' or '.join(get_args(Fusion))}, got {self.fusion!r}.")
        if not self.weights:
            raise SettingsError(f"A Ranking needs a weight above 0 for at least one of {', '.join(SIGNALS)}.")

    @property
    def weights(self) -> dict[str, float]:
        """The signals that are searched, with their weights."""
        return {name: getattr(self, name) for name in SIGNALS if getattr(self, name) > 0}

    def put_up(self, wanted: int, besides: int = 0) -> int:
        """How many items each signal is asked for where so many are `wanted`, and up to `besides` are left out."""
        return max(min(self.candidates, self.for_each * wanted + besides), wanted)


def _check(name: str, value: float, least: int, *, whole: bool) -> None:
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not number or not least <= value < math.inf:
        kind = "a whole" if whole else "a finite"
        raise SettingsError(f"Ranking.{name} is {kind} number of at least {least}, got {value!r}.")


DEFAULT = Ranking()
"""How a store ranks unless it is told otherwise."""


def as_ranking(given: object) -> Ranking:
    """A `Ranking` as it is, or one of a table of its fields, where those that are left out are the default's.

    Raises:
        SettingsError: it is neither, or a field is out of its range.
    """
    if isinstance(given, Ranking):
        return given
    known = [field.name for field in fields(Ranking)]
    if not isinstance(given, Mapping) or not set(given) <= set(known):
        raise SettingsError(f"A ranking is a Ranking or a table of {', '.join(known)}; got {given!r}.")
    return Ranking(**given)


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


def fuse(lists: Mapping[str, Sequence[tuple[Id, float]]], ranking: Ranking = DEFAULT) -> list[tuple[Id, float]]:
    """One ranking from one list of (id, score) per signal, best first; ties by id. An item that a list lacks gets
    nothing from it. Scores are >= 0.

    `scores`: those of a list are measured from its lowest in standard deviations, weighted and added up; the lowest
    gets nothing either. A list shorter than another (few items hold a word of the question) counts as filled up with
    zeros. `rrf`: weight / (`RRF` + rank), added up; equal scores share a rank.
    """
    shares = _by_rank if ranking.fusion == "rrf" else _by_score
    weights = ranking.weights
    longest = max(map(len, lists.values()), default=0)
    totals: dict[Id, float] = {}
    for signal, found in lists.items():
        weight = weights.get(signal, 0.0)
        for id, share in shares(found, longest):
            totals[id] = totals.get(id, 0.0) + weight * share
    ordered = sorted((-total, id) for id, total in totals.items())
    return [(id, -total) for total, id in ordered]


def _by_rank(found: Sequence[tuple[Id, float]], longest: int) -> list[tuple[Id, float]]:
    shares: list[tuple[Id, float]] = []
    rank, before = 0, math.inf
    for place, (id, score) in enumerate(found, start=1):
        if score < before:  # equal scores come in any order: they share the best rank
            rank, before = place, score
        shares.append((id, 1 / (RRF + rank)))
    return shares


def _by_score(found: Sequence[tuple[Id, float]], longest: int) -> list[tuple[Id, float]]:
    if not found:
        return []
    scores = [score for _, score in found]
    scores += [0.0] * (longest - len(scores))
    mean = sum(scores) / longest
    spread = math.dist(scores, [mean] * longest) / longest**0.5
    lowest = min(scores)
    # equal scores say that each item was found, and nothing else
    scale = 1 / spread if spread > 1e-9 else 0.0
    return [(id, scale * (score - lowest)) for id, score in found]


def rerank(
    ranked: Sequence[tuple[str, float]],
    sources: Mapping[str, Collection[str]],
    ranking: Ranking = DEFAULT,
    *,
    named: Collection[str] = (),
) -> list[tuple[str, float]]:
    """Favour what is said by or about whom the question names, let facts and the turns they came from vouch for each
    other, and put echoes last.

    `ranked` is the best of `fuse`, about `look_ahead` times as many as are wanted. `sources` gives, for each fact, the
    ids of the turns it came from; every other item counts as a turn. Leave out a fact that says something else than
    its turns by now (updated or edited), so that they do not stand in for it. `named`: ids to favour, see `names`.

    An item all of whose sources better items cover already adds little: it goes behind those that bring something new.
    """
    most = max((score for _, score in ranked), default=0.0)
    before = {id: own + ranking.named * most if id in named else own for id, own in ranked}
    score = dict(before)
    vouched: dict[str, float] = {}
    for fact, turns in sources.items():
        here = [turn for turn in turns if turn in before]
        if here and fact in before:
            score[fact] += ranking.carried * max(before[turn] for turn in here)
            for turn in here:
                vouched[turn] = max(vouched.get(turn, 0.0), before[fact])
    for turn, best in vouched.items():
        score[turn] += ranking.carried * best
    covered: set[str] = set()
    new: list[tuple[str, float]] = []
    echoes: list[tuple[str, float]] = []
    for id in sorted(score, key=lambda id: (-score[id], id)):
        origin = sources.get(id) or (id,)
        (echoes if covered.issuperset(origin) else new).append((id, score[id]))
        covered.update(origin)
    return new + [(id, min(own, new[-1][1])) for id, own in echoes]
