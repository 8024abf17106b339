"""What is told about an expert with it: of what, how and how well it was trained."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from .dataset import Sample
from .encoding import Encoded

_LIBRARIES = ("memlora-plugins", "torch", "transformers", "peft", "trl", "accelerate", "tokenizers")
_NAMED = 20  # conversations


def samples_sha256(samples: Iterable[Sample]) -> str:
    """The hash of the file that `write_samples` makes of them."""
    total = hashlib.sha256()
    for sample in samples:
        total.update(f"{sample.model_dump_json()}\n".encode())
    return total.hexdigest()


def data_card(samples: Sequence[Sample], kept: Sequence[Encoded]) -> dict[str, Any]:
    """A split: its hash and counts. Conversations are named where they are few."""
    conversations = sorted({sample.conversation for sample in samples})
    return {
        "sha256": samples_sha256(samples),
        "samples": len(samples),
        "too_long": len(samples) - len(kept),
        "tokens": sum(map(len, kept)),
        "reply_tokens": sum(len(sample.reply) for sample in kept),
        "conversations": len(conversations),
        **({"conversation_ids": conversations} if len(conversations) <= _NAMED else {}),
    }


def history(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each validation in the trainer's log, with the training loss since the one before."""
    losses = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
    return [
        {
            "step": entry["step"],
            "epoch": entry["epoch"],
            "training_loss": losses.get(entry["step"]),
            "validation_loss": entry["eval_loss"],
        }
        for entry in log
        if "eval_loss" in entry
    ]


def metrics(state: Mapping[str, Any]) -> dict[str, Any]:
    """The run in figures, by the trainer's state: the best validation's losses, and how long it took to get there."""
    log = state["log_history"]
    [best] = [row for row in history(log) if row["step"] == state["best_global_step"]]
    last = [entry for entry in log if "eval_loss" in entry][-1]
    return {
        "validation_loss": best["validation_loss"],
        "training_loss": best["training_loss"],
        "best_epoch": best["epoch"],
        "best_step": best["step"],
        "epochs": last["epoch"],
        "steps": last["step"],
        "tokens_per_second": last["eval_trained_tokens"] / last["eval_trained_seconds"],
        "seconds": last["eval_trained_seconds"],
    }


def versions() -> dict[str, str]:
    """Those of what trains."""
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def readme(card: Mapping[str, Any]) -> str:
    """The card for people."""
    found, options = card["metrics"], card["options"]
    what = "The whole model, trained from" if options["full"] else "A LoRA adapter for the model"
    data = card["data"]
    lines = [
        f"# {card['expert']}",
        "",
        f"{what} {card['base_model']}, whose weights have the SHA-256 `{card['base_sha256']}`.",
        "Made by memlora_plugins.",
        "",
        *_table(
            ("", "training", "validation"),
            [
                (label, f"{data['train'][key]:,}", f"{data['validation'][key]:,}")
                for key, label in (
                    ("samples", "samples"),
                    ("too_long", "left out as too long"),
                    ("conversations", "conversations"),
                    ("tokens", "tokens"),
                    ("reply_tokens", "tokens learned (replies)"),
                )
            ]
            + [("SHA-256 of the data", *(f"`{data[split]['sha256'][:12]}…`" for split in ("train", "validation")))],
        ),
        "",
        f"Loss of the best validation (epoch {found['best_epoch']:g} of {found['epochs']:g} trained): "
        f"{found['validation_loss']:.4f}. {found['tokens_per_second']:,.0f} tokens/s on {card['device']}.",
        "",
        *_table(
            ("step", "epoch", "training loss", "validation loss"),
            [
                (
                    str(row["step"]),
                    f"{row['epoch']:g}",
                    "" if row["training_loss"] is None else f"{row['training_loss']:.4f}",
                    f"{row['validation_loss']:.4f}",
                )
                for row in card["history"]
            ],
        ),
        "",
        "Options:",
        "",
        "```json",
        json.dumps(options, indent=2),
        "```",
        "",
        "Made with " + ", ".join(f"{name} {found}" for name, found in card["versions"].items()) + ".",
        "The same data in full is in `memlora.json`.",
    ]
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
