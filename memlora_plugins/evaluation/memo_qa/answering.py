"""MeMo beside what it is compared with: every method of a `MemoConfig` answers every question, and a judge marks them.

Bounds are answers without any context and from the evidence alone (Appendix I of the MeMo paper), baselines read what
BM25 and embeddings find (Section 5) at each noise level (Section 5.2), and MeMo answers by each of its protocols
(Appendix J) with each Memory model.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BackendError
from ...memo.card import read_card
from ...memo.executive import EndpointExecutive
from ...memo.memory_model import MemoryModel
from ...memo.models import NAME, is_lora
from ...memo.prompts import Prompts
from ...memo.protocol import Protocol
from ...serving.adapters import preflight, weights_sha256
from ...training.identity import digest
from ..harness.endpoints import speaking_of
from ..judge import Judge, JudgedItem, kind_of
from ..judge import summary as judged
from ..musique import evidence_search
from ..retrieval import Bm25Search, DenseSearch
from .reading import NO_CONTEXT_PROMPT, PROMPT, GivenAnswer, Method, Row, aanswers, memo, no_context, reader

if TYPE_CHECKING:
    from ...embedding import Embedder
    from ...serving.openai_compatible import OpenAIBackend
    from ...training.journal import Journal
    from ..harness.endpoints import ExecutiveEndpoint, JudgeEndpoint
    from ..retrieval import Search
    from .config import MemoConfig, MemoryEntry
    from .material import Material

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""(what is done, steps done, of how many)."""
Searches = Mapping[int, Mapping[str, "Search"]]
"""Noise level to baseline to what finds its documents."""

NO_JUDGE = "no judge is named; give the configuration a [judge] with base_url and model"


def check_models(config: MemoConfig) -> None:
    """Say at the start, not after hours, that a model cannot be what it is said to be; nothing is asked or loaded.

    Raises:
        SettingsError: an address cannot be used, or a folder holds no Memory model.
        AdapterInvalidError: an adapter cannot be used.
    """
    for endpoint in (*config.executive, *([config.judge] if config.judge else [])):
        endpoint.backend().close()
    for entry in config.memory:
        _opened(entry).close()


def searches(
    config: MemoConfig, material: Material, embedder: Embedder | None, *, progress: Progress | None = None
) -> Searches:
    """BM25 and dense retrieval over the corpus of each level, as far as `config` has them among its baselines.

    `embedder` is only lent; None where dense retrieval is not wanted.

    Raises:
        EmbeddingError: it failed.
    """
    made: dict[int, dict[str, Search]] = {}
    for level, corpus in material.levels.items():
        found: dict[str, Search] = {}
        if "BM25" in config.baselines:
            found["BM25"] = Bm25Search(corpus.documents)
        if "dense" in config.baselines and embedder is not None:

            def tell(done: int, total: int, level: int = level) -> None:
                if progress is not None:
                    progress(f"embedding, {level}N", done, total)

            found["dense"] = DenseSearch(corpus.documents, embedder, progress=tell)
        made[level] = found
    return made


