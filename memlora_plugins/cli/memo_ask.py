"""`memlora memo ask`, `serve` and `calibrate`: a trained Memory model in use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DatasetError
from ..types import Stage
from .executive import ExecutiveOptions
from .options import Json, command
from .output import complain, console, jsonable, print_json, table, visible
from .serve import ServerOptions, run_in_foreground

if TYPE_CHECKING:
    from ..memo.answers import MemoryAnswer
    from ..memo.memory_model import MemoryModel
    from ..memo.protocol import Interaction, Protocol, ProtocolResult

Folder = Annotated[str, typer.Argument(metavar="MODEL", help="The Memory model's folder.")]
Base = Annotated[
    str | None,
    typer.Option(help="The base model of a LoRA Memory model.", show_default="the one that its folder names"),
]
BaseUrl = Annotated[
    str | None, typer.Option(help="The server that has it, see `memlora memo serve`.", show_default="in process")
]
ServedAs = Annotated[
    str | None, typer.Option("--name", help="What that server calls it.", show_default="as `memlora memo serve` does")
]


class Method(StrEnum):
    """How the Executive asks."""

    structured = "structured"
    single_turn = "single_turn"
    unstructured = "unstructured"


@command
def ask(
    *,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The Memory model's folder; with --base-url also its name there.")
    ],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="What to ask; each by itself.")],
    base: Base = None,
    base_url: BaseUrl = None,
    name: ServedAs = None,
    temperature: Annotated[float, typer.Option(min=0, help="Of the Memory model when it is asked directly.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of the Memory model, in tokens.")] = 256,
    executive: ExecutiveOptions,
    method: Annotated[Method, typer.Option(help="How the large model asks.")] = Method.structured,
    json: Json = False,
) -> None:
    """Ask a Memory model what it learned; with --executive-url, have a large model find an answer with its help.

    The key of the server at --base-url, if any, is read from MEMLORA_API_KEY. What the Executive asks and is told is
    shown on standard error as it happens.
    """
    reasoning = executive.named
    with _opened(model, base, base_url, name, max_tokens) as memory_model:
        if reasoning:
            _reason(memory_model, executive, method, questions, json)
        else:
            _tell_answers(memory_model.ask(questions, temperature=temperature), json)


@command
def calibrate(
    *,
    model: Folder,
    held_out: Annotated[Path, typer.Option(help="Questions with answers, as JSONL, that it was not trained on.")],
    unanswerable: Annotated[
        Path | None, typer.Option(help="Questions that its documents do not answer, one a line.", show_default="none")
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of its answers that are to be right.",
            show_default="right ones kept and wrong ones withheld in balance",
        ),
    ] = None,
    base: Base = None,
    base_url: BaseUrl = None,
    name: ServedAs = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Leave the model's card as it is.")] = False,
    json: Json = False,
) -> None:
    """Find out when a Memory model had better say "I don't know", and note it in its card."""
    from ..memo.calibration import calibrate as calibrated
    from ..memo.calibration import note
    from ..memo.reflections import read_held_out
    from .eval_options import print_tables

    known = read_held_out(held_out)
    unknown = [] if unanswerable is None else _lines(unanswerable)
    with _opened(model, base, base_url, name) as memory_model:
        found = calibrated(
            memory_model, known, unanswerable=unknown, target="balanced" if precision is None else precision
        )
    if not dry_run:
        note(model, found)
    if json:
        cut = found.cut
        print_json(
            {
                "abstain_below": found.threshold,
                "target": found.target,
                "questions": found.questions,
                "admitted": found.admitted,
                "failed": found.failed,
                "kept": cut.kept,
                "right_among_kept": cut.right_among_kept,
                "kept_among_right": cut.kept_among_right,
                "abstained_among_wrong": cut.abstained_among_wrong,
            }
        )
        return
    print_tables([found.table()])
    said = "would say" if dry_run else "says from now on"
    console().print(f'{model} {said} "I don\'t know" where it is less sure than {found.threshold:.3f}', soft_wrap=True)


@command
def serve(
    *,
    model: Folder,
    base: Base = None,
    name: Annotated[str, typer.Option(help="The name that it is served under.")] = "memory",
    options: ServerOptions,
) -> None:
    """Start a vLLM server with a Memory model; Ctrl-C stops it. Its API key, if any, is read from MEMLORA_API_KEY."""
    from ..memo.models import served_as

    folder, adapters = served_as(model, name, base)
    server = options.server(folder, adapters, None if adapters else name, os.environ.get("MEMLORA_API_KEY"))
    called = "" if name == "memory" else f" --name {name}"
    usage = f'memlora memo ask {model} "QUESTION" --base-url {server.base_url}{called}'
    run_in_foreground(server, options.timeout, usage)


@contextmanager
def _opened(
    model: str, base: str | None, base_url: str | None, name: str | None, max_tokens: int = 256
) -> Iterator[MemoryModel]:
    from ..memo.memory_model import MemoryModel

    key = os.environ.get("MEMLORA_API_KEY")
    if base_url is not None and not Path(model).expanduser().is_dir():
        opened = MemoryModel(base_url, name or model, api_key=key, max_tokens=max_tokens)
    else:
        opened = MemoryModel.open(model, base=base, base_url=base_url, model=name, api_key=key, max_tokens=max_tokens)
    with opened:
        yield opened


def _lines(file: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from error


def _tell_answers(answers: Sequence[MemoryAnswer], json: bool) -> None:
    if json:
        print_json(answers)
    elif len(answers) == 1 and answers[0].error is None:
        typer.echo(visible(answers[0].text))
    else:
        made = table(f"{len(answers)} answers", "confidence", "question", "answer")
        for answer in answers:
            sure = "" if answer.confidence is None else f"{answer.confidence:.2f}"
            made.add_row(sure, visible(answer.question), visible(_said(answer)))
        console().print(made)
    if failed := [answer.error for answer in answers if answer.error is not None]:
        complain(f"error: {len(failed)} of {len(answers)} questions failed. {failed[0]}")
        raise typer.Exit(1)


def _said(answer: MemoryAnswer) -> str:
    return answer.text if answer.error is None else f"({answer.error})"


def _reason(
    memory_model: MemoryModel, executive: ExecutiveOptions, method: Method, questions: Sequence[str], json: bool
) -> None:
    """The whole protocol, for one question after the other."""
    from ..memo.executive import EndpointExecutive
    from ..memo.protocol import Protocol

    backend = executive.backend()
    try:
        protocol = Protocol(executive=EndpointExecutive(backend), memory_model=memory_model, method=method.value)
        results = [_streamed(protocol, question, quiet=json) for question in questions]
    finally:
        backend.close()
    if json:
        told = zip(questions, results, strict=True)
        print_json([{"question": question, **jsonable(result)} for question, result in told])
        return
    for result in results:
        typer.echo(visible(result.answer))
        if result.justification:
            complain(result.justification)


def _streamed(protocol: Protocol, question: str, *, quiet: bool) -> ProtocolResult:
    """Show what happens as it does, unless `quiet`."""
    from ..memo.protocol import Interaction, ProtocolResult

    err = console(stderr=True)
    with err.status("asking") as status:
        for event in protocol.stream(question):
            if isinstance(event, ProtocolResult):
                return event
            if isinstance(event, Stage):
                status.update(_STAGES[event.name])
            elif isinstance(event, Interaction) and not quiet:
                for line in _trace(event):
                    err.print(visible(line), soft_wrap=True)
    raise AssertionError("the protocol ended without a result")


_STAGES = {
    "grounding": "grounding: the question's clues, one by one",
    "entity": "entity: what the question turns on",
    "answer": "answer: what is still missing",
    "synthesis": "synthesis: the answer",
}


def _trace(event: Interaction) -> Iterator[str]:
    """An interaction, for people."""
    about = [event.decision or "", f"about {event.entity}" if event.entity else "", event.problem or ""]
    yield f"{event.stage}  " + ", ".join(part for part in about if part)
    for answer in event.answers:
        held = f"  (withheld: {answer.withheld})" if answer.withheld else ""
        yield f"  {answer.question} -> {_said(answer)}{held}"
