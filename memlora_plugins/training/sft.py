"""TRL's trainer with batches of similar length, and logits only where the loss needs them."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from safetensors import SafetensorError
from torch.nn import functional
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput
from trl.trainer.sft_trainer import SFTTrainer

from ..errors import TrainingError
from .goal import Examinee, Measured
from .muon import MuonAdamW

Tell = Callable[[int, int, float, float | None, float | None], None]
"""(step, of how many, epoch, validation loss or None, score of the goal or None)"""

TRAINED_TOKENS, SCORE = "eval_trained_tokens", "eval_score"

_IGNORED = -100
_SORTED_AT_ONCE = 50  # batches


class LengthBuckets(Sampler[int]):
    """Indices in an order in which each run of `batch_size` has similar `lengths`; another order in each epoch.

    The order depends on `seed` and `epoch` alone, so that a resumed run goes on with the batches it had not seen.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self.epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), self._batch_size * _SORTED_AT_ONCE):
            alike = order[start : start + self._batch_size * _SORTED_AT_ONCE]
            alike.sort(key=lambda index: self._lengths[index])
            batches += [alike[at : at + self._batch_size] for at in range(0, len(alike), self._batch_size)]
        whole = len(self) // self._batch_size
        for place in torch.randperm(whole, generator=generator).tolist():
            yield from batches[place]
        for rest in batches[whole:]:  # not among the others, or all after it would be cut elsewhere
            yield from rest


def collate(samples: Sequence[Mapping[str, Any]], padding: int) -> dict[str, torch.Tensor]:
    """Samples as one batch, padded on the left: replies end together, and only the last columns need logits.

    `labels` covers these columns: one more than the longest reply has tokens, the first of which is never learned.
    """
    width = max(len(sample["input_ids"]) for sample in samples)
    wanted = 1 + max(sample["reply"] for sample in samples)
    tokens = torch.full((len(samples), width), padding)
    mask = torch.zeros((len(samples), width), dtype=torch.long)
    labels = torch.full((len(samples), wanted), _IGNORED)
    for row, sample in enumerate(samples):
        ids = torch.tensor(sample["input_ids"])
        tokens[row, width - len(ids) :] = ids
        mask[row, width - len(ids) :] = 1
        labels[row, wanted - sample["reply"] :] = ids[len(ids) - sample["reply"] :]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions, "labels": labels}


def token_losses(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The loss of every token that a batch's labels may hold (rows by columns), 0 where they hold none."""
    labels = batch["labels"]
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
        logits_to_keep=labels.shape[1],
    ).logits[:, :-1]
    labels = labels[:, 1:]
    learned = labels != _IGNORED
    losses = functional.cross_entropy(logits[learned].float(), labels[learned], reduction="none")
    return losses.new_zeros(labels.shape).masked_scatter(learned, losses)


