"""`memlora memo merge`: Memory models into one. `memlora memo update`: one that knows a new corpus as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .eval_options import print_tables
from .memo_train import all_reflections, documents_of
from .options import Json, command
from .output import complain, console, print_json, progress
from .training_options import Device, Learning, Machine, first_process, hyper_parameters, told_of

if TYPE_CHECKING:
    from ..memo.merging import MergedModel, MergeEvent
    from ..memo.merging.methods import Recipe

_HOW = "How they are merged"
_SWEEP = "Trying all ways"


class Method(StrEnum):
    """How task vectors are merged."""

    linear = "linear"
    task_arithmetic = "task_arithmetic"
    slerp = "slerp"
    ties = "ties"
    dare_linear = "dare_linear"
    dare_ties = "dare_ties"


@command
def merge(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODELS...", help="Folders of whole models or LoRA adapters of one base.")
    ],
    *,
    base: Annotated[str, typer.Option(help="What they were trained from: a folder, or a name in the cache.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the merged model; with --sweep, for all of it.")],
    method: Annotated[Method, typer.Option(rich_help_panel=_HOW)] = Method.ties,
    density: Annotated[
        float, typer.Option(min=0, max=1, help="Share kept, of ties and dare.", rich_help_panel=_HOW)
    ] = 0.5,
    t: Annotated[
        float, typer.Option("--t", min=0, max=1, help="From the first to the second, of slerp.", rich_help_panel=_HOW)
    ] = 0.5,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="One for each model. Repeatable.", show_default="equal", rich_help_panel=_HOW),
    ] = None,
    scale: Annotated[float, typer.Option(help="The merged change is added so many times.", rich_help_panel=_HOW)] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of what dare drops.", rich_help_panel=_HOW)] = 7,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Write a LoRA adapter of this rank; for adapters only.",
            show_default="a whole model",
            rich_help_panel=_HOW,
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try the paper's 14 configurations, keep the best.", rich_help_panel=_SWEEP)
    ] = False,
    held_out: Annotated[
        Path | None, typer.Option(help="Questions to score by, as JSONL.", rich_help_panel=_SWEEP)
    ] = None,
    full_training: Annotated[
        float | None,
        typer.Option(help="Recall of a model trained on everything, to compare with.", rich_help_panel=_SWEEP),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where they are answered.", rich_help_panel=_SWEEP)] = Device.auto,
    json: Json = False,
) -> None:
    """Merge Memory models of several corpora into one, without training.

    Memory use does not grow with the models. A sweep that was stopped goes on where it was.
    """
    if sweep:
        if held_out is None:
            raise typer.BadParameter("--sweep needs --held-out: questions to score by")
        if weight or (method, density, t, scale) != (Method.ties, 0.5, 0.5, 1.0):
            raise typer.BadParameter("--sweep tries methods and their parameters itself; leave them out")
        _sweep(base, models, out, held_out, full_training, seed, rank, device, json)
        return
    from ..memo import merging

    with _told() as tell:
        done = merging.merge(
            base, models, out, method=method.value, weights=weight, density=density, t=t, scale=scale, seed=seed,
            rank=rank, on_event=tell,
        )  # fmt: skip
    if json:
        print_json({"folder": done.folder, "megabytes_per_second": done.megabytes_per_second, **done.card})
    else:
        _tell(done)


@command
def update(
    memory: Annotated[Path, typer.Argument(help="The Memory model that is to know more: trained, or merged.")],
    reflections: Annotated[
        list[Path],
        typer.Argument(metavar="REFLECTIONS...", help="Those of the new corpus: JSONL as synthesized, or folders."),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the merged model.", show_default="MEMORY, where that was merged"),
    ] = None,
    base: Annotated[str | None, typer.Option(help="What it was trained from.", show_default="as its card says")] = None,
    documents: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSONL with id, title and sha256 of the documents, for the record. Repeatable.",
            show_default="documents.jsonl beside the reflections",
        ),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Questions about the new corpus: the weights that recall most are kept.")
    ] = None,
    method: Annotated[
        Method | None, typer.Option(show_default="as merged before, else ties", rich_help_panel=_HOW)
    ] = None,
    density: Annotated[
        float | None, typer.Option(min=0, max=1, show_default="as merged before, else 0.5", rich_help_panel=_HOW)
    ] = None,
    t: Annotated[
        float | None, typer.Option("--t", min=0, max=1, show_default="as merged before, else 0.5", rich_help_panel=_HOW)
    ] = None,
    scale: Annotated[float | None, typer.Option(show_default="as merged before, else 1", rich_help_panel=_HOW)] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(
            help="One for each part, the new one last. Repeatable.", show_default="equal", rich_help_panel=_HOW
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was stopped, if there is one.")
    ] = False,
    learning: Learning,
    machine: Machine,
    json: Json = False,
) -> None:
    """Train on a new corpus only, and merge that with what the Memory model was made of.

    The new part is trained as the first one was, but for the options that are given, and kept in OUT.parts. All parts
    stay where they are: the next update merges them again.
    """
    from ..memo import update as updating
    from ..memo.reflections import read_held_out

    files = [path / "reflections.jsonl" if path.is_dir() else path for path in reflections]
    given = {"method": method and method.value, "density": density, "t": t, "scale": scale, "weights": weight}
    with told_of("training on the new corpus") as on_training, _told() as tell:
        done = updating.update(
            memory,
            all_reflections(files),
            out,
            base=base,
            options=updating.part_options(memory, **hyper_parameters(learning, machine)),
            recipe=_recipe(memory, {name: value for name, value in given.items() if value is not None}),
            held_out=() if held_out is None else read_held_out(held_out),
            documents=documents_of(files, documents),
            resume=resume,
            on_training=on_training,
            on_event=tell,
        )
    if not first_process():
        return
    if json:
        print_json(
            {"folder": done.merged.folder, "part": done.part.folder, "repeated": done.repeated, **done.merged.card}
        )
        return
    if done.repeated:
        complain(f"note: {len(done.repeated)} documents were known before, such as {done.repeated[0]}")
    console().print(f"the new part is {done.part.folder}; it has to stay there", soft_wrap=True)
    _tell(done.merged)


def _recipe(memory: Path, given: dict[str, Any]) -> Recipe | None:
    """The earlier merge's with what was given; None to leave it to the library."""
    from ..memo.merging.methods import Recipe
    from ..memo.merging.task_vectors import notes

    return Recipe.from_row((notes(memory).get("merge") or {}) | given) if given else None


