"""A new corpus into a Memory model: train on the new corpus alone, and merge anew (Section 4.3 of the MeMo paper).

What was trained before stays as it is, so each corpus costs its own training: K in all, where training on the union
each time costs as much as K (K + 1) / 2. A merged model remembers its parts by their folders; they must stay.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import SettingsError
from ..serving.local import model_folder
from ..training.checkpoints import check_replaceable
from ..training.identity import digest
from ..training.trainer import TrainingEvent
from .card import TrainedDocument, read_card
from .merging import MergedModel, MergeEvent, merge
from .merging.card import found_again, parts_of
from .merging.methods import Recipe
from .merging.task_vectors import notes
from .reflections import HeldOutQuestion, Reflection
from .training import MemoOptions, TrainedMemoryModel, train_memory_model

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UpdatedMemory:
    """A Memory model that knows one corpus more. `part` is what was trained; `repeated` documents were known before.

    The paper assumes corpora without a common document; what an older part learned of a repeated one is still there.
    """

    merged: MergedModel
    part: TrainedMemoryModel
    repeated: tuple[str, ...]


def update(
    memory: Path | str,
    reflections: Sequence[Reflection],
    out: Path | str | None = None,
    *,
    base: Path | str | None = None,
    options: MemoOptions | None = None,
    recipe: Recipe | None = None,
    rank: int | None = None,
    held_out: Sequence[HeldOutQuestion] = (),
    documents: Iterable[TrainedDocument] = (),
    resume: bool = False,
    on_training: Callable[[TrainingEvent], None] | None = None,
    on_event: Callable[[MergeEvent], None] | None = None,
) -> UpdatedMemory:
    """Train a part on `reflections` of a new corpus and merge it with the Memory model in `memory`, into `out`.

    `memory` was trained (it is the first part then) or merged. `out` may be left out for a merged one: it is replaced
    by the new merge at the very end. The new part is trained from the same base, and kept in
    `<out>.parts/<hash of its reflections>`. Folders of parts are noted relative to `out` where they lie beside it, so
    that they move together.

    `base` is the folder or name of the base, needed where the card of `memory` does not lead to it. `options`, `recipe`
    and `rank` are those of the first part and of the earlier merge where they are not given; a first merge is made by
    `Recipe()`. `resume` goes on with a training that was stopped, and only merges where it was finished.

    Raises:
        SettingsError: `memory` is no Memory model, or one of its parts or its base is not where it was (named); `out`
            would replace a part, or holds something else; a recipe with weights for fewer models; several processes.
        DatasetError, BackendUnavailableError, MissingDependencyError, TrainingError: see `train_memory_model`.
        AdapterInvalidError: see `merge`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            "One process updates a Memory model. On several GPUs train the new part with `accelerate launch … memo "
            "train`, then merge all parts with `memlora memo merge`."
        )
    memory = Path(memory).expanduser().absolute()
    parts, told = parts_of(memory)
    merged = parts != [memory]
    if out is None and not merged:
        raise SettingsError(
            f"{memory} is a part of what is to be merged and must stay. Choose another folder for the merged model."
        )
    out = memory if out is None else Path(out).expanduser().absolute()
    if inside := [str(part) for part in parts if part.is_relative_to(out)]:
        raise SettingsError(f"{out} would replace {', '.join(inside)}, which is merged. Choose another folder.")
    check_replaceable(out)  # not after hours of training
    folder = out.with_name(f"{out.name}.parts") / digest([one.model_dump() for one in reflections])[:12]
    models = [part for part in parts if part != folder] + [folder]
    before = told.get("merge") or {}
    recipe = recipe or Recipe.from_row(before)
    recipe.check(len(models))
    rank = before.get("rank") if rank is None else rank
    origin = _base(base, told, memory)
    known = {document.id for document in read_card(memory).documents}
    repeated = tuple(sorted({id for one in reflections for id in one.documents} & known))
    if repeated:
        log.warning("%d documents of the new corpus are known already, such as %s", len(repeated), repeated[0])
    trained = train_memory_model(
        origin,
        reflections,
        folder,
        options or part_options(memory),
        held_out=held_out,
        documents=documents,
        resume=resume,
        on_event=on_training,
    )
    result = merge(
        origin,
        models,
        out,
        method=recipe.method,
        weights=recipe.weights,
        density=recipe.density,
        t=recipe.t,
        scale=recipe.scale,
        seed=recipe.seed,
        rank=rank,
        on_event=on_event,
    )
    return UpdatedMemory(result, trained, repeated)


def _base(given: Path | str | None, told: dict[str, Any], memory: Path) -> Path | str:
    """The base model that was given, or that the card leads to."""
    if given is not None:
        return given
    named = str(told.get("base_model") or "")
    for recorded in (told.get("base_folder"), named and f"../{named}"):
        if recorded and (folder := found_again(recorded, memory)).is_dir():
            return folder
    try:
        model_folder(named, allow_download=False)
    except SettingsError as error:
        raise SettingsError(
            f"The base model {named} of {memory} is not found. Name its folder as the base (`--base` on the command "
            "line)."
        ) from error
    return named


def part_options(memory: Path | str, **changes: Any) -> MemoOptions:
    """The options that the first part of the Memory model in `memory` was trained with, with `changes`.

    Raises:
        SettingsError: it is no Memory model, its part is not there or does not tell them, or they cannot be.
    """
    part = parts_of(Path(memory).expanduser().absolute())[0][0]
    told = notes(part).get("options")
    if not isinstance(told, dict):
        raise SettingsError(
            f"{part} does not say how it was trained. Train the new part by itself (`memlora memo train`), and merge "
            "both."
        )
    try:
        return MemoOptions.model_validate(told | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"{part} was trained with options that are not possible here: {'.'.join(map(str, first['loc']))}: "
            f"{first['msg']}."
        ) from error
