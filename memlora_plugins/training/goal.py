"""What a model is chosen by besides its loss: what it says in the middle of its training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendRequestError, TrainingError
from ..serving.base import ChatMessage
from ..serving.checkpoint import prompt_tokens

_TOKENS_AT_ONCE = 16_384
"""Of prompts and replies, padded, whose keys and values are held together."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A judgement: `score` is what training is chosen by (more is better), `details` go into the log, as JSON."""

    score: float
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """The model in training replies to `prompts`, greedily and in `max_tokens` at most; `judge` reads all the replies.

    It is asked at every `every`-th validation, and at the last one. `judge` is called in each process with the same
    replies, and must judge them alike.
    """

    prompts: Sequence[Sequence[ChatMessage]]
    judge: Callable[[Sequence[str]], Measured]
    max_tokens: int = 48
    every: int = 1


class Examinee:
    """Asks a model of `goal`, with its tokenizer; `window` is how many tokens it can hold.

    Raises:
        TrainingError: the chat template of the model in `folder` refuses a prompt.
    """

    def __init__(self, goal: Goal, tokenizer: Any, stops: Sequence[int], window: int, folder: Path) -> None:
        self.goal = goal
        self._tokenizer = tokenizer
        self._stops = stops
        self._window = window
        try:
            self._prompts = [prompt_tokens(tokenizer, messages, folder) for messages in goal.prompts]
        except BackendRequestError as error:
            raise TrainingError(f"{error} Ask other questions, or use another model.") from error

    def replies(self, model: Any, device: Any, process: int, processes: int) -> dict[int, str]:
        """The share of one of `processes`: what the model says to each prompt, by its place among all.

        A prompt that leaves no room for a reply has an empty one.

        Raises:
            FloatingPointError: the model computes numbers that are none.
        """
        by_length = sorted(range(len(self._prompts)), key=lambda place: len(self._prompts[place]))
        said = dict.fromkeys(by_length[process::processes], "")
        askable = [place for place in said if len(self._prompts[place]) < self._window]
        for places in self._batches(askable):
            said.update(zip(places, self._read(model, device, places), strict=True))
        return said

    def _batches(self, places: Iterable[int]) -> Iterator[list[int]]:
        """Prompts of similar length, in as many tokens as are held at once; the longest come first, to fail early."""
        batch: list[int] = []
        longest = 0
        for place in reversed(list(places)):
            longest = longest or len(self._prompts[place]) + self.goal.max_tokens
            if batch and (len(batch) + 1) * longest > _TOKENS_AT_ONCE:
                yield batch
                batch, longest = [], len(self._prompts[place]) + self.goal.max_tokens
            batch.append(place)
        if batch:
            yield batch

    def _read(self, model: Any, device: Any, places: Sequence[int]) -> list[str]:
        from ..serving.generation import CUT_OFF, Batch, Row

        def forward(tokens: Any, mask: Any, positions: Any, cache: Any, adapters: Any) -> Any:
            asked = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
            return model(**asked, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

        rows = [self._row(Row, self._prompts[place]) for place in places]
        batch = Batch(forward, device, self._stops[0])
        batch.admit(rows)
        while unfinished := {row for row in rows if not row.done}:
            batch.keep(unfinished)
            batch.step()
        if failed := next((row.error for row in rows if row.error is not None), None):
            raise FloatingPointError(str(failed))
        decode = self._tokenizer.decode
        return [decode(row.said, skip_special_tokens=True).rstrip(CUT_OFF) for row in rows]

    def _row(self, kind: Any, prompt: Sequence[int]) -> Any:
        room = min(self.goal.max_tokens, self._window - len(prompt))
        return kind(prompt=prompt, adapter="", max_tokens=room, stops=self._stops)
