"""How an expert is trained. The defaults are those of the MemLoRA paper (section 3.2) where it names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..serving.base import Expert

Trained = Expert | Literal["shared", "memory"]
"""An expert, one adapter for all of them, or a MeMo Memory model."""
TargetModules = tuple[str, ...] | Literal["all-linear"]

PAPER_TARGETS: Mapping[Trained, TargetModules] = {
    "extraction": ("q_proj", "v_proj"),
    "update": ("q_proj", "v_proj"),
    "generation": "all-linear",
    "vision": "all-linear",
    "shared": "all-linear",
    "memory": "all-linear",
}
"""The layers each expert adapts; what is shared must do what the most demanding of them does."""


MACHINE_OPTIONS = frozenset({"device", "threads", "device_batch_size", "gradient_checkpointing"})
"""Options that change how fast the same result is reached: work may be resumed with others."""

Schedule = Literal["linear", "cosine", "constant"]
Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingOptions(BaseModel):
    """Hyper-parameters of one run.

    `rank`, `alpha` and `dropout` are the adapter's, over `target_modules`: names of linear layers, `"all-linear"`
    (those of the language model, its output layer aside), or None for the paper's choice for the expert. `full` trains
    all weights instead and writes a whole model; its embeddings and output layer learn at `embedding_rate` times the
    learning rate. The `optimizer` of the weights that are matrices, embeddings aside, may then be `"muon"`, which takes
    small models further in the same number of steps (Jordan et al., 2024); all else is left to AdamW.

    A step takes `batch_size` samples over all processes. A device holds `device_batch_size` of them at once (None: its
    whole share) and accumulates the rest. The learning rate rises over the first `warmup` (a share of all steps that
    `epochs` and `max_steps` allow) and then follows `schedule` to their end. Samples of more than `max_length` tokens,
    prompt and reply, are left out.

    Validation comes every `eval_every` steps, or after each epoch where that is None. Training ends after `patience`
    validations without a lower loss, after `epochs`, or after `max_steps`, whichever comes first.

    `device` is `"auto"` (a GPU where there is one) or `"cpu"`. `threads` is given to torch and holds for the process;
    None means 1 on machines of up to 4 cores (where more are quicker only if nothing else runs), and torch's choice on
    larger ones. `gradient_checkpointing` computes activations anew in the backward pass: less memory, more time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target_modules: TargetModules | None = None
    full: bool = False
    optimizer: Literal["adamw", "muon"] = "adamw"
    embedding_rate: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    learning_rate: float = Field(default=2e-4, gt=0, allow_inf_nan=False)
    schedule: Schedule = "linear"
    warmup: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    max_grad_norm: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=16, ge=1)
    device_batch_size: int | None = Field(default=None, ge=1)
    epochs: int = Field(default=50, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    eval_every: int | None = Field(default=None, ge=1)
    patience: int = Field(default=3, ge=1)
    max_length: int = Field(default=2048, ge=2)
    seed: int = Field(default=7, ge=0, lt=2**32)
    device: Literal["auto", "cpu"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _fits(self) -> TrainingOptions:
        if self.device_batch_size is not None and self.batch_size % self.device_batch_size:
            raise ValueError("batch_size must be a multiple of device_batch_size")
        if self.embedding_rate != 1 and not self.full:
            raise ValueError("embedding_rate is for full training: an adapter leaves the embeddings as they are")
        if self.optimizer != "adamw" and not self.full:
            raise ValueError("muon is for full training: an adapter begins at zero, where it has no direction")
        if self.target_modules == ():
            raise ValueError("target_modules must name at least one layer")
        return self

    def targets(self, expert: Trained) -> TargetModules:
        """The layers to adapt for `expert`."""
        return PAPER_TARGETS[expert] if self.target_modules is None else self.target_modules
