"""The model that learns: a base model with a new adapter, and TRL's trainer around it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import SettingsError
from ..serving.checkpoint import check_tokenizer, keeps_keys, limit_threads, readable, stops, window
from . import card as cards
from .checkpoints import Checkpoints
from .dataset import Sample
from .encoding import encode
from .goal import Examinee, Goal
from .options import Trained, TrainingOptions

if TYPE_CHECKING:
    from trl.trainer.sft_config import SFTConfig

    from .sft import Tell


ChosenBy = Literal["eval_loss", "eval_score", "eval_trained_tokens"]
"""What the kept weights are chosen by: the loss, the score of the goal, or that they were trained longest."""


class Student:
    """The model in `folder`, to be trained for `expert`. `name` is what its card calls it.

    Raises:
        SettingsError: it has no chat template, or not the layers to adapt.
        BackendUnavailableError: it cannot be read.
    """

    def __init__(
        self,
        expert: Trained,
        name: str,
        folder: Path,
        options: TrainingOptions,
        arguments: SFTConfig,
        goal: Goal | None = None,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

        limit_threads(options.threads)
        set_seed(options.seed)
        self._name, self._folder, self._options, self._arguments = name, folder, options, arguments
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
        room = window(self._model, self._tokenizer)
        self._max_length = min(options.max_length, room)
        self._examinee = None
        if goal is not None:
            if not keeps_keys(self._model):
                raise SettingsError(
                    f"The model in {folder} has layers without keys and values, and cannot be asked questions in "
                    "training. Train it without held-out questions."
                )
            self._examinee = Examinee(goal, self._tokenizer, self._stops, room, folder)
        self._data: dict[str, dict[str, Any]] = {}
        self._trainer: Any = None

    def train(
        self, train: Sequence[Sample], validation: Sequence[Sample], checkpoints: Checkpoints, tell: Tell
    ) -> dict[str, Any]:
        """Train, or go on from the last checkpoint; returns the trainer's state at the end.

        Raises:
            DatasetError, TrainingError: see `encode`; TrainingError: a checkpoint cannot be saved.
            FloatingPointError: the loss is no longer a number.
        """
        rows = self._rows("train", train), self._rows("validation", validation)
        last = checkpoints.last()
        if last is not None and last[1]["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]:
            return last[1]  # it was killed after its end
        self._trainer = self._new_trainer(*rows, tell)
        self._trainer.train(resume_from_checkpoint=None if last is None else str(last[0]))
        return asdict(self._trainer.state)

    def card(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What is told about the expert that `train` ended with."""
        options = self._options.model_dump(mode="json")
        options |= {"target_modules": None if self._options.full else self._targets, "max_length": self._max_length}
        return {
            "base_model": self._name,
            "data": self._data,
            "options": options,
            "metrics": cards.metrics(state),
            "history": cards.history(state["log_history"]),
            "device": str(self._arguments.device),
            "processes": self._arguments.world_size,
            "dtype": "bfloat16" if self._arguments.bf16 else "float32",
            "versions": cards.versions(),
        }

    def end(self) -> None:
        """Wait for the other processes, and free the model."""
        if self._trainer is not None:
            self._trainer.accelerator.wait_for_everyone()
            self._trainer.accelerator.free_memory()

    def _rows(self, split: str, samples: Sequence[Sample]) -> Any:
        """A split as the trainer takes it, sorted by length, so that batches of validation are of similar length."""
        from datasets import Dataset  # type: ignore[import-untyped]

        if not samples:
            return Dataset.from_list([])
        kept = encode(samples, self._tokenizer, self._stops, self._folder, self._max_length)
        self._data[split] = cards.data_card(samples, kept)
        kept.sort(key=len)
        return Dataset.from_list([{"input_ids": one.prompt + one.reply, "reply": len(one.reply)} for one in kept])

    def _new_trainer(self, train: Any, validation: Any, tell: Tell) -> Any:
        from peft import LoraConfig
        from transformers import EarlyStoppingCallback

        from .sft import ExpertTrainer, collate

        adapter = LoraConfig(
            r=self._options.rank,
            lora_alpha=self._options.alpha,
            lora_dropout=self._options.dropout,
            target_modules=self._targets,
            exclude_modules=self._left_alone or None,
            bias="none",
            task_type="CAUSAL_LM",
        )
        trainer = ExpertTrainer(
            tell=tell,
            examinee=self._examinee,
            embedding_rate=self._options.embedding_rate,
            muon=self._options.optimizer == "muon",
            model=self._model,
            args=self._arguments,
            data_collator=partial(collate, padding=self._stops[0]),
            train_dataset=train,
            eval_dataset=validation,
            processing_class=self._tokenizer,
            callbacks=[EarlyStoppingCallback(self._options.patience)],
            peft_config=None if self._options.full else adapter,
        )
        if self._examinee is not None and trainer.divides_weights:
            raise SettingsError(
                "Weights that are divided among processes (FSDP, ZeRO-3) cannot be asked questions in training. Use "
                "DDP or ZeRO-2, or train without held-out questions."
            )
        return trainer


def training_arguments(options: TrainingOptions, folder: Path, chosen_by: ChosenBy) -> SFTConfig:
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
        metric_for_best_model=chosen_by,
        greater_is_better=chosen_by != "eval_loss",
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
    asked = {wanted} if isinstance(wanted, str) and not found else set() if isinstance(wanted, str) else set(wanted)
    if unknown := sorted(asked - found):
        raise SettingsError(
            f"The model in {folder} has no linear layers to adapt called {', '.join(unknown)}. It has "
            f"{', '.join(sorted(found)) or 'none'}."
        )
    adapted = found if isinstance(wanted, str) else set(wanted)
    outside = [name for name, layer in linear.items() if layer not in inside and name.rpartition(".")[2] in adapted]
    return sorted(adapted), outside
