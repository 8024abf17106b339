"""What the commands of `memlora eval` share: their options, and how they show tables."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import console, table, visible

if TYPE_CHECKING:
    from ..evaluation.pipeline import Adapters, Opener
    from ..evaluation.report import Table


class Measure(StrEnum):
    """How an answer is compared with the expected one."""

    token_f1 = "token_f1"
    exact_match = "exact_match"
    contains = "contains"


class Stage(StrEnum):
    """An operation of a conversational memory, and the expert for it."""

    extraction = "extraction"
    update = "update"
    generation = "generation"


class Api(StrEnum):
    """What speaks at the address."""

    vllm = "vllm"
    openai = "openai"


Metric = Annotated[Measure, typer.Option(help="How an answer is compared with the expected one.")]
"""The parameter `metric: Metric = Measure.token_f1`."""
Embedder = Annotated[
    str | None,
    typer.Option(
        envvar="MEMLORA_EMBEDDER", help="A sentence-transformers name or folder.", show_default="all-MiniLM-L6-v2"
    ),
]
EmbedderUrl = Annotated[
    str | None, typer.Option(envvar="MEMLORA_EMBEDDER_URL", help="An OpenAI-compatible embedding server.")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Model calls under way at once.")]


def opener(base: str, base_url: str | None, api: str = Api.vllm.value) -> Opener:
    """Makes backends of one base model: in process, or on the server at `base_url`."""
    from ..core import build_backend
    from ..settings import load_settings

    def open_backend(given: Adapters) -> Any:
        names = {expert: str(path) for expert, path in given.items()}
        return build_backend(load_settings(model=base, base_url=base_url, api=api, adapters=names))

    return open_backend


def print_tables(tables: Sequence[Table]) -> None:
    """Tables for people, one under the other."""
    out = console()
    for told in tables:
        made = table(told.title, *told.columns)
        for row in told.rows:
            made.add_row(*(visible(cell) for cell in row))
        out.print(made)
        out.print()