async def aanswered(
    config: MemoConfig,
    material: Material,
    found_by: Searches,
    *,
    embedder: str = "",
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> list[GivenAnswer]:
    """What every method answers to every question in every run; `embedder` is the name of the one that dense
    retrieval has.

    One Memory model is open at a time, and closed in this event loop. Answers are kept in `journal` as they come, by
    all that they depend on (models, corpus, prompts, options): in a second measurement with more methods, levels, runs
    or questions, only those are asked for. What failed is asked for again.

    Raises:
        BackendUnavailableError, BackendNotConfiguredError, AdapterError: a model is out of reach.
        SettingsError: a Memory model cannot be opened, or is to abstain on a server that does not tell how sure it is.
        DatasetError: the journal cannot be written, or holds something else.
    """

    async def ask(what: str, methods: Sequence[Method]) -> list[GivenAnswer]:
        tell = None if progress is None else (lambda done, total: progress(what, done, total))
        return await aanswers(
            material.questions, methods, concurrency=config.concurrency, progress=tell, journal=journal
        )

    async with AsyncExitStack() as opened:
        executives: list[tuple[ExecutiveEndpoint, OpenAIBackend]] = []
        for endpoint in config.executive:
            backend = endpoint.backend()
            opened.push_async_callback(backend.aclose)
            executives.append((endpoint, backend))
        answers = await ask("bounds and baselines", list(_readers(config, material, found_by, executives, embedder)))
        for entry in config.memory:
            async with _opened(entry) as model:
                answers += await ask(f"MeMo {entry.name}", list(_protocols(config, entry, model, executives)))
    return answers


async def ajudged(
    answers: Sequence[GivenAnswer],
    judge: JudgeEndpoint | None,
    *,
    concurrency: int = 8,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> tuple[list[GivenAnswer], str | None]:
    """The answers with their verdicts, and None; or as they were, and why judged accuracy is not available.

    Equal answers are judged once. What answering failed to give is nothing to judge: it counts as wrong.

    Raises:
        DatasetError: the journal cannot be written, or holds something else.
    """
    given = list(answers)
    if judge is None:
        return given, NO_JUDGE
    items = [JudgedItem(one.question, one.expected, one.answer) for one in given if one.answer is not None]
    tell = None if progress is None else (lambda done, total: progress("judging", done, total))
    backend = judge.backend()
    try:
        verdicts = iter(await Judge(backend).ajudge_all(items, concurrency=concurrency, journal=journal, progress=tell))
    except BackendError as error:
        log.warning("%s", error)  # the report, which may be published, has not its words
        return given, f"the judge {judge.label!r} cannot be asked ({kind_of(error)}); run it again when it can"
    finally:
        await backend.aclose()
    marked = [one if one.answer is None else one.model_copy(update={"verdict": next(verdicts)}) for one in given]
    return marked, judged([one.verdict for one in marked if one.verdict is not None]).unavailable if items else None


def answered_and_judged(
    config: MemoConfig,
    material: Material,
    found_by: Searches,
    *,
    embedder: str,
    journals: tuple[Journal, Journal],
    progress: Progress | None = None,
) -> tuple[list[GivenAnswer], str | None]:
    """`aanswered` and `ajudged` in an event loop of their own; `journals` are for answers and for verdicts.

    Raises:
        as those.
    """

    async def both() -> tuple[list[GivenAnswer], str | None]:
        said = await aanswered(config, material, found_by, embedder=embedder, journal=journals[0], progress=progress)
        return await ajudged(said, config.judge, concurrency=config.concurrency, journal=journals[1], progress=progress)

    return asyncio.run(both())


# Methods -------------------------------------------------------------------------------------------------------------


def _readers(
    config: MemoConfig,
    material: Material,
    found_by: Searches,
    executives: Sequence[tuple[ExecutiveEndpoint, OpenAIBackend]],
    embedder: str,
) -> Iterator[Method]:
    """The bounds, once; and the baselines, at each level."""
    evidence = material.evidence
    texts = {one.id: one.sha256 for one in evidence}
    read = {one.id: digest([texts[id] for id in one.evidence]) for one in material.questions if one.evidence}
    most = max((len(question.evidence) for question in material.questions), default=0)
    warmth = config.temperature
    for endpoint, backend in executives:
        runs = endpoint.runs or config.runs

        def key(*made_of: object, asked: Sequence[str] = _asked(endpoint, backend)) -> str:
            return digest([*asked, warmth, *made_of])

        def row(method: str, noise: int | None = None, by: str = endpoint.label) -> Row:
            return Row(method=method, executive=by, noise=noise)

        if "no context" in config.baselines:
            answer = no_context(backend, temperature=warmth)
            yield Method(row("no context"), answer, key(NO_CONTEXT_PROMPT), runs)
        if "perfect retrieval" in config.baselines and read:
            answer = reader(backend, evidence, evidence_search(material.questions), k=most, temperature=warmth)
            yield Method(row("perfect retrieval"), answer, key(PROMPT, "evidence"), runs, read)
        for level, by_name in found_by.items():
            documents = material.levels[level].documents
            corpus = [one.sha256 for one in documents]
            for name, search in by_name.items():
                answer = reader(backend, documents, search, k=config.top_k, temperature=warmth)
                how = [name, embedder if name == "dense" else "", config.top_k]
                yield Method(row(name, level), answer, key(PROMPT, how, corpus), runs)


def _protocols(
    config: MemoConfig,
    entry: MemoryEntry,
    model: MemoryModel,
    executives: Sequence[tuple[ExecutiveEndpoint, OpenAIBackend]],
) -> Iterator[Method]:
    """One Memory model by each of its protocols, asked by each Executive."""
    who = _identity(entry)
    budgets, temperatures = config.of(entry)
    for endpoint, backend in executives:
        for name in entry.protocols:
            protocol = Protocol(
                executive=EndpointExecutive(backend),
                memory_model=model,
                budgets=budgets,
                temperatures=temperatures,
                method=name,
            )
            row = Row(
                method=memo_label(entry.name, name), executive=endpoint.label, noise=entry.noise, epoch=entry.epoch
            )
            how = [name, asdict(budgets), asdict(temperatures), asdict(Prompts())]
            key = digest([*_asked(endpoint, backend), who, how])
            yield Method(row, memo(protocol, called=_called(entry)), key, endpoint.runs or config.runs)


def _asked(endpoint: ExecutiveEndpoint, backend: OpenAIBackend) -> list[str]:
    """What an Executive's answers depend on: the model, its options, and what it is called: two servers can have one
    model in two ways."""
    return [endpoint.label, backend.identity]


def memo_label(name: str, protocol: str) -> str:
    """What tables call a Memory model with a protocol."""
    return f"MeMo {name}, {protocol.replace('_', '-')}"


def _opened(entry: MemoryEntry) -> MemoryModel:
    """
    Raises:
        SettingsError, AdapterInvalidError, MissingDependencyError: as `MemoryModel.open`.
    """
    key = os.environ.get(entry.api_key_env)
    with speaking_of(_called(entry)):
        if entry.folder is None:
            return MemoryModel(entry.base_url or "", entry.model or "", api_key=key)
        return MemoryModel.open(
            entry.folder, base=entry.base, base_url=entry.base_url, model=entry.model, api_key=key, device=entry.device
        )


def _called(entry: MemoryEntry) -> str:
    """What errors call a Memory model."""
    return f"The Memory model {entry.name!r}"


def _identity(entry: MemoryEntry) -> list[Any]:
    """What a Memory model's answers depend on: its weights, and when it abstains. Where only a server has the weights,
    the entry tells them apart: servers call many models by one name."""
    entered = [entry.name, entry.noise, entry.epoch]
    if entry.folder is None:
        return [entry.model, *entered]
    card = read_card(entry.folder)
    if is_lora(entry.folder):
        weights = preflight(NAME, entry.folder).name
    elif any(entry.folder.glob("*.safetensors")):
        weights = weights_sha256(entry.folder)
    else:  # a server has them
        weights = digest([card.row(), *entered])
    return [weights, entry.base and Path(entry.base).name, card.abstain_below]
