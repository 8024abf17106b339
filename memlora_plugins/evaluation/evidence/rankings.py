"""Ways to search a memory, compared: what is kept (turns, facts or both), and how it is ranked. No language model.

The memory is the product's own: turns come in through `Memory.add`, facts through `Memory.load`, and questions are
asked of `Memory.search`, for as many items as are looked at, so that a setting is measured as its user would meet it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from ...errors import InvalidInputError
from ...memory import Memory
from ...serving.unconfigured import UnconfiguredBackend
from ...store.ranking import DEFAULT, Ranking, as_ranking
from ...types import Hit, Kind, Message, Scope, fact_id
from ..harness.config_file import read_config
from ..harness.scratch import Lent
from ..musique import KS as MUSIQUE_KS
from ..retrieval import Bm25Search, DenseSearch
from .places import Place
from .recall import Found, ItemSearch, Outcome, Recall, alone, ask, measure, recall, with_evidence

if TYPE_CHECKING:
    from ...embedding import Embedder
    from ...store.base import FactStore
    from ..conversations import Conversation, WrittenFact
    from ..musique import MuSiQue

Unit = Literal["turns", "facts", "both"]
"""What is kept of a conversation: what was said, what a teacher distilled of it, or both."""
UNITS: tuple[Unit, ...] = get_args(Unit)
Untold = Literal["neighbours", "dates", "speakers"]
"""What a memory is not told of a conversation: which turns belong together, when it was, who speaks."""
KS = (10, 30)
"""How many items of a conversation are looked at."""
Progress = Callable[[int, int], None]
"""(questions asked, of how many), over all settings."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A ranking under a name, and what it is measured over.

    For ablations of what a ranking does not decide: `without` is not told to the memory of a conversation; with a
    `fact_share` (0 to 1) that share of the items, rounded up, are the best facts, the others the best turns, one of
    each by turns; with `relevance` (0 to 1) items are taken one by one from three times as many by maximal marginal
    relevance: so much counts the score, the rest how unlike the item is to those taken.

    Raises:
        InvalidInputError: a share is out of its range, or a `fact_share` is not of facts and turns, or is with
            `relevance`.
    """

    name: str
    ranking: Ranking = DEFAULT
    units: tuple[Unit, ...] = UNITS
    without: tuple[Untold, ...] = ()
    fact_share: float | None = None
    relevance: float | None = None

    def __post_init__(self) -> None:
        for name, share in (("fact_share", self.fact_share), ("relevance", self.relevance)):
            if share is not None and not 0 <= share <= 1:
                raise InvalidInputError(f"{name} is a share from 0 to 1, got {share!r}.")
        if self.fact_share is not None and self.units != ("both",):
            raise InvalidInputError('fact_share is for units = ["both"].')
        if self.fact_share is not None and self.relevance is not None:
            raise InvalidInputError("fact_share and relevance are two ways to choose items; measure one of them.")


SETTINGS = (
    Setting("dense", Ranking(context=0, context_words=0, carried=0, named=0)),
    Setting("dense with neighbours", Ranking(text=0, context_words=0, carried=0, named=0), ("turns", "both")),
    Setting("BM25 with neighbours", Ranking(text=0, context=0, carried=0, named=0)),
    Setting("hybrid by RRF", Ranking(fusion="rrf")),
    Setting("hybrid without names", Ranking(named=0), ("turns", "both")),
    Setting("hybrid without carrying", Ranking(carried=0), ("both",)),
    Setting("hybrid, the default"),
)
"""What is compared unless a file says otherwise: each signal by itself, then all of them, with one thing changed each
time. A fact has no neighbours, only turns tell who there is to be named, and only among both is there something to
carry over."""


def read_settings(file: Path) -> list[Setting]:
    """Settings from TOML; what is left out is the default's:

        [[setting]]
        name = "words count double"
        units = ["turns", "both"]
        ranking = {context_words = 2.0, fusion = "scores"}

        [[setting]]
        name = "half of the items facts, nobody known by name"
        units = ["both"]
        without = ["speakers"]
        fact_share = 0.5

    Raises:
        SettingsError: the file cannot be read, or says something else; it names the key.
    """
    return [row.setting() for row in read_config(file, _Rows).setting]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    units: Annotated[tuple[Unit, ...], Field(min_length=1)] = UNITS
    ranking: Annotated[Ranking, BeforeValidator(as_ranking)] = DEFAULT
    without: tuple[Untold, ...] = ()
    fact_share: float | None = None
    relevance: float | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        try:
            self.setting()
        except InvalidInputError as error:
            raise ValueError(str(error)) from error
        return self

    def setting(self) -> Setting:
        return Setting(**dict(self))


class _Rows(BaseModel):
    model_config = ConfigDict(extra="forbid")

    setting: Annotated[tuple[_Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if len({row.name for row in self.setting}) < len(self.setting):
            raise ValueError("two settings of one name; names tell them apart")
        return self


class Measured(BaseModel):
    """What one setting found. `unit` is what it searched, `ranking` the fields of its `Ranking`; None: it is not the
    memory's own search. `without`, `fact_share` and `relevance` are those of its `Setting`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: str
    setting: str
    ranking: dict[str, float | int | str] | None
    without: tuple[Untold, ...] = ()
    fact_share: float | None = None
    relevance: float | None = None
    score: Recall

    @classmethod
    def of(cls, unit: str, setting: Setting, score: Recall) -> Measured:
        """What a setting found."""
        return cls(
            unit=unit,
            setting=setting.name,
            ranking=asdict(setting.ranking),
            without=setting.without,
            fact_share=setting.fact_share,
            relevance=setting.relevance,
            score=score,
        )


