"""`memlora distil`: a teacher's samples for the experts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .endpoint import Endpoint
from .eval_options import Embedder, EmbedderUrl, Stage
from .options import Json, command
from .output import complain, console, print_json, progress, table

if TYPE_CHECKING:
    from ..evaluation.conversations import Conversation
    from ..serving.base import Backend
    from ..training.teacher import DistilReport

_SPLITS = "Splits: conversations, separated by commas or in repeated options"


class Style(StrEnum):
    """The prompts that the teacher is asked with."""

    short = "short"
    full = "full"


@command
def distil(
    *,
    file: Annotated[Path, typer.Argument(help="Conversations: a LoCoMo file, or chat as JSONL.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the samples; an interrupted run resumes there.")],
    endpoint: Endpoint,
    prompts: Annotated[Style, typer.Option(help="Prompts for the teacher; samples hold the short ones.")] = Style.short,
    expert: Annotated[
        list[Stage] | None, typer.Option(help="Samples for this expert only. Repeatable.", show_default="all")
    ] = None,
    use_observations: Annotated[
        bool,
        typer.Option("--use-observations", help="Facts written in the file (LoCoMo) instead of asking for them."),
    ] = False,
    empty_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Largest share of extraction samples without facts.",
            show_default="1, with observations 0.3",
        ),
    ] = None,
    unanswerable: Annotated[
        bool, typer.Option("--unanswerable", help="Also teach to say that it is not known.")
    ] = False,
    embedder: Embedder = None,
    embedder_url: EmbedderUrl = None,
    conversation: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only these conversations.", rich_help_panel=_SPLITS)
    ] = None,
    train: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Into OUT/train.", rich_help_panel=_SPLITS)
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Into OUT/validation.", rich_help_panel=_SPLITS)
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Held out: nothing is asked about them.", rich_help_panel=_SPLITS),
    ] = None,
    json: Json = False,
) -> None:
    """Let a teacher do the experts' work over conversations, and write down the samples to train small ones with.

    Every finished call is kept in OUT/calls.jsonl: run the same again after an interruption, and nothing is asked
    twice.
    """
    from ..core import build_embedder
    from ..evaluation.conversations import load_conversations

    parts = _parts(
        load_conversations(file), conversation, {"train": train, "validation": validation, "test": test}, out
    )
    settings = endpoint.settings(embedder=embedder, embedder_url=embedder_url)
    teacher = endpoint.backend(settings)
    wanted = [one.value for one in expert or Stage if teacher or expert or one is not Stage.update]
    if "update" not in wanted and not expert:
        complain("without a teacher there are no samples of update")
    with ExitStack() as ending:
        used = build_embedder(settings)
        ending.callback(used.close)
        reports = asyncio.run(
            _run(
                parts,
                teacher,
                out,
                embedder=used,
                experts=wanted,
                prompt_style=prompts.value,
                concurrency=endpoint.concurrency,
                thinking_tokens=endpoint.thinking_tokens,
                use_observations=use_observations,
                empty_share=empty_share,
                unanswerable=unanswerable,
                price_in=endpoint.price_in,
                price_out=endpoint.price_out,
                model=endpoint.recorded_name(settings),
                settings=settings,
            )
        )
    if json:
        told = {name: report.model_dump(mode="json") for name, report in reports.items()}
        print_json(told if set(told) != {""} else told[""])
        return
    for name, report in reports.items():
        _tell(out / name, report)


def _parts(
    found: list[Conversation], only: list[str] | None, splits: Mapping[str, list[str] | None], out: Path
) -> dict[str, list[Conversation]]:
    """Subfolder of `out` ("": itself) to the conversations that go there.

    Raises:
        InvalidInputError: an unknown id. DatasetError: a conversation in two splits.
    """
    from ..evaluation.conversations import chosen
    from ..training.dataset import check_splits

    if only is not None:
        found = chosen(found, _ids(only, found))
    named = {name: chosen(found, _ids(ids, found)) for name, ids in splits.items() if ids is not None}
    if not named:
        return {"": found}
    check_splits({name: [talk.id for talk in talks] for name, talks in named.items()})
    left_out = len(found) - sum(map(len, named.values()))
    if left_out:
        complain(f"{left_out} conversation(s) are in no split and left out")
    parts = {name: talks for name, talks in named.items() if name != "test"}
    if not parts:
        raise typer.BadParameter("name the conversations of --train or --validation too")
    return parts


def _ids(given: Iterable[str], found: Sequence[Conversation]) -> list[str]:
    known = {talk.id for talk in found}
    return [id for text in given for id in ([text] if text in known else (part.strip() for part in text.split(",")))]


async def _run(
    parts: Mapping[str, list[Conversation]], teacher: Backend | None, out: Path, **options: Any
) -> dict[str, DistilReport]:
    """One part after another, with one teacher and one record of calls."""
    from ..training.teacher import adistil

    reports = {}
    try:
        for name, talks in parts.items():
            with progress() as bar:
                task = bar.add_task(f"distilling {name}".strip(), total=None)

                def show(done: int, total: int, bar: Any = bar, task: Any = task) -> None:
                    bar.update(task, completed=done, total=total)

                reports[name] = await adistil(
                    talks, teacher, out / name, calls=out / "calls.jsonl", progress=show, **options
                )
    finally:
        if teacher is not None:
            await teacher.aclose()
    return reports


def _tell(folder: Path, report: DistilReport) -> None:
    made = table(f"{folder}", "expert", "samples", "calls", "tokens in", "tokens out", "dropped")
    for expert in dict.fromkeys((*report.experts, *report.work)):
        data, work = report.experts.get(expert), report.work.get(expert)
        dropped = ", ".join(f"{reason} {count}" for reason, count in data.dropped.items()) if data else ""
        spent = (str(work.calls), str(work.input_tokens), str(work.output_tokens)) if work else ("", "", "")
        made.add_row(expert, str(data.samples) if data else "", *spent, dropped)
    out = console()
    out.print(made)
    cost = "" if report.cost is None else f", cost {report.cost:.2f}"
    out.print(
        f"{report.calls} call(s) ({report.resumed} from earlier runs, {report.retries} retries), "
        f"{report.input_tokens} tokens in, {report.output_tokens} out{cost}; {report.facts} facts remembered, "
        f"{report.seconds:.0f} s"
    )
    if report.undistilled:
        failed = ", ".join(f"{what} {count}" for what, count in report.failures.items())
        complain(f"warning: {report.undistilled} message(s) are missing from the teacher's memory ({failed})")
    if report.unanswered:
        complain(f"warning: {report.unanswered} question(s) got no reply; run the same again to ask them again")
    for expert, data in report.experts.items():
        if not data.samples:
            complain(f"warning: no sample of {expert}")
