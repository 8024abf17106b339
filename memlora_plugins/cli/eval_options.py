"""What the commands of `memlora eval` share: their options, and how they show tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from .options import adapters
from .output import console, table, visible

if TYPE_CHECKING:
    from ..evaluation.harness.candidates import Candidate
    from ..evaluation.pipeline import Adapters, Opener
    from ..evaluation.report import Table


_STUDENT = "The model"
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^/?#]*@)?([^?#]*)", re.I)
_PAIR = re.compile(r"([\w.-]+)=(.+)", re.S)


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

    from ..evaluation.harness.candidates import Candidate

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


def base_option(envvar: str | None = None) -> Any:
    """The option for the field `base: str | None`."""
    told = "The base model: nano, a folder, or with --base-url the name it is served under."
    return typer.Option(envvar=envvar, help=told, rich_help_panel=_STUDENT)


def base_url_option(envvar: str | None = None) -> Any:
    """The option for the field `base_url: str | None`."""
    return typer.Option(envvar=envvar, help="A model server that has it.", rich_help_panel=_STUDENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentOptions:
    """The one model that is measured."""

    named_by: ClassVar[str] = "--base"

    base: Annotated[str | None, base_option()] = None
    base_url: Annotated[str | None, base_url_option()] = None
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPERT=PATH",
            help="A LoRA expert: extraction=PATH, update=PATH, generation=PATH. Repeatable.",
            show_default="nano's own for nano",
            rich_help_panel=_STUDENT,
        ),
    ] = None

    def candidate(self, *, stages: bool = False) -> Candidate:
        """It, as `candidate` makes it.

        Raises:
            BadParameter: there is no base, or as `candidate`.
        """
        return candidate(self._named(), self.base_url, Api.vllm, self.adapter, None, stages=stages)

    def _named(self) -> str:
        if self.base is None:
            raise typer.BadParameter(f"name the model with {self.named_by}")
        return self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedStudentOptions(StudentOptions):
    """The one model that is measured, behind any API, and beside its experts one adapter for all stages."""

    api: Annotated[Api, typer.Option(help="What speaks there.", rich_help_panel=_STUDENT)] = Api.vllm
    shared: Annotated[
        Path | None,
        typer.Option(help="One adapter that serves every stage, measured beside them.", rich_help_panel=_STUDENT),
    ] = None

    def candidate(self, *, stages: bool = False) -> Candidate:
        """As that of `StudentOptions`."""
        return candidate(self._named(), self.base_url, self.api, self.adapter, self.shared, stages=stages)


def print_tables(tables: Sequence[Table]) -> None:
    """Tables for people, one under the other."""
    out = console()
    for told in tables:
        made = table(told.title, *told.columns)
        for row in told.rows:
            made.add_row(*(visible(cell) for cell in row))
        out.print(made)
        out.print()


def options_given(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Those of these parameters that stand on the command line, as the options that they are there."""
    options = {str(parameter.name): parameter.opts[0] for parameter in context.command.params}
    return [options[name] for name in names if _on_command_line(context, name)]


def repeated(context: typer.Context) -> str:
    """The command line that this command was called with, for a report: paths by their names only, also those of
    `NAME=PATH`, addresses without user, password and query, and nothing that came from the environment.
    """
    words = ["memlora", *context.command_path.split()[1:]]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if not _on_command_line(context, str(parameter.name)):
            continue
        names = parameter.secondary_opts if value is False else parameter.opts
        option = [] if parameter.param_type_name == "argument" else [names[0]]
        for one in value if isinstance(value, list | tuple) else [value]:
            words += option if isinstance(one, bool) else [*option, _named(one)]
    return shlex.join(words)


def _on_command_line(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _named(value: object) -> str:
    if isinstance(value, StrEnum):
        return value.value
    text = str(value)
    if address := _ADDRESS.match(text):
        return address[1] + address[2]
    if pair := _PAIR.fullmatch(text):
        after = _named(pair[2])
        return f"{pair[1]}={after if _ADDRESS.match(after) else _last(after)}"
    return _last(text) if isinstance(value, Path) or text.startswith("~") or Path(text).is_absolute() else text


def _last(path: str) -> str:
    return Path(path).name or path