def measure_conversations(
    talks: Sequence[Conversation],
    settings: Sequence[Setting],
    units: Sequence[Unit],
    embedder: Embedder,
    place: Place,
    *,
    ks: Sequence[int] = KS,
    progress: Progress = lambda done, total: None,
) -> list[Measured]:
    """Ask every answerable question with evidence, of every setting over every one of its units.

    Each conversation has a memory of its own for each unit and each `without`, filled once: what a ranking says is
    about searching only. `embedder` is only lent; give one that remembers (`CachedEmbedder`), or everything is embedded
    for every unit.

    Raises:
        InvalidInputError: no question with evidence, or no setting for these units. EmbeddingError; StoreError.
    """
    rows = [(unit, setting) for unit in units for setting in settings if unit in setting.units]
    if not rows:
        raise InvalidInputError("No setting is measured over any of these units.")
    filled: defaultdict[tuple[Unit, tuple[Untold, ...]], list[Setting]] = defaultdict(list)
    for unit, setting in rows:
        filled[unit, setting.without].append(setting)
    outcomes: defaultdict[tuple[str, str], list[Outcome]] = defaultdict(list)
    total, done = len(rows) * sum(len(with_evidence(talk.questions)) for talk in talks), 0
    for talk in talks:
        asked = with_evidence(talk.questions)
        embedder.embed([question.text for question in asked])  # together, which is quicker than one by one
        for (unit, without), alike in filled.items():
            with place() as opened, _memory(opened(DEFAULT), embedder) as kept:
                fill(kept, talk, unit, without)
                for setting in alike:
                    with _memory(opened(setting.ranking), embedder) as memory:
                        search = partial(_found, memory, talk.scope, setting, embedder)
                        outcomes[unit, setting.name] += ask(asked, search, ks=ks)
                    done += len(asked)
                    progress(done, total)
    return [Measured.of(unit, setting, recall(outcomes[unit, setting.name], ks=ks)) for unit, setting in rows]


def measure_paragraphs(
    data: MuSiQue,
    settings: Sequence[Setting],
    embedder: Embedder,
    place: Place,
    *,
    ks: Sequence[int] = MUSIQUE_KS,
    progress: Progress = lambda done, total: None,
) -> list[Measured]:
    """Ask every question of MuSiQue: of BM25 and dense retrieval, the paper's baselines, and of a memory in which each
    paragraph is a fact, with the settings for facts.

    Raises:
        InvalidInputError: no setting is for facts, or one is `without` what paragraphs do not have. EmbeddingError;
            StoreError.
    """
    scope = Scope("musique")
    settings = [setting for setting in settings if "facts" in setting.units]
    if not settings:
        raise InvalidInputError("No setting is measured over facts, and as such a memory keeps paragraphs.")
    if told := [setting.name for setting in settings if setting.without]:
        raise InvalidInputError(
            f"Paragraphs have no neighbours, dates or speakers, so {told[0]!r} changes nothing: leave it out."
        )
    total = len(data.questions) * (2 + len(settings))
    measured: list[Measured] = []

    def found(search: ItemSearch) -> Recall:
        score = measure(data.questions, search, ks=ks)
        progress(len(data.questions) * (len(measured) + 1), total)
        return score

    embedder.embed([one.text for one in data.questions])
    for name, baseline in (("BM25", Bm25Search(data.documents)), ("dense", DenseSearch(data.documents, embedder))):
        score = found(alone(baseline))
        measured.append(Measured(unit="paragraphs", setting=name, ranking=None, score=score))
    with place() as opened, _memory(opened(DEFAULT), embedder) as kept:
        kept.load((_fact_row(scope, one.text, (one.id,), _UNDATED) for one in data.documents), scope=scope)
        for setting in settings:
            with _memory(opened(setting.ranking), embedder) as memory:
                score = found(partial(_found, memory, scope, setting, embedder))
                measured.append(Measured.of("memory of paragraphs", setting, score))
    return measured


