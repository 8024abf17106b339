"""`memlora memo synthesize` and `report`: a Generator's reflections of a corpus, and what came of them."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BackendNotConfiguredError, InvalidInputError
from .endpoint import Endpoint
from .eval_options import Embedder, EmbedderUrl, print_tables
from .memo_train import Step
from .options import Json, command, named_if_unusable
from .output import complain, print_json, progress

if TYPE_CHECKING:
    from ..memo.synthesis import SynthesisEvent
    from ..memo.synthesis.report import SynthesisReport

_CORPUS = "The corpus"
_STEPS = "What is asked"


class Grouping(StrEnum):
    """Which chunks belong together."""

    label = "label"
    document = "document"
    similarity = "similarity"
    none = "none"


@command
def synthesize(
    *,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files and folders: text, Markdown, JSONL, PDF.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pairs; an interrupted run resumes there.")],
    chunk_words: Annotated[
        int | None, typer.Option(min=1, help="Most words of a chunk.", show_default="6400", rich_help_panel=_CORPUS)
    ] = None,
    overlap_words: Annotated[
        int | None,
        typer.Option(min=0, help="Words that the next chunk repeats.", show_default="a tenth", rich_help_panel=_CORPUS),
    ] = None,
    whole_documents: Annotated[
        bool,
        typer.Option("--whole-documents", help="Every document is one chunk.", rich_help_panel=_CORPUS),
    ] = False,
    group_by: Annotated[
        Grouping, typer.Option(help="Which chunks step 5 compares.", rich_help_panel=_CORPUS)
    ] = Grouping.label,
    group_size: Annotated[
        int | None,
        typer.Option(min=2, help="Most chunks of a group by similarity.", show_default="6", rich_help_panel=_CORPUS),
    ] = None,
    embedder: Embedder = None,
    embedder_url: EmbedderUrl = None,
    endpoint: Endpoint,
    step: Annotated[
        list[Step] | None,
        typer.Option(help="Take this step only. Repeatable.", show_default="all", rich_help_panel=_STEPS),
    ] = None,
    leave_out: Annotated[
        list[Step] | None,
        typer.Option(help="Leave out this step. Repeatable.", show_default="none", rich_help_panel=_STEPS),
    ] = None,
    verify_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Pairs in a request of step 3.", show_default="20", rich_help_panel=_STEPS),
    ] = None,
    pairs_per_request: Annotated[
        int | None,
        typer.Option(min=2, help="Most pairs shown in one of others.", show_default="150", rich_help_panel=_STEPS),
    ] = None,
    cross_pairs_per_group: Annotated[
        int | None,
        typer.Option(
            min=0, help="Pairs of chunks that step 5 compares in a group.", show_default="15", rich_help_panel=_STEPS
        ),
    ] = None,
    max_cross_calls: Annotated[
        int | None,
        typer.Option(min=0, help="… and in all groups.", show_default="no limit", rich_help_panel=_STEPS),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest reply, in tokens.", show_default="4096", rich_help_panel=_STEPS)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Of all steps but 3, which is greedy.", show_default="0", rich_help_panel=_STEPS),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Draws what step 5 compares.", show_default="7", rich_help_panel=_STEPS),
    ] = None,
    json: Json = False,
) -> None:
    """Have a large model, the Generator, make questions and answers of a corpus: what a Memory model is trained on.

    Every finished call is kept in OUT/calls.jsonl: run the same again after an interruption, and nothing is asked
    twice. The Generator's key is read from MEMLORA_API_KEY.
    """
    from ..core import build_embedder
    from ..memo.corpus import read_corpus
    from ..memo.synthesis import SynthesisOptions
    from ..memo.synthesis import synthesize as run

    asked: dict[str, Any] = {
        "verify_batch": verify_batch,
        "pairs_per_request": pairs_per_request,
        "cross_pairs_per_group": cross_pairs_per_group,
        "max_cross_calls": max_cross_calls,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "steps": [one.value for one in step or Step if one not in (leave_out or ())],
    }
    for name in ("concurrency", "thinking_tokens", "price_in", "price_out"):
        asked[name] = getattr(endpoint, name)
    with named_if_unusable():
        options = SynthesisOptions(**_given(asked))
    _apart(out, paths)
    settings = endpoint.settings(embedder=embedder, embedder_url=embedder_url)
    generator = endpoint.backend(settings)
    if generator is None:
        raise BackendNotConfiguredError("No Generator is named: pass --base-url and --model.")
    reading = _given({"chunk_words": chunk_words, "overlap_words": overlap_words, "group_size": group_size})
    reading["group_by"] = None if group_by is Grouping.none else group_by.value
    with ExitStack() as ending:
        if group_by is Grouping.similarity:
            reading["embedder"] = build_embedder(settings)
            ending.callback(reading["embedder"].close)
        corpus = read_corpus(paths, whole_documents=whole_documents, **reading)
    with progress() as bar:
        task = bar.add_task("synthesizing", total=None)

        def show(event: SynthesisEvent) -> None:
            bar.update(task, completed=event.done, total=event.total)

        found = run(corpus, generator, out, options, model=endpoint.recorded_name(settings), on_event=show)
    _tell(found, json)
    if not found.pairs.total:
        raise typer.Exit(1)


@command
def report(
    *, folder: Annotated[Path, typer.Argument(help="Where pairs were synthesized.")], json: Json = False
) -> None:
    """Tell what came of a synthesis: pairs and cost by step, what was discarded and left out, what failed."""
    from ..memo.synthesis.report import read_report

    _tell(read_report(folder), json)


def _apart(out: Path, paths: list[Path]) -> None:
    """
    Raises:
        InvalidInputError: `out` is part of the corpus: the next run would learn from what this one writes.
    """
    for path in paths:
        try:
            inside = out.resolve().relative_to(path.resolve())
        except ValueError:
            continue
        if path.is_dir() and not any(part.startswith(".") for part in inside.parts):
            raise InvalidInputError(
                f"{out} is in the corpus {path}: a run that resumes there would read its own files as documents. "
                "Choose a folder outside of it."
            )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _tell(found: SynthesisReport, json: bool) -> None:
    from ..memo.synthesis.report import notes, tables

    if json:
        print_json(found.model_dump(mode="json"))
    else:
        print_tables(tables(found))
    for note in notes(found):
        complain(f"warning: {note}")
