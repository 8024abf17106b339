"""Ways to search a memory, compared: what is kept (turns, facts or both), and how it is ranked. No language model.

The memory is the product's own: turns come in through `Memory.add`, facts through `Memory.load`, and questions are
asked of `Memory.search`, for as many items as are looked at, so that a setting is measured as its user would meet it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from ...errors import InvalidInputError
from ...memory import Memory
from ...serving.unconfigured import UnconfiguredBackend
from ...store.ranking import DEFAULT, Ranking
from ...types import Message, Scope, fact_id
from ..harness.config_file import read_config
from ..harness.scratch import Lent
from ..musique import KS as MUSIQUE_KS
from ..retrieval import Bm25Search, DenseSearch
from .places import Place
from .recall import Found, Outcome, Recall, recall, with_evidence

if TYPE_CHECKING:
    from ...embedding import Embedder
    from ...store.base import FactStore
    from ..conversations import Conversation, WrittenFact
    from ..musique import MuSiQue
    from ..retrieval import Search

Unit = Literal["turns", "facts", "both"]
"""What is kept of a conversation: what was said, what a teacher distilled of it, or both."""
UNITS: tuple[Unit, ...] = get_args(Unit)
KS = (10, 30)
"""How many items of a conversation are looked at."""
Progress = Callable[[int, int], None]
"""(questions asked, of how many), over all settings."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A ranking under a name, and what it is measured over."""

    name: str
    ranking: Ranking = DEFAULT
    units: tuple[Unit, ...] = UNITS


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
    """Settings from TOML; a ranking's fields that are left out are the default's:

        [[setting]]
        name = "words count double"
        units = ["turns", "both"]
        ranking = {context_words = 2.0, fusion = "scores"}

    Raises:
        SettingsError: the file cannot be read, or says something else; it names the key.
    """
    return [Setting(row.name, row.ranking, row.units) for row in read_config(file, _Rows).setting]


def _ranking(given: Any) -> Ranking:
    known = [field.name for field in fields(Ranking)]
    if not isinstance(given, dict) or not set(given) <= set(known):
        raise ValueError(f"is a table of {', '.join(known)}, got {given!r}")
    return Ranking(**given)


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    units: Annotated[tuple[Unit, ...], Field(min_length=1)] = UNITS
    ranking: Annotated[Ranking, BeforeValidator(_ranking)] = DEFAULT


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
    memory's own search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: str
    setting: str
    ranking: dict[str, float | int | str] | None
    score: Recall

    @classmethod
    def of(cls, unit: str, setting: str, ranking: Ranking | None, score: Recall) -> Measured:
        """With the fields of a ranking."""
        return cls(unit=unit, setting=setting, ranking=None if ranking is None else asdict(ranking), score=score)


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

    Each conversation has a memory of its own for each unit, filled once: what a ranking says is about searching only.
    `embedder` is only lent; give one that remembers (`CachedEmbedder`), or everything is embedded for every unit.

    Raises:
        InvalidInputError: no question with evidence, or no setting for these units. EmbeddingError; StoreError.
    """
    rows = [(unit, setting) for unit in units for setting in settings if unit in setting.units]
    if not rows:
        raise InvalidInputError("No setting is measured over any of these units.")
    outcomes: defaultdict[tuple[str, str], list[Outcome]] = defaultdict(list)
    total, done = len(rows) * sum(len(with_evidence(talk)) for talk in talks), 0
    for talk in talks:
        asked = with_evidence(talk)
        embedder.embed([question.text for question in asked])  # together, which is quicker than one by one
        for unit in units:
            with place() as opened, _memory(opened(DEFAULT), embedder) as kept:
                fill(kept, talk, unit)
                for setting in (setting for of, setting in rows if of == unit):
                    with _memory(opened(setting.ranking), embedder) as memory:
                        outcomes[unit, setting.name] += [
                            Outcome(
                                {k: _found(memory, talk.scope, k, one.text) for k in ks}, one.evidence, one.category
                            )
                            for one in asked
                        ]
                    done += len(asked)
                    progress(done, total)
    return [
        Measured.of(unit, setting.name, setting.ranking, recall(outcomes[unit, setting.name], ks=ks))
        for unit, setting in rows
    ]


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
        EmbeddingError; StoreError.
    """
    scope = Scope("musique")
    settings = [setting for setting in settings if "facts" in setting.units]
    total = len(data.questions) * (2 + len(settings))
    measured: list[Measured] = []

    def score(unit: str, name: str, ranking: Ranking | None, ask: Callable[[int, str], Found]) -> None:
        outcomes = [Outcome({k: ask(k, one.text) for k in ks}, one.evidence, one.hops) for one in data.questions]
        measured.append(Measured.of(unit, name, ranking, recall(outcomes, ks=ks)))
        progress(len(data.questions) * len(measured), total)

    baselines: Mapping[str, Search] = {
        "BM25": Bm25Search(data.documents),
        "dense": DenseSearch(data.documents, embedder),
    }
    embedder.embed([one.text for one in data.questions])
    for name, search in baselines.items():
        score("paragraphs", name, None, partial(_alone, search))
    with place() as opened, _memory(opened(DEFAULT), embedder) as kept:
        kept.load((_fact_row(scope, one.text, (one.id,), _EPOCH) for one in data.documents), scope=scope)
        for setting in settings:
            with _memory(opened(setting.ranking), embedder) as memory:
                score("memory of paragraphs", setting.name, setting.ranking, partial(_found, memory, scope))
    return measured


_EPOCH = "1970-01-01T00:00:00+00:00"
"""When a paragraph became true: all of them then, so that it tells nothing."""


def fill(memory: Memory, talk: Conversation, unit: Unit) -> None:
    """Keep a conversation in its scope: its turns, the facts written in its file, or both.

    Facts are what distilling would have made of them: the text as it is written, the messages it came from as sources,
    true from the time of the first of them on.
    """
    said: dict[str, Message] = {}
    for scope, messages in talk.sessions():
        said |= {message.id: message for message in messages}
        if unit != "facts":
            memory.add(messages, scope=scope, distil=False)
    if unit != "turns":
        memory.load((_row(talk, fact, said) for fact in talk.facts if fact.message_ids), scope=talk.scope)


def _row(talk: Conversation, fact: WrittenFact, said: Mapping[str, Message]) -> dict[str, Any]:
    times = [moment for id in fact.message_ids if (moment := said[id].created_at)]
    return _fact_row(talk.scope, fact.text, fact.message_ids, min(times).isoformat())


def _fact_row(scope: Scope, text: str, sources: Sequence[str], since: str) -> dict[str, Any]:
    """A fact as `Memory.load` takes it."""
    return {
        "kind": "fact",
        "id": fact_id(f"{scope} {' '.join(sources)}", text),
        "user_id": scope.user_id,
        "text": text,
        "sources": list(sources),
        "valid_from": since,
        "recorded_at": since,
        "operation": "ADD",
        "version": 1,
    }


def _memory(store: FactStore, embedder: Embedder) -> Memory:
    return Memory(backend=UnconfiguredBackend(), store=store, embedder=Lent(embedder))


def _alone(search: Search, limit: int, question: str) -> Found:
    return [(id,) for id in search(question, limit)]


def _found(memory: Memory, scope: Scope, limit: int, question: str) -> Found:
    return [hit.sources for hit in memory.search(question, scope=scope, limit=limit)]