class ExpertTrainer(SFTTrainer):
    """`SFTTrainer` with this library's batches, loss, validation and measurement of speed.

    A validation's metrics are `eval_loss`, the mean over all reply tokens however they are batched, and what was
    trained until then: `eval_trained_tokens` (of all processes, without padding) in `eval_trained_seconds`. Without
    validation samples there is no loss. With an `examinee`, `eval_score` and `eval_measured` are its goal's.
    """

    def __init__(
        self,
        *,
        tell: Tell,
        embedding_rate: float,
        muon: bool,
        train_dataset: Any,
        examinee: Examinee | None = None,
        **arguments: Any,
    ) -> None:
        self._examinee = examinee
        self._embedding_rate = embedding_rate
        self._muon = muon
        self._lengths = [len(ids) for ids in train_dataset["input_ids"]]
        super().__init__(train_dataset=train_dataset, **arguments)
        self.model_accepts_loss_kwargs = True  # so that `compute_loss` is told how many tokens a step learns
        self.remove_callback(PrinterCallback)
        self.add_callback(_Progress(self, tell))
        self.trained_tokens = 0
        self.trained_seconds = 0.0

    def create_optimizer(self, model: Any = None) -> Any:
        """The optimizer, with the embeddings and the output layer in groups of their own rate."""
        if self.optimizer is None:
            made: Any = super().create_optimizer(model)
            if self._muon or self._embedding_rate != 1:
                groups = self._groups(made.param_groups)
                self.optimizer = MuonAdamW(groups) if self._muon else type(made)(groups)
        return self.optimizer

    def _groups(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        trained: Any = self.model
        layers = (trained.get_input_embeddings(), trained.get_output_embeddings())
        words = {id(layer.weight) for layer in layers if layer is not None}
        tables = words | {id(layer.weight) for layer in trained.modules() if isinstance(layer, torch.nn.Embedding)}

        def turned(weight: torch.Tensor) -> bool:
            return self._muon and weight.ndim == 2 and id(weight) not in tables

        parts: list[dict[str, Any]] = []
        for group in groups:
            weights = group["params"]
            others = [weight for weight in weights if id(weight) not in words and not turned(weight)]
            apart = [weight for weight in weights if id(weight) in words]
            parts.append({**group, "params": others})
            parts.append({**group, "params": [weight for weight in weights if turned(weight)], "muon": True})
            parts.append({**group, "params": apart, "lr": group["lr"] * self._embedding_rate})
        return [part for part in parts if part["params"]]

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        step = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self.order = LengthBuckets(self._lengths, step, self.args.seed)
        return self.order

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        losses = token_losses(model, inputs)
        self.trained_tokens += int(inputs["attention_mask"].sum())
        # The count is that of the whole step, over all processes; their gradients are averaged.
        loss: torch.Tensor = losses.sum() / num_items_in_batch * self.accelerator.num_processes
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"The loss became {loss.item()} in step {self.state.global_step + 1}.")
        return loss

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Nothing to iterate over where there are no validation samples."""
        wanted: Any = eval_dataset if eval_dataset is not None else self.eval_dataset
        return super().get_eval_dataloader(wanted) if len(wanted) else []

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        model = self.model_wrapped.eval()
        total = torch.zeros(2, dtype=torch.float64)
        count = 0
        for batch in dataloader:
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                losses = token_losses(model, inputs).sum(1)
            tokens = (inputs["labels"][:, 1:] != _IGNORED).sum(1)
            rows = self.accelerator.gather_for_metrics(torch.stack([losses, tokens], 1))
            total += rows.cpu().double().sum(0)
            count += len(rows)
        trained = self.accelerator.reduce(torch.tensor(self.trained_tokens, device=self.args.device))
        metrics: dict[str, Any] = {
            f"{metric_key_prefix}_trained_tokens": int(trained),
            f"{metric_key_prefix}_trained_seconds": self.trained_seconds,
        }
        if count:
            metrics[f"{metric_key_prefix}_loss"] = loss = float(total[0] / total[1])
            if not math.isfinite(loss):
                raise FloatingPointError(f"The validation loss became {loss}.")
        if self._examinee is not None and self._due(self._examinee.goal.every):
            measured = self._examine(self._examinee)
            metrics[f"{metric_key_prefix}_score"] = measured.score
            metrics[f"{metric_key_prefix}_measured"] = measured.details
        nothing: Any = ()
        return EvalLoopOutput(predictions=nothing, label_ids=None, metrics=metrics, num_samples=count)

    @property
    def divides_weights(self) -> bool:
        """Whether a process has only some of the weights, and others only while all of them step together."""
        deepspeed = self.accelerator.state.deepspeed_plugin
        return self.is_fsdp_enabled or (deepspeed is not None and deepspeed.zero_stage == 3)

    def _due(self, every: int) -> bool:
        """Whether it is this validation's turn; the log has those before it, also after a resumption."""
        before = sum(TRAINED_TOKENS in entry for entry in self.state.log_history)
        return (before + 1) % every == 0 or self.state.global_step >= self.state.max_steps

    def _examine(self, examinee: Examinee) -> Measured:
        """Each process asks for its share; all of them judge the whole."""
        device, share, shares = self.args.device, self.accelerator.process_index, self.accelerator.num_processes
        with self.compute_loss_context_manager():
            said = examinee.replies(self.model, device, share, shares)
        for part in gather_object([said]):
            said |= part
        return examinee.goal.judge([text for _, text in sorted(said.items())])

    def _determine_best_metric(self, metrics: dict[str, Any], trial: Any) -> bool:
        if self.args.metric_for_best_model not in metrics:
            return False  # the goal was not measured this time
        best: bool = super()._determine_best_metric(metrics, trial)
        return best

    def create_model_card(self, *args: Any, **named: Any) -> None:
        """None in checkpoints; the finished expert gets this library's."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
            if self.args.should_save:
                shutil.rmtree(folder / f"checkpoint-{self.state.global_step}", ignore_errors=True)
            raise TrainingError(
                f"The checkpoint of step {self.state.global_step} cannot be saved in {folder}: {error}. Earlier ones "
                "are whole: make room, then train again with resume."
            ) from error


class _Progress(TrainerCallback):
    """Tells the sampler its epoch, the clock what is training, and whoever listens how far it is."""

    def __init__(self, trainer: ExpertTrainer, tell: Tell) -> None:
        self._trainer = trainer
        self._tell = tell
        self._since = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        before = [entry for entry in state.log_history if TRAINED_TOKENS in entry]
        if before and self._trainer.is_world_process_zero():  # the sum is over processes: count it once
            self._trainer.trained_tokens = before[-1][TRAINED_TOKENS]
        self._trainer.trained_seconds = before[-1]["eval_trained_seconds"] if before else 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.order.epoch = int(state.epoch or 0)
        self._since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.trained_seconds += time.perf_counter() - self._since
        self._since = time.perf_counter()
        control.should_log = control.should_log or state.global_step >= state.max_steps
        self._tell(state.global_step, state.max_steps, state.epoch, None, None)

    def on_evaluate(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        found = named["metrics"]
        if "eval_loss" in found:
            self._tell(state.global_step, state.max_steps, state.epoch, found["eval_loss"], found.get(SCORE))
        self._since = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._since = time.perf_counter()
