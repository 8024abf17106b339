"""`memlora eval vqa make` and `run`: questions about images with one-word answers, and metric V."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BackendNotConfiguredError, SettingsError
from .endpoint import Endpoint, Structure
from .eval_options import Api, Concurrency, print_tables, repeated
from .options import Json, Model, adapters, command, named_if_unusable
from .output import complain, console, print_json, progress
from .validator import ValidatorOptions

if TYPE_CHECKING:
    from ..evaluation.report import Table
    from ..serving.base import Backend
    from ..settings import Settings

app = typer.Typer(help="Questions about images, answered with one word.", no_args_is_help=True)

_QUESTIONS = "The questions"


class Kind(StrEnum):
    """A type of question."""

    details = "details"
    unusual_object = "unusual_object"
    color = "color"
    counted = "count"  # `count` is a method of every text
    unusual_count = "unusual_count"
    mood = "mood"
    style = "style"
    presence = "presence"


class Way(StrEnum):
    """What answers, from what."""

    vision = "vision"
    base = "base"
    caption = "caption"


MaxSide = Annotated[
    int | None, typer.Option(min=32, help="Longest side an image is sent with, in pixels.", show_default="1536")
]


@app.command()
@command
def make(
    context: typer.Context,
    *,
    images: Annotated[
        Path, typer.Argument(metavar="IMAGES", help="A folder of images: PNG, JPEG, WebP, GIF (its first frame).")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for dataset.jsonl; an interrupted run resumes there.")
    ],
    split_by_folder: Annotated[
        bool,
        typer.Option(
            "--split-by-folder", help="Folders in IMAGES are splits; an image that is in several is left out."
        ),
    ] = False,
    captions: Annotated[
        Path | None, typer.Option(help='Captions, JSONL of {"image", "caption"}: the text-only baseline needs them.')
    ] = None,
    max_side: MaxSide = None,
    type: Annotated[
        list[Kind] | None,
        typer.Option(
            help="Make this type. Repeatable.",
            show_default="the validator's three hardest; without one unusual_object, color, count",
            rich_help_panel=_QUESTIONS,
        ),
    ] = None,
    probe_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images on which the validator tries all eight types.",
            show_default="20",
            rich_help_panel=_QUESTIONS,
        ),
    ] = None,
    hard_only: Annotated[
        bool,
        typer.Option(
            "--hard-only",
            help="Keep what the validator gets wrong only; the paper keeps all questions.",
            rich_help_panel=_QUESTIONS,
        ),
    ] = False,
    validator: ValidatorOptions,
    endpoint: Endpoint,
    json: Json = False,
) -> None:
    """Have a large vision model, the maker, write questions about images that one word answers.

    Every finished call is kept in OUT/calls.jsonl: run the same again after an interruption, and nothing is asked
    twice. The maker's key is read from MEMLORA_API_KEY.
    """
    from ..evaluation import vqa
    from ..evaluation.vqa.making import DATASET_FILE
    from ..evaluation.vqa.questions import read_captions
    from ..evaluation.vqa.report import made_notes, made_tables

    asked: dict[str, Any] = {
        "types": None if type is None else [one.value for one in type],
        "probe_images": probe_images,
        "hard_only": hard_only,
        "max_side": max_side,
    }
    for name in ("concurrency", "thinking_tokens", "price_in", "price_out"):
        asked[name] = getattr(endpoint, name)
    with named_if_unusable():
        options = vqa.MakeOptions(**_given(asked))
    settings = endpoint.settings()
    found = vqa.find_images(images, split_by_folder=split_by_folder)
    told = None if captions is None else read_captions(captions)
    structure = endpoint.structured_output.value
    checking = validator.backend(structured_output=structure) if validator.named else None
    maker = endpoint.backend(settings)
    if maker is None:
        raise BackendNotConfiguredError("No maker is named: pass --base-url and --model of a vision model.")
    with progress() as bar:
        task = bar.add_task("questions", total=None)
        report = vqa.make(
            found,
            maker,
            out,
            options,
            validator=checking,
            captions=told,
            model=endpoint.recorded_name(settings),
            command=repeated(context),
            progress=lambda what, done, of: bar.update(task, description=what, completed=done, total=of),
        )
    file = out / DATASET_FILE
    if json:
        print_json({"file": file, **report.model_dump(mode="json")})
    else:
        _tell(made_tables(report), made_notes(report))
        lines = [f"{report.kept} questions about {report.images} images: {file}"]
        if report.kept:
            lines.append(f"memlora eval vqa run {file} --images {images} --out FOLDER measures V")
        for line in lines:
            console().print(line, soft_wrap=True)
    if not report.kept:
        raise typer.Exit(1)


@app.command()
@command
def run(
    context: typer.Context,
    *,
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Questions as `make` writes them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for answers; an interrupted run resumes there.")],
    images: Annotated[
        Path | None, typer.Option(help="The folder that IMAGES was for `make`.", show_default="the dataset's")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Ask the questions of this split.", show_default="all")] = None,
    method: Annotated[
        list[Way] | None,
        typer.Option(
            help="vision: the student; base: without its adapter; caption: text only. Repeatable.",
            show_default="vision, and caption where there are captions",
        ),
    ] = None,
    max_side: MaxSide = None,
    student: Model,
    structured_output: Annotated[
        Structure, typer.Option(help="How JSON is asked for (--api openai).")
    ] = Structure.json_schema,
    thinking_tokens: Annotated[int, typer.Option(min=0, help="Extra room for thinking before each reply.")] = 0,
    concurrency: Concurrency = 8,
    json: Json = False,
) -> None:
    """Metric V: the share of questions that a vision model answers with exactly the expected word.

    The student is a vLLM server, with an expert as --adapter vision=PATH, or any endpoint that takes images (--api
    openai). A text-only model is measured with --method caption alone. Its key is read from MEMLORA_API_KEY.
    """
    from ..evaluation import vqa
    from ..evaluation.vqa.report import scored_notes, scored_tables
    from ..settings import load_settings

    questions = vqa.read_dataset(dataset)
    if split is not None:
        known = sorted({one.split for one in questions if one.split is not None})
        questions = [one for one in questions if one.split == split]
        if not questions:
            raise typer.BadParameter(f"no question of split {split!r}; there is {', '.join(known) or 'no split'}")
    settings = load_settings(
        base_url=student.base_url, model=student.model, api=student.api, adapters=adapters(student.adapter)
    )
    with progress() as bar:
        task = bar.add_task("answers", total=None)
        report = vqa.score(
            questions,
            dataset.parent if images is None else images,
            _student(settings, structured_output),
            out,
            methods=None if method is None else [one.value for one in method],
            concurrency=concurrency,
            thinking_tokens=thinking_tokens,
            command=repeated(context),
            progress=lambda done, of: bar.update(task, completed=done, total=of),
            **_given({"max_side": max_side}),
        )
    if json:
        print_json(report.model_dump(mode="json"))
        return
    _tell(scored_tables(report), scored_notes(report))
    console().print(f"Every answer: {out / 'answers.jsonl'}, plot: {out / 'v.png'}", soft_wrap=True)


def _student(settings: Settings, structure: Structure) -> Backend:
    """
    Raises:
        BackendNotConfiguredError: no server is named. SettingsError: adapters on a plain endpoint.
    """
    from ..core import build_backend
    from ..serving.openai_compatible import OpenAIBackend

    if settings.base_url is None or settings.model is None:
        raise BackendNotConfiguredError(
            "No student is named: pass --base-url and --model. A model in process reads text only, so a vision model "
            "needs a server."
        )
    if settings.api == Api.vllm.value:
        return build_backend(settings)
    if "vision" in settings.adapters:
        raise SettingsError("--api openai knows no adapters. Name the tuned model with --model, or use --api vllm.")
    return OpenAIBackend(
        settings.base_url,
        settings.model,
        api_key=settings.api_key,
        structured_output=structure.value,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
    )


def _tell(tables: Sequence[Table], notes: Sequence[str]) -> None:
    print_tables(tables)
    for note in notes:
        complain(f"note: {note}")


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
