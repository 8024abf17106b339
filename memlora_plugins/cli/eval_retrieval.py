"""`memlora eval retrieval`: how much of the evidence each way to search a memory finds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .eval_options import Embedder, EmbedderUrl, print_tables, repeated
from .options import Json, command
from .output import console, print_json, progress

if TYPE_CHECKING:
    from ..evaluation.conversations import Conversation
    from ..evaluation.evidence.places import Place
    from ..evaluation.evidence.rankings import Measured, Unit
    from ..settings import Settings

_WHAT = "What is compared"
_STORE = "Where it is kept meanwhile"


class Kind(StrEnum):
    """What the file is."""

    locomo = "locomo"
    musique = "musique"


class Split(StrEnum):
    """A part of LoCoMo."""

    training = "training"
    validation = "validation"
    test = "test"


class Store(StrEnum):
    """What memories are kept in."""

    edge = "edge"
    qdrant = "qdrant"


class Facts(StrEnum):
    """Where facts come from."""

    observation = "observation"
    none = "none"


class Kept(StrEnum):
    """What is kept of a conversation and searched."""

    turns = "turns"
    facts = "facts"
    both = "both"


@command
def retrieval(
    *,
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A LoCoMo file, chat with questions as JSONL, or a MuSiQue file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; embeddings are kept there too.")],
    kind: Annotated[
        Kind | None, typer.Option(help="What the file is.", show_default="what it looks like", rich_help_panel=_WHAT)
    ] = None,
    conversation: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this one. Repeatable.", show_default="all", rich_help_panel=_WHAT),
    ] = None,
    split: Annotated[
        list[Split] | None,
        typer.Option(help="Only those of this part of LoCoMo. Repeatable.", show_default="all", rich_help_panel=_WHAT),
    ] = None,
    facts: Annotated[
        Facts, typer.Option(help="The facts to keep: those written in the file, or none.", rich_help_panel=_WHAT)
    ] = Facts.observation,
    unit: Annotated[
        list[Kept] | None,
        typer.Option(
            help="What is kept of a conversation and searched. Repeatable.",
            show_default="turns; with facts, each",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Rankings to compare: TOML, [[setting]] with name, units, ranking, without and fact_share.",
            show_default="each signal alone, and together",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Items looked at. Repeatable.", show_default="10 and 30; MuSiQue 5 and 9", rich_help_panel=_WHAT
        ),
    ] = None,
    negatives: Annotated[
        int,
        typer.Option(
            min=0, help="MuSiQue: paragraphs beside each one of evidence that do not help.", rich_help_panel=_WHAT
        ),
    ] = 1,
    store: Annotated[
        Store,
        typer.Option(
            help="The embedded store, or Qdrant: without an address, qdrant-client's slow one in process.",
            rich_help_panel=_STORE,
        ),
    ] = Store.edge,
    qdrant_url: Annotated[
        str | None,
        typer.Option(
            help="A Qdrant server, for collections that are removed again; its key is read from "
            "MEMLORA_QDRANT_API_KEY.",
            rich_help_panel=_STORE,
        ),
    ] = None,
    embedder: Embedder = None,
    embedder_url: EmbedderUrl = None,
    json: Json = False,
) -> None:
    """Compare rankings by the evidence they find: recall and nDCG of what a question takes, without a language model.

    Conversations are kept as turns, as the facts that are written in the file, and as both; of MuSiQue, the paragraphs
    are. Every text is embedded once: run again with other rankings, only they are computed.
    """
    from hashlib import sha256

    from ..core import build_embedder
    from ..evaluation import locomo, musique
    from ..evaluation.conversations import chosen, load_conversations
    from ..evaluation.evidence import rankings
    from ..evaluation.evidence.cached_embedder import CachedEmbedder
    from ..evaluation.evidence.report import RetrievalRun, tables
    from ..settings import load_settings

    paragraphs = (kind or _kind(file)) is Kind.musique
    if qdrant_url is not None and store is not Store.qdrant:
        raise typer.BadParameter("--qdrant-url is for --store qdrant")
    if conversation and split:
        raise typer.BadParameter("name conversations or splits, not both: the report says which split was measured")
    if paragraphs and (conversation or split or unit):
        raise typer.BadParameter("a MuSiQue file has paragraphs: no conversations, turns or facts to choose from")
    ks = tuple(sorted(set(k or (musique.KS if paragraphs else rankings.KS))))
    settings = rankings.SETTINGS if config is None else rankings.read_settings(config)
    configured = load_settings(adapters={}, embedder=embedder, embedder_url=embedder_url)
    place, kept_in = _place(store, qdrant_url, configured)
    talks: list[Conversation] = []
    kept: dict[str, int] = {}
    used = build_embedder(configured)
    with ExitStack() as opened:
        opened.callback(used.close)
        remembering = CachedEmbedder(used, out)
        opened.callback(remembering.close)
        with progress() as bar:
            task = bar.add_task("questions", total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            if paragraphs:
                data = musique.load(file, negatives=negatives)
                kept["paragraphs"] = len(data.documents)
                measured = rankings.measure_paragraphs(data, settings, remembering, place, ks=ks, progress=show)
            else:
                talks = load_conversations(file)
                if conversation or split:
                    parts = (id for name in split or () for id in locomo.SPLITS[name.value])
                    talks = chosen(talks, [*(conversation or ()), *parts])
                units = _units(talks, facts, unit)
                kept["turns"] = sum(len(talk.messages) for talk in talks) if set(units) != {"facts"} else 0
                kept["facts"] = sum(len(talk.facts) for talk in talks) if set(units) != {"turns"} else 0
                measured = rankings.measure_conversations(
                    talks, settings, units, remembering, place, ks=ks, progress=show
                )
    run = RetrievalRun(
        command=repeated(context),
        data=file.name,
        data_sha256=sha256(file.read_bytes()).hexdigest(),
        splits=tuple(dict.fromkeys(name.value for name in split or ())),
        conversations=tuple(talk.id for talk in talks),
        kept={what: count for what, count in kept.items() if count},
        store=kept_in,
        embedder=used.name,
        ks=ks,
        categories=_named(measured, paragraphs),
        measured=tuple(measured),
    )
    written = run.write(out)
    if json:
        print_json({"files": written, **run.model_dump(mode="json")})
        return
    print_tables(tables(run))
    for path in written:
        console().print(str(path), soft_wrap=True)


def _kind(file: Path) -> Kind:
    """What the first row of a file looks like; whoever loads it says what is wrong with it."""
    import json

    try:
        text = file.read_text(encoding="utf-8-sig").lstrip(" \t\r\n[")
        row, _ = json.JSONDecoder().raw_decode(text)
    except (OSError, ValueError):
        return Kind.locomo
    return Kind.musique if isinstance(row, dict) and "paragraphs" in row else Kind.locomo


def _named(measured: Sequence[Measured], paragraphs: bool) -> dict[int, str]:
    """The names of the categories that were measured."""
    from ..evaluation.locomo import CATEGORIES

    found = sorted({category for one in measured for category in one.score.by_category})
    if paragraphs:
        return {hops: f"{hops} hops" for hops in found}
    return {category: CATEGORIES.get(category, f"category {category}") for category in found}


def _units(talks: Sequence[Conversation], facts: Facts, wanted: list[Kept] | None) -> list[Unit]:
    there = facts is not Facts.none and any(talk.facts for talk in talks)
    units = wanted or (list(Kept) if there else [Kept.turns])
    if not there and set(units) != {Kept.turns}:
        raise typer.BadParameter("without facts there are turns only to search; leave --unit out")
    return [unit.value for unit in dict.fromkeys(units)]


def _place(store: Store, url: str | None, settings: Settings) -> tuple[Place, str]:
    """Where memories are kept meanwhile, and what it is called."""
    from ..evaluation.evidence import places
    from ..evaluation.harness.machine import versions

    if store is Store.edge:
        return places.edge, f"Qdrant Edge ({versions('qdrant-edge-py')})"
    if url is None:
        return places.qdrant_in_process, f"qdrant-client in process ({versions('qdrant-client')})"
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    return partial(places.qdrant_server, url, key), "a Qdrant server"
