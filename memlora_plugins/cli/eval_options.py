"""What the commands of `memlora eval` share: their options, and how they show tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import adapters
from .output import console, table, visible

if TYPE_CHECKING:
    from ..evaluation.candidates import Candidate
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


def candidate(
    base: str,
    base_url: str | None,
    api: Api,
    adapter: list[str] | None,
    shared: Path | None,
    *,
    stages: bool = False,
) -> Candidate:
    """The one model that a command line names, `nano` with its own experts unless others are given.

    Raises:
        BadParameter: an adapter is of no stage of the pipeline, or the endpoint serves none.
    """
    from pydantic import ValidationError

    from ..evaluation.candidates import Candidate

    try:
        return Candidate(
            name=Path(base).name or base,
            base=base,
            base_url=base_url,
            api=api.value,
            adapters=adapters(adapter) or {},
            shared=None if shared is None else str(shared),
            stages=stages,
        )
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def print_tables(tables: Sequence[Table]) -> None:
    """Tables for people, one under the other."""
    out = console()
    for told in tables:
        made = table(told.title, *told.columns)
        for row in told.rows:
            made.add_row(*(visible(cell) for cell in row))
        out.print(made)
        out.print()


def repeated(context: typer.Context) -> str:
    """The command line that this command was called with, for a report: paths by their names only, and nothing that
    came from the environment.
    """
    words = ["memlora", *context.command_path.split()[1:]]
    for parameter in context.command.params:
        source, value = context.get_parameter_source(str(parameter.name)), context.params.get(str(parameter.name))
        if source is None or source.name != "COMMANDLINE":
            continue
        names = parameter.secondary_opts if value is False else parameter.opts
        option = [] if parameter.param_type_name == "argument" else [names[0]]
        for one in value if isinstance(value, list | tuple) else [value]:
            words += option if isinstance(one, bool) else [*option, _named(one)]
    return shlex.join(words)


def _named(value: object) -> str:
    if isinstance(value, StrEnum):
        return value.value
    path = Path(str(value))
    return path.name if isinstance(value, Path) or path.is_absolute() else str(value)