_UNDATED = datetime.fromtimestamp(0, UTC)
"""When a paragraph became true, or what has no date was said: all of it then, so that it tells nothing."""


def fill(memory: Memory, talk: Conversation, unit: Unit, without: Sequence[Untold] = ()) -> None:
    """Keep a conversation in its scope: its turns, the facts written in its file, or both.

    Facts are what distilling would have made of them: the text as it is written, the messages it came from as sources,
    true from the time of the first of them on. `without` `dates`, everything is of one day, in order; without
    `speakers`, turns have no name (a fact's text may have one); without `neighbours`, each turn is a session of its
    own.
    """
    said: dict[str, Message] = {}
    for scope, messages in _told(talk, without):
        said |= {message.id: message for message in messages}
        if unit != "facts":
            memory.add(messages, scope=scope, distil=False)
    if unit != "turns":
        memory.load((_row(talk, fact, said) for fact in talk.facts if fact.message_ids), scope=talk.scope)


def _told(talk: Conversation, without: Sequence[Untold]) -> Iterator[tuple[Scope, list[Message]]]:
    """What is added, session by session."""
    place = 0
    for scope, messages in talk.sessions():
        told: list[Message] = []
        for message in messages:
            if "dates" in without:
                message = replace(message, created_at=_UNDATED + timedelta(seconds=place))
            told.append(replace(message, name=None) if "speakers" in without else message)
            place += 1
        if "neighbours" in without:
            yield from ((replace(scope, session_id=one.id), [one]) for one in told)
        else:
            yield scope, told


def _row(talk: Conversation, fact: WrittenFact, said: Mapping[str, Message]) -> dict[str, Any]:
    times = [moment for id in fact.message_ids if (moment := said[id].created_at)]
    return _fact_row(talk.scope, fact.text, fact.message_ids, min(times))


def _fact_row(scope: Scope, text: str, sources: Sequence[str], since: datetime) -> dict[str, Any]:
    """A fact as `Memory.load` takes it."""
    return {
        "kind": "fact",
        "id": fact_id(f"{scope} {' '.join(sources)}", text),
        "user_id": scope.user_id,
        "text": text,
        "sources": list(sources),
        "valid_from": since.isoformat(),
        "recorded_at": since.isoformat(),
        "operation": "ADD",
        "version": 1,
    }


def _memory(store: FactStore, embedder: Embedder) -> Memory:
    return Memory(backend=UnconfiguredBackend(), store=store, embedder=Lent(embedder))


def _found(memory: Memory, scope: Scope, setting: Setting, embedder: Embedder, question: str, limit: int) -> Found:
    def search(most: int, *kinds: Kind) -> list[Hit]:
        return memory.search(question, scope=scope, limit=most, kinds=kinds) if most else []

    if setting.fact_share is not None:
        facts = search(math.ceil(round(setting.fact_share * limit, 9)), "fact")  # 0.14 of 50 is 7
        turns = search(limit - len(facts), "turn")
        return [hit.sources for pair in zip_longest(facts, turns) for hit in pair if hit is not None]
    if setting.relevance is not None:
        hits = _diverse(search(3 * limit, "fact", "turn"), limit, setting.relevance, embedder)
    else:
        hits = search(limit, "fact", "turn")
    return [hit.sources for hit in hits]


def _diverse(hits: Sequence[Hit], limit: int, relevance: float, embedder: Embedder) -> list[Hit]:
    """At most `limit` of the hits by maximal marginal relevance (Carbonell and Goldstein, 1998), scores from 0 to 1
    over these hits, and likeness by the cosine of their texts."""
    import numpy as np

    if not hits:
        return []
    vectors = np.asarray(embedder.embed([hit.text for hit in hits]))
    alike = vectors @ vectors.T
    scores = np.array([hit.score for hit in hits])
    scores = (scores - scores.min()) / (np.ptp(scores) or 1)
    taken: list[int] = []
    nearest = np.zeros(len(hits))
    while len(taken) < min(limit, len(hits)):
        worth = relevance * scores - (1 - relevance) * nearest
        worth[taken] = -np.inf
        taken.append(int(worth.argmax()))
        nearest = np.maximum(nearest, alike[taken[-1]])
    return [hits[at] for at in taken]
