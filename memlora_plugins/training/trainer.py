"""An expert from its samples: a LoRA adapter for a student model, with the weights that validated best."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import DatasetError, MissingDependencyError, TrainingError
from ..files import write_whole
from ..serving.adapters import CONFIG_FILE, NOTES_FILE, WEIGHTS_FILE, is_hub_name, weights_sha256
from ..serving.local import model_folder
from . import card as cards
from .checkpoints import Checkpoints, check_replaceable, put_in_place
from .dataset import Sample, check_splits
from .goal import Goal
from .identity import digest
from .options import MACHINE_OPTIONS, Trained, TrainingOptions
from .student import ChosenBy, Student, training_arguments

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "trl")
_RUN_ONLY = (
    *("optimizer.pt", "scheduler.pt", "rng_state*", "trainer_state.json", "training_args.bin", "README.md"),
    *("global_step*", "latest", "zero_to_fp32.py"),  # DeepSpeed's
)
"""What a checkpoint holds besides a model."""

Note = Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], Sequence[str]]]
"""From a card to what else it says, and lines of its README about that."""


@dataclass(frozen=True, slots=True)
class TrainingEvent:
    """A step was made, of at most `steps`; or, with `validation_loss`, a validation after it.

    `score` is that of the goal, where it was measured: the recall of a Memory model.
    """

    step: int
    steps: int
    epoch: float
    validation_loss: float | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class TrainedExpert:
    """A finished expert. `folder` holds it, with its card: `memlora.json` (`card`, as data) and `README.md`.

    `validation_loss` is that of its weights, the best that were seen: the mean over the reply tokens of all validation
    samples. `epochs` counts those trained, `tokens_per_second` prompt and reply tokens in training steps.
    """

    folder: Path
    validation_loss: float
    tokens_per_second: float
    epochs: float
    card: dict[str, Any]


def train(
    expert: Trained,
    base: Path | str,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    out: Path,
    options: TrainingOptions = TrainingOptions(),  # noqa: B008 (frozen)
    *,
    resume: bool = False,
    on_event: Callable[[TrainingEvent], None] | None = None,
) -> TrainedExpert:
    """Train `expert` on the model in folder `base` (or of that name in the Hugging Face cache) and write it to `out`.

    Prompts are tokenised as they will be served; only the reply and the token that ends it are learned. The expert
    "shared" is one adapter for samples of all experts. `out` becomes a standard peft folder, which vLLM loads as it is,
    with its card; what was there before is replaced at the very end, all at once.

    After each validation there is a checkpoint in the folder `<out>.checkpoints`, removed when all is done. A run that
    was killed goes on from the last one with `resume`, to the same result; a finished one is returned as it is. Without
    `resume`, training starts anew.

    Under `accelerate launch` every process calls this with the same arguments; the first one writes, and all of them
    see the same folders. `on_event` is called in the first one only.

    Raises:
        MissingDependencyError: the extra `train` is not installed.
        DatasetError: an empty split, a conversation in both, samples of another expert, or all of them too long.
        SettingsError: no such base model or none that can be trained (no chat template), target modules it does not
            have, a batch size that the processes cannot share, an `out` that holds something else, or a run to resume
            that was made of something else.
        BackendUnavailableError: the base model cannot be read.
        TrainingError: the disk is full, memory ran out, or the loss is no longer a number. Checkpoints, and an older
            expert in `out`, are whole.
    """
    _check_samples(expert, train, validation)
    card = train_model(expert, base, train, validation, out, options, resume=resume, on_event=on_event)
    return _expert(_absolute(out), card)


def train_model(
    expert: Trained,
    base: Path | str,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    out: Path,
    options: TrainingOptions,
    *,
    goal: Goal | None = None,
    also: Mapping[str, str] = MappingProxyType({}),
    note: Note | None = None,
    resume: bool = False,
    on_event: Callable[[TrainingEvent], None] | None = None,
) -> dict[str, Any]:
    """Train as `train` does, and return the card.

    With a `goal`, the weights with its best score are kept; without one, those with the lowest loss; without validation
    samples, the last. `also` (name to hash) is what the run is made of besides. `note` adds to the finished card.

    Raises:
        as `train`, but the samples are the caller's to check.
        SettingsError: besides, a goal for a model that cannot be asked in training.
    """
    _check_packages()
    folder = model_folder(base, allow_download=False)
    out = _absolute(out)
    made_of = {
        "expert": expert,
        "base model": weights_sha256(folder),
        "training samples": cards.samples_sha256(train),
        "validation samples": cards.samples_sha256(validation),
        "options": digest(options.model_dump(mode="json", exclude={*MACHINE_OPTIONS})),
        **also,
    }
    checkpoints = Checkpoints(out)

    def tell(step: int, steps: int, epoch: float, validation_loss: float | None, score: float | None) -> None:
        if on_event is not None and arguments.process_index == 0:
            on_event(TrainingEvent(step, steps, epoch, validation_loss, score))

    with _quietly(), _explained(checkpoints):
        chosen_by: ChosenBy = "eval_loss" if validation else "eval_trained_tokens"
        arguments = training_arguments(options, checkpoints.folder, "eval_score" if goal is not None else chosen_by)
        with arguments.main_process_first(local=False):
            if arguments.process_index == 0:
                check_replaceable(out)
            done = _finished(out, made_of) if resume else None
            if arguments.process_index == 0:
                checkpoints.begin(made_of, resume=resume and done is None)
        if done is not None:
            return done
        name = str(base) if is_hub_name(base) and not Path(base).is_dir() else folder.name
        student = Student(expert, name, folder, options, arguments, goal)
        state = student.train(train, validation, checkpoints, tell)
        card = {"expert": expert, "base_sha256": made_of["base model"], **student.card(state), "run": made_of}
        more, lines = note(card) if note is not None else ({}, ())
        card |= more
        if arguments.process_index == 0:
            put_in_place(out, partial(_write, checkpoints.best(state), card, lines))
            checkpoints.remove()
        student.end()
    return card


def _write(best: Path, card: Mapping[str, Any], lines: Sequence[str], draft: Path) -> None:
    """Fill `draft` with the weights of checkpoint `best` and the card."""
    if card["options"]["full"]:
        shutil.copytree(best, draft, ignore=shutil.ignore_patterns(*_RUN_ONLY), dirs_exist_ok=True)
    else:
        shutil.copyfile(best / WEIGHTS_FILE, draft / WEIGHTS_FILE)
        config = json.loads((best / CONFIG_FILE).read_bytes())
        config["base_model_name_or_path"] = card["base_model"]
        for names in ("target_modules", "exclude_modules"):  # sets, in an order of their own each time
            config[names] = config[names] and sorted(config[names])
        write_whole(draft / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_whole(draft / NOTES_FILE, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    write_whole(draft / "README.md", cards.readme(card, lines))


def _finished(out: Path, made_of: Mapping[str, str]) -> dict[str, Any] | None:
    """The card of what is in `out`, if it is what this run would make."""
    try:
        card = json.loads((out / NOTES_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) and card.get("run") == made_of else None


def _absolute(out: Path) -> Path:
    return Path(out).expanduser().absolute()


def _expert(out: Path, card: dict[str, Any]) -> TrainedExpert:
    found = card["metrics"]
    return TrainedExpert(out, found["validation_loss"], found["tokens_per_second"], found["epochs"], card)


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Training needs {', '.join(missing)}. Install with: pip install 'memlora-plugins[train]'"
        )


def _check_samples(expert: Trained, train: Sequence[Sample], validation: Sequence[Sample]) -> None:
    splits = {"training": train, "validation": validation}
    check_splits({name: [sample.conversation for sample in samples] for name, samples in splits.items()})
    for name, samples in splits.items():
        if expert != "shared" and (other := next((one for one in samples if one.expert != expert), None)) is not None:
            raise DatasetError(
                f"Sample {other.id!r} of the {name} split is for the {other.expert} expert, not for {expert}. "
                'Train each expert on its own file, or train "shared".'
            )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the libraries' progress bars, advice and telemetry to themselves."""
    import huggingface_hub.constants as hub
    from transformers.utils import logging

    noise: Any = logging  # its functions have no types
    level, bars, telemetry = noise.get_verbosity(), noise.is_progress_bar_enabled(), hub.HF_HUB_DISABLE_TELEMETRY
    noise.set_verbosity_error()
    noise.disable_progress_bar()
    hub.HF_HUB_DISABLE_TELEMETRY = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate)\b")
            yield
    finally:
        noise.set_verbosity(level)
        if bars:
            noise.enable_progress_bar()
        hub.HF_HUB_DISABLE_TELEMETRY = telemetry


@contextmanager
def _explained(checkpoints: Checkpoints) -> Iterator[None]:
    """Turn what goes wrong in the middle of training into our errors, and leave no folder without a checkpoint."""
    kept = f"Checkpoints, if there were any, are whole in {checkpoints.folder}: train again with resume."
    try:
        yield
    except FloatingPointError as error:
        raise TrainingError(f"{error} Lower the learning rate, and look for broken samples. {kept}") from error
    except (RuntimeError, MemoryError) as error:
        raise TrainingError(
            f"Training failed: {error}. If memory ran out, lower device_batch_size or max_length. {kept}"
        ) from error
    finally:
        if checkpoints.last() is None:
            checkpoints.remove()
