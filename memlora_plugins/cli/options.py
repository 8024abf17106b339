"""Options that many commands share, and the memory they describe.

A command names a group of options as one parameter; `command` unfolds the group's fields for typer and hands the
command the group again, filled in. It also turns the library's errors into one line on stderr and exit code 1.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from ..errors import MemloraError, SettingsError
from ..types import Scope
from .output import complain

if TYPE_CHECKING:
    from ..memory import Memory

_STORE = "Where it is kept"
_MODEL = "The model"
_WHO = "Whose memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where memory is kept, and the embedder it is kept with."""

    path: Annotated[
        Path | None,
        typer.Option(
            envvar="MEMLORA_PATH", help="Folder of the embedded store.", show_default=".memlora", rich_help_panel=_STORE
        ),
    ] = None
    qdrant_url: Annotated[
        str | None,
        typer.Option(envvar="MEMLORA_QDRANT_URL", help="A Qdrant server instead.", rich_help_panel=_STORE),
    ] = None
    collection: Annotated[
        str | None,
        typer.Option(envvar="MEMLORA_COLLECTION", help="Collection on that server.", rich_help_panel=_STORE),
    ] = None
    embedder: Annotated[
        str | None,
        typer.Option(
            envvar="MEMLORA_EMBEDDER",
            help="A sentence-transformers name or folder.",
            show_default="all-MiniLM-L6-v2",
            rich_help_panel=_STORE,
        ),
    ] = None
    embedder_url: Annotated[
        str | None,
        typer.Option(
            envvar="MEMLORA_EMBEDDER_URL", help="An OpenAI-compatible embedding server.", rich_help_panel=_STORE
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model that distils and answers."""

    base_url: Annotated[
        str | None,
        typer.Option(
            envvar="MEMLORA_BASE_URL", help="The model server, e.g. http://127.0.0.1:8000.", rich_help_panel=_MODEL
        ),
    ] = None
    api: Annotated[
        str | None,
        typer.Option(
            envvar="MEMLORA_API",
            help="What speaks there: vllm or openai.",
            show_default="vllm",
            rich_help_panel=_MODEL,
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            envvar="MEMLORA_MODEL",
            help="The server's base model; without a server, a folder to run in process, or none.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPERT=PATH",
            help="A LoRA expert: extraction=PATH, update=PATH, generation=PATH. Repeatable.",
            rich_help_panel=_MODEL,
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Whose memory is meant."""

    user: Annotated[str, typer.Option("--user", "-u", envvar="MEMLORA_USER", help="The person.", rich_help_panel=_WHO)]
    agent: Annotated[str | None, typer.Option(envvar="MEMLORA_AGENT", help="The agent.", rich_help_panel=_WHO)] = None
    session: Annotated[
        str | None, typer.Option(envvar="MEMLORA_SESSION", help="The conversation.", rich_help_panel=_WHO)
    ] = None

    @property
    def scope(self) -> Scope:
        """The scope these options name."""
        return Scope(self.user, self.agent, self.session)


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The parameter `json: Json = False`."""


def command(
    function: Callable[..., None], *, defaults: Mapping[str, str] = MappingProxyType({})
) -> Callable[..., None]:
    """Make `function` a command: unfold its option groups (dataclasses), report the library's errors.

    `defaults` is shown in the help as what an option of a group is when it is not given, by the option's name.
    """
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        if not (isinstance(hint, type) and is_dataclass(hint)):
            parameters.append(parameter.replace(annotation=_showing(hint), kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[name] = hint
        unfolded = get_type_hints(hint, include_extras=True)
        parameters += [
            replaced.replace(
                annotation=_showing(unfolded[replaced.name], defaults.get(replaced.name)),
                kind=inspect.Parameter.KEYWORD_ONLY,
            )
            for replaced in inspect.signature(hint).parameters.values()
        ]

    @functools.wraps(function)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{part.name: given.pop(part.name) for part in fields(group)})
        try:
            function(**given)
        except BrokenPipeError:
            raise  # whoever read the output has enough: typer ends quietly
        except (MemloraError, OSError) as error:  # OSError: a full disk under standard output, say
            complain(f"error: {error}")
            raise typer.Exit(1) from error

    run.__doc__ = _literal(function.__doc__)
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _showing(hint: Any, default: str | None = None) -> Any:
    """The annotation of an option, with its help as it is to be read and, if given, `default` in it."""
    if get_origin(hint) is not Annotated:
        return hint
    kind, option = get_args(hint)
    option = copy(option)
    option.help = _literal(option.help)
    if default is not None:
        option.show_default = default
    return Annotated[kind, option]


def _literal(text: str | None) -> str | None:
    """`text` for typer's help, which takes what stands in brackets for markup (`rich.markup.escape`, which is slow to
    import)."""
    return text and re.sub(r"\[(?=[a-z#/@][^\[]*?\])", r"\\[", text)


def adapters(given: list[str] | None) -> dict[str, str] | None:
    """`["extraction=PATH", …]` as a mapping; None when nothing was given, so that the environment counts."""
    if not given:
        return None
    pairs = {}
    for text in given:
        expert, sign, path = text.partition("=")
        if not (sign and expert.strip() and path.strip()):
            raise typer.BadParameter(f"{text!r} is not EXPERT=PATH, e.g. extraction=./experts/extraction")
        pairs[expert.strip()] = path.strip()
    return pairs


@contextmanager
def named_if_unusable() -> Iterator[None]:
    """Name the first option that one of the library's groups of options refuses."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        told = first["msg"].removeprefix("Value error, ")
        if first["loc"]:
            told = f"{'.'.join(map(str, first['loc']))}: {told}"
        raise SettingsError(f"Unusable option. {told}.") from error


def explicit(place: Place, model: Model | None = None) -> dict[str, Any]:
    """What the options set, under the names of `Settings`; what they leave open is left to the environment."""
    values: dict[str, Any] = {part.name: getattr(place, part.name) for part in fields(Place)}
    if model is not None:
        values |= {"base_url": model.base_url, "api": model.api, "model": model.model}
        values["adapters"] = adapters(model.adapter)
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def opened(place: Place, model: Model | None = None, **settings: Any) -> Iterator[Memory]:
    """The memory that the options describe, closed afterwards. Without `model`, no expert is going to be asked."""
    from ..memory import Memory
    from ..settings import NO_MODEL

    if model is None:
        settings["model"] = NO_MODEL

    with Memory.open(**explicit(place, model), **settings) as memory:
        yield memory