def _sweep(
    base: str,
    models: list[Path],
    out: Path,
    held_out: Path,
    full_training: float | None,
    seed: int,
    rank: int | None,
    device: Device,
    json: bool,
) -> None:
    from ..memo.merging import sweep as sweeping
    from ..memo.merging import sweep_report
    from ..memo.reflections import read_held_out
    from ..training.identity import digest

    questions = read_held_out(held_out)
    with progress() as bar:
        task = bar.add_task("", total=None)
        rows = sweeping.sweep(
            base,
            models,
            out,
            score=sweeping.by_recall(questions, base=base, device=device.value),
            scored_by=digest([question.model_dump() for question in questions]),
            full_training=full_training,
            seed=seed,
            rank=rank,
            on_step=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    if json:
        print_json(sweep_report.report(rows, full_training))
        return
    print_tables([sweep_report.table(rows)])
    console().print(f"the best is {out / 'best'}; summary in {out / 'summary.md'}", soft_wrap=True)


@contextmanager
def _told() -> Iterator[Callable[[MergeEvent], None]]:
    """A bar that is told of each tensor."""
    with progress() as bar:
        task = bar.add_task("merging", total=None, visible=False)
        yield lambda event: bar.update(task, completed=event.done, total=event.total, visible=True)


def _tell(done: MergedModel) -> None:
    kept = "" if done.norm_kept is None else f", {done.norm_kept:.1%} of the change's norm at this rank"
    console().print(
        f"{done.tensors} tensors, {done.bytes / 1e6:,.1f} MB in {done.seconds:.1f} s "
        f"({done.megabytes_per_second:,.0f} MB/s read and written){kept}; the card is {done.folder / 'README.md'}",
        soft_wrap=True,
    )
    documents = done.card["memo"]["documents"]
    console().print(f"It knows {len(documents)} documents. It is not calibrated: `memlora memo calibrate` does that.")
