"""An expert from its samples: a LoRA adapter for a student model, with the weights that validated best."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatasetError, MissingDependencyError, SettingsError, TrainingError
from ..files import write_whole
from ..serving.adapters import CONFIG_FILE, WEIGHTS_FILE
from ..serving.checkpoint import NOTES_FILE, check_tokenizer, limit_threads, readable, stops, weights_sha256, window
from ..serving.local import model_folder
from . import card as cards
from .checkpoints import Checkpoints, check_replaceable, put_in_place
from .dataset import Sample, check_splits
from .encoding import Encoded, encode
from .identity import digest
from .options import Trained, TrainingOptions

if TYPE_CHECKING:
    from trl.trainer.sft_config import SFTConfig

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "trl")
_RUN_ONLY = ("optimizer.pt", "scheduler.pt", "rng_state*", "trainer_state.json", "training_args.bin", "README.md")
"""What a checkpoint holds besides a model."""
_MACHINE = {"device", "threads", "device_batch_size", "gradient_checkpointing"}
"""Options that change how fast the same result is reached."""


@dataclass(frozen=True, slots=True)
class TrainingEvent:
    """A step was made, of at most `steps`; or, with `validation_loss`, a validation after it."""

    step: int
    steps: int
    epoch: float
    validation_loss: float | None = None


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
    _check_packages()
    _check_samples(expert, train, validation)
    folder = model_folder(base, allow_download=False)
    out = Path(out).expanduser().absolute()
    made_of = {
        "expert": expert,
        "base model": weights_sha256(folder),
        "training samples": cards.samples_sha256(train),
        "validation samples": cards.samples_sha256(validation),
        "options": digest(options.model_dump(mode="json", exclude=_MACHINE)),
    }
    checkpoints = Checkpoints(out)
    with _quietly(), _explained(checkpoints.folder):
        arguments = _arguments(options, checkpoints.folder)
        with arguments.main_process_first(local=False):
            if arguments.process_index == 0:
                check_replaceable(out)
            if resume and (done := _finished(out, made_of)) is not None:
                return done
            if arguments.process_index == 0:
                checkpoints.begin(made_of, resume=resume)
        run = _Run(expert, base, folder, options, arguments, checkpoints)
        state = run.train(train, validation, on_event)
        card = {
            "expert": expert,
            "base_sha256": made_of["base model"],
            **run.card(train, validation, state),
            "run": made_of,
        }
        if arguments.process_index == 0:
            put_in_place(out, partial(_write, checkpoints.best(state), card))
            checkpoints.remove()
        run.end()
    return _expert(out, card)


class _Run:
    """The base model with a new adapter, and what it is trained with."""

    def __init__(
        self,
        expert: Trained,
        base: Path | str,
        folder: Path,
        options: TrainingOptions,
        arguments: SFTConfig,
        checkpoints: Checkpoints,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

        limit_threads(options.threads)
        set_seed(options.seed)
        self._name = base if isinstance(base, str) and not Path(base).expanduser().is_dir() else folder.name
        self._folder, self._options, self._arguments, self._checkpoints = folder, options, arguments, checkpoints
        with readable(folder):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            check_tokenizer(self._tokenizer, folder)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype="bfloat16" if arguments.bf16 and not options.full else "float32",
                local_files_only=True,
                trust_remote_code=False,
            )
        self._stops = stops(self._model, self._tokenizer)
        self._targets, self._left_alone = _layers(self._model, options.targets(expert), folder)
        self._kept: dict[str, list[Encoded]] = {}
        self._trainer: Any = None

    def train(
        self,
        train: Sequence[Sample],
        validation: Sequence[Sample],
        on_event: Callable[[TrainingEvent], None] | None,
    ) -> dict[str, Any]:
        """Train, or go on; returns the trainer's state at the end."""
        self._kept = {"train": self._encoded(train), "validation": sorted(self._encoded(validation), key=len)}
        last = self._checkpoints.last()
        if last is not None and last[1]["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]:
            return last[1]  # it was killed after its end
        self._trainer = self._new_trainer(on_event)
        self._trainer.train(resume_from_checkpoint=None if last is None else str(last[0]))
        return asdict(self._trainer.state)

    def card(self, train: Sequence[Sample], validation: Sequence[Sample], state: Mapping[str, Any]) -> dict[str, Any]:
        """What is told about the finished expert."""
        options = self._options.model_dump(mode="json")
        return {
            "base_model": self._name,
            "data": {
                "train": cards.data_card(train, self._kept["train"]),
                "validation": cards.data_card(validation, self._kept["validation"]),
            },
            "options": options
            | {"target_modules": None if self._options.full else self._targets, "max_length": self._max_length},
            "metrics": cards.metrics(state),
            "history": cards.history(state["log_history"]),
            "device": str(self._arguments.device),
            "processes": self._arguments.world_size,
            "dtype": "bfloat16" if self._arguments.bf16 else "float32",
            "versions": cards.environment(),
        }

    def end(self) -> None:
        """Wait for the other processes, and free the model."""
        if self._trainer is not None:
            self._trainer.accelerator.wait_for_everyone()
            self._trainer.accelerator.free_memory()

    @property
    def _max_length(self) -> int:
        return min(self._options.max_length, window(self._model, self._tokenizer))

    def _encoded(self, samples: Sequence[Sample]) -> list[Encoded]:
        return encode(samples, self._tokenizer, self._stops, self._folder, self._max_length)

    def _new_trainer(self, on_event: Callable[[TrainingEvent], None] | None) -> Any:
        from datasets import Dataset  # type: ignore[import-untyped]
        from peft import LoraConfig
        from transformers import EarlyStoppingCallback

        from .sft import ExpertTrainer, collate

        def tell(step: int, steps: int, epoch: float, validation_loss: float | None) -> None:
            if on_event is not None and self._arguments.process_index == 0:
                on_event(TrainingEvent(step, steps, epoch, validation_loss))

        rows = {
            split: Dataset.from_list(
                [{"input_ids": sample.prompt + sample.reply, "reply": len(sample.reply)} for sample in kept]
            )
            for split, kept in self._kept.items()
        }
        adapter = LoraConfig(
            r=self._options.rank,
            lora_alpha=self._options.alpha,
            lora_dropout=self._options.dropout,
            target_modules=self._targets,
            exclude_modules=self._left_alone or None,
            bias="none",
            task_type="CAUSAL_LM",
        )
        return ExpertTrainer(
            tell=tell,
            model=self._model,
            args=self._arguments,
            data_collator=partial(collate, padding=self._stops[0]),
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            processing_class=self._tokenizer,
            callbacks=[EarlyStoppingCallback(self._options.patience)],
            peft_config=None if self._options.full else adapter,
        )


def _arguments(options: TrainingOptions, folder: Path) -> SFTConfig:
    """The trainer's arguments; making them joins the other processes."""
    import torch
    from trl.trainer.sft_config import SFTConfig

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    share, rest = divmod(options.batch_size, processes)
    if rest:
        raise SettingsError(f"A batch size of {options.batch_size} cannot be shared by {processes} processes.")
    at_once = min(options.device_batch_size or share, share)
    if share % at_once:
        raise SettingsError(f"Of {share} samples in a step, a process cannot take {at_once} at a time.")
    gpu = options.device == "auto" and torch.cuda.is_available()
    when: Any = "epoch" if options.eval_every is None else "steps"
    every = options.eval_every or 1
    arguments = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=at_once,
        per_device_eval_batch_size=at_once,
        gradient_accumulation_steps=share // at_once,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant_with_warmup" if options.schedule == "constant" else options.schedule,
        warmup_steps=options.warmup,
        weight_decay=options.weight_decay,
        adam_beta1=options.betas[0],
        adam_beta2=options.betas[1],
        max_grad_norm=options.max_grad_norm,
        bf16=gpu and torch.cuda.is_bf16_supported(including_emulation=False),
        use_cpu=not gpu,
        seed=options.seed,
        eval_strategy=when,
        save_strategy=when,
        logging_strategy=when,
        eval_steps=every,
        save_steps=every,
        logging_steps=every,
        logging_nan_inf_filter=False,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        gradient_checkpointing=options.gradient_checkpointing,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        prediction_loss_only=True,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        ddp_find_unused_parameters=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process trains on one GPU; more are for `accelerate launch`
    return arguments


def _layers(model: Any, wanted: Sequence[str] | str, folder: Path) -> tuple[list[str], list[str]]:
    """The names of the layers to adapt, and the full names of those of the same names outside of the language model."""
    import torch

    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    inside = set(model.get_decoder().modules())
    found = {name.rpartition(".")[2] for name, layer in linear.items() if layer in inside}
    if not isinstance(wanted, str) and (unknown := sorted(set(wanted) - found)):
        raise SettingsError(
            f"The model in {folder} has no linear layers called {', '.join(unknown)}. It has "
            f"{', '.join(sorted(found))}; or use all-linear."
        )
    adapted = found if isinstance(wanted, str) else set(wanted)
    outside = [name for name, layer in linear.items() if layer not in inside and name.rpartition(".")[2] in adapted]
    return sorted(adapted), outside


def _write(best: Path, card: Mapping[str, Any], draft: Path) -> None:
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
    write_whole(draft / "README.md", cards.readme(card))


def _finished(out: Path, made_of: Mapping[str, str]) -> TrainedExpert | None:
    """The expert in `out`, if it is the one that this run would make."""
    try:
        card = json.loads((out / NOTES_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return _expert(out, card) if isinstance(card, dict) and card.get("run") == made_of else None


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
def _explained(checkpoints: Path) -> Iterator[None]:
    """Turn what goes wrong in the middle of training into our errors."""
    kept = f"Checkpoints, if there were any, are whole in {checkpoints}: train again with resume."
    try:
        yield
    except FloatingPointError as error:
        raise TrainingError(f"{error} Lower the learning rate, and look for broken samples. {kept}") from error
    except (RuntimeError, MemoryError) as error:
        raise TrainingError(
            f"Training failed: {error}. If memory ran out, lower device_batch_size or max_length. {kept}"
        ) from error
