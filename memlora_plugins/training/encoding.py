"""Samples as tokens: the prompt as it is served, then the reply and the token that ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendRequestError, DatasetError, TrainingError
from ..serving.checkpoint import prompt_tokens
from ..types import clean_text
from .dataset import Sample


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as token ids. `reply` includes the end-of-turn token; it alone carries loss."""

    prompt: list[int]
    reply: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.reply)


def encode(
    samples: Sequence[Sample], tokenizer: Any, stops: Sequence[int], folder: Path, max_length: int
) -> list[Encoded]:
    """The samples of at most `max_length` tokens, in their order. `stops` are the tokens that end a reply when served.

    Raises:
        TrainingError: the chat template of the model in `folder` refuses a sample.
        DatasetError: every sample is longer than `max_length`.
    """
    try:
        end = _end_of_turn(tokenizer, stops, folder)
        encoded = []
        for sample in samples:
            prompt = prompt_tokens(tokenizer, [line.model_dump() for line in sample.messages], folder)
            reply = tokenizer.encode(clean_text(sample.reply), add_special_tokens=False)
            encoded.append(Encoded(prompt, [*reply, end]))
    except BackendRequestError as error:
        raise TrainingError(f"{error} Make the samples for this student, or use another one.") from error
    kept = [sample for sample in encoded if len(sample) <= max_length]
    if not kept:
        raise DatasetError(
            f"All {len(encoded)} samples are longer than {max_length} tokens; the shortest has "
            f"{min(map(len, encoded))}. Raise max_length, as far as the model's context window allows."
        )
    return kept


def _end_of_turn(tokenizer: Any, stops: Sequence[int], folder: Path) -> int:
    """The stop that the chat template itself puts after a reply; where it puts none, the tokenizer's end token."""
    asked = {"role": "user", "content": "Which?"}
    replied = {"role": "assistant", "content": "Any of them, as long as it is there."}
    before = prompt_tokens(tokenizer, [asked], folder)
    after = prompt_tokens(tokenizer, [asked, replied, asked], folder)[len(before) :]
    return next((token for token in after if token in stops), stops[0])
