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
    """Each validation in the trainer's log, with the training loss since the one before.

    `measured` are the details of the goal, where it was measured.
    """
    losses = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
    return [
        {
            "step": entry["step"],
            "epoch": entry["epoch"],
            "training_loss": losses.get(entry["step"]),
            "validation_loss": entry.get("eval_loss"),
            **({"measured": entry["eval_measured"]} if "eval_measured" in entry else {}),
        }
        for entry in log
        if "eval_trained_tokens" in entry
    ]


def metrics(state: Mapping[str, Any]) -> dict[str, Any]:
    """The run in figures, by the trainer's state: the losses of the weights that are kept, and how long it took."""
    log = state["log_history"]
    [best] = [row for row in history(log) if row["step"] == state["best_global_step"]]
    last = [entry for entry in log if "eval_trained_tokens" in entry][-1]
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


def readme(card: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """The card for people; `more` are lines of Markdown about what it does."""
    found, options = card["metrics"], card["options"]
    what = "The whole model, trained from" if options["full"] else "A LoRA adapter for the model"
    data = card["data"]
    loss = found["validation_loss"]
    lines = [
        f"# {card['expert']}",
        "",
        f"{what} {card['base_model']}, whose weights have the SHA-256 `{card['base_sha256']}`.",
        "Made by memlora_plugins.",
        "",
        *table(
            ("", *("training" if split == "train" else split for split in data)),
            [
                (label, *(f"{part[key]:,}" for part in data.values()))
                for key, label in (
                    ("samples", "samples"),
                    ("too_long", "left out as too long"),
                    ("conversations", "conversations"),
                    ("tokens", "tokens"),
                    ("reply_tokens", "tokens learned (replies)"),
                )
            ]
            + [("SHA-256 of the data", *(f"`{part['sha256'][:12]}…`" for part in data.values()))],
        ),
        "",
        f"These are the weights of epoch {found['best_epoch']:g} of {found['epochs']:g} trained"
        + ("" if loss is None else f", with a validation loss of {loss:.4f}")
        + f". {found['tokens_per_second']:,.0f} tokens/s on {card['device']}.",
        "",
        *more,
        *table(
            ("step", "epoch", "training loss", "validation loss"),
            [
                (
                    str(row["step"]),
                    f"{row['epoch']:g}",
                    *("" if row[key] is None else f"{row[key]:.4f}" for key in ("training_loss", "validation_loss")),
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


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table in Markdown, as lines."""
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
