"""Rows of tokens that a model in process extends together, one token a step.

Rows join and leave between steps, so a short reply never waits for a long one. Rows are padded on the left; each has
its own adapter, grammar, temperature and limit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..errors import BackendError, BackendUnavailableError
from .base import FinishReason
from .grammar import allowed_tokens

if TYPE_CHECKING:
    from llguidance import LLMatcher

COLDEST = 1e-5
"""Temperatures below this are greedy."""


CUT_OFF = "\ufffd"
"""What a decoder writes for bytes that are no character."""


class Decoder(Protocol):
    """The part of a tokenizer that is needed here: token ids to text, without special tokens."""

    def __call__(self, tokens: Sequence[int]) -> str: ...


class Forward(Protocol):
    """One pass of the model; returns the logits after each row's last token, shape (rows, vocabulary)."""

    def __call__(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: DynamicCache,
        adapters: Sequence[str],
    ) -> torch.Tensor: ...


class TextStream:
    """Token ids to pieces of text, as they come. A character is given out once all of its bytes are there."""

    def __init__(self, decode: Decoder) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._given = ""

    def push(self, token: int) -> str:
        """What `token` completes; often nothing."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text.endswith(CUT_OFF):  # perhaps the first bytes of a character
            return ""
        piece = text[len(self._given) :]
        # One token stays as context: some tokenizers write a reply's first token without its space.
        self._tokens = self._tokens[-1:]
        self._given = self._decode(self._tokens)
        return piece

    def rest(self) -> str:
        """What is still held back at the end of the reply, without a character that was cut off in the middle."""
        return self._decode(self._tokens)[len(self._given) :].rstrip(CUT_OFF)


@dataclass(eq=False, slots=True)
class Row:
    """One reply in the making. `adapter` is the name the model knows it by; `stops` are the token ids that end it.

    `logprobs`, where it is a list, collects how likely the model found each of `tokens`.
    """

    prompt: Sequence[int]
    adapter: str
    max_tokens: int
    stops: Collection[int]
    temperature: float = 0.0
    matcher: LLMatcher | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] | None = None
    finish: FinishReason | None = None
    error: BackendError | None = None

    @property
    def longest(self) -> int:
        """Tokens of prompt and reply, if the reply gets as long as it may."""
        return len(self.prompt) + self.max_tokens

    @property
    def done(self) -> bool:
        return self.finish is not None or self.error is not None

    @property
    def said(self) -> Sequence[int]:
        """The reply's tokens without the one that ended it."""
        return self.tokens[:-1] if self.tokens and self.tokens[-1] in self.stops else self.tokens

    def note(self, logprob: float) -> None:
        """Keep how likely the token was that is accepted next."""
        if self.logprobs is not None and not self.done:
            self.logprobs.append(logprob)

    def accept(self, token: int) -> None:
        """Append `token`, and finish if the reply ends with it."""
        self.tokens.append(token)
        if token in self.stops:
            self.finish = "stop"
            return
        if self.matcher is not None:
            self.matcher.consume_token(token)
            if self.matcher.is_error():
                self.error = _lost(self.matcher)
            elif self.matcher.is_stopped():  # the JSON is complete: no step is spent on the end mark
                self.finish = "stop"
        if not self.done and len(self.tokens) >= self.max_tokens:
            self.finish = "length"


class Batch:
    """Running rows and their keys and values. For one thread."""

    def __init__(self, forward: Forward, device: torch.device, padding: int) -> None:
        self.rows: list[Row] = []
        self._forward = forward
        self._device = device
        self._padding = padding
        self._cache = DynamicCache()
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=device)

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row]) -> None:
        """Read the prompts of `rows`, give each its first token, and let them join. On an error nothing changes."""
        width = max(len(row.prompt) for row in rows)
        blanks = [width - len(row.prompt) for row in rows]
        tokens = self._tensor(
            [[self._padding] * blank + list(row.prompt) for row, blank in zip(rows, blanks, strict=True)]
        )
        mask = self._tensor([[0] * blank + [1] * (width - blank) for blank in blanks])
        positions = (mask.cumsum(-1) - 1).clamp_(min=0)
        cache = DynamicCache()
        logits = self._forward(tokens, mask, positions, cache, [row.adapter for row in rows])
        chosen = self._choose(logits, rows)
        if self.rows:
            cache, mask = _joined(self._cache, self._mask, cache, mask)
        self._cache, self._mask = cache, mask
        self.rows += rows
        self._accept(rows, chosen)

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every row. After an error, `clear()`."""
        tokens = self._tensor([[row.tokens[-1]] for row in self.rows])
        positions = self._tensor([[len(row.prompt) + len(row.tokens) - 1] for row in self.rows])
        self._mask = pad(self._mask, (0, 1), value=1)
        logits = self._forward(tokens, self._mask, positions, self._cache, [row.adapter for row in self.rows])
        self._accept(self.rows, self._choose(logits, self.rows))

    @torch.inference_mode()
    def keep(self, rows: Collection[Row]) -> None:
        """Let go of the rows that are not in `rows`."""
        kept = [place for place, row in enumerate(self.rows) if row in rows]
        if not kept:
            self.clear()
        elif len(kept) < len(self.rows):
            self.rows = [self.rows[place] for place in kept]
            chosen = self._tensor(kept)
            self._mask = self._mask[chosen]
            blank = int(self._mask.any(0).int().argmax())  # columns that only pad, now that a longer row has left
            self._mask = self._mask[:, blank:]
            self._cache.batch_select_indices(chosen)
            for layer, keys, values in _states(self._cache):
                layer.keys, layer.values = keys[..., blank:, :], values[..., blank:, :]

    def clear(self) -> None:
        """Forget all rows and free their keys and values."""
        self.rows = []
        self._cache = DynamicCache()

    def _accept(self, rows: Sequence[Row], chosen: Sequence[int]) -> None:
        for row, token in zip(rows, chosen, strict=True):
            if not row.done:
                row.accept(token)

    def _choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
        """The next token of each row; `row.error` is set where there can be none."""
        logits = logits.float()
        finite = logits.amax(-1).isfinite()
        if not bool(finite.all()):
            for place in (~finite).nonzero().flatten().tolist():
                rows[place].error = BackendUnavailableError(
                    "The model computed numbers that are not finite. Its weights are damaged, or too large for its "
                    "precision: open it with dtype='float32'."
                )
            logits = logits.nan_to_num()
        curious = [place for place, row in enumerate(rows) if row.logprobs is not None]
        totals = logits[curious].logsumexp(-1) if curious else None  # of all tokens, before a grammar forbids some
        self._forbid(logits, rows)
        chosen = logits.argmax(-1)
        warm = [place for place, row in enumerate(rows) if row.temperature >= COLDEST]
        if warm:
            rates = torch.tensor([[rows[place].temperature] for place in warm], device=self._device)
            scores = logits[warm]
            likely = ((scores - scores.amax(-1, keepdim=True)) / rates).softmax(-1)
            chosen[warm] = torch.multinomial(likely, 1).squeeze(1)
        if totals is not None:
            sure = (logits[curious, chosen[curious]] - totals).tolist()
            for place, value in zip(curious, sure, strict=True):
                rows[place].note(value)
        return chosen.tolist()

    def _forbid(self, logits: torch.Tensor, rows: Sequence[Row]) -> None:
        """Rule out, in place, the tokens that a row's grammar does not allow."""
        for place, row in enumerate(rows):
            if row.matcher is None or row.error is not None:
                continue
            allowed = allowed_tokens(row.matcher, logits.shape[-1])
            if row.matcher.is_error():
                row.error = _lost(row.matcher)
            else:
                forbidden = torch.from_numpy(~allowed).to(self._device)
                logits[place].masked_fill_(forbidden, float("-inf"))

    def _tensor(self, values: Sequence[object]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


def _joined(
    cache: DynamicCache, mask: torch.Tensor, others: DynamicCache, their_mask: torch.Tensor
) -> tuple[DynamicCache, torch.Tensor]:
    """Both groups of rows in one, the shorter group padded on the left to the length of the longer."""
    width = max(mask.shape[1], their_mask.shape[1])
    joined = DynamicCache()
    both = zip(_states(cache), _states(others), strict=True)
    for place, ((_, keys, values), (_, their_keys, their_values)) in enumerate(both):
        keys = torch.cat([_widened(keys, width), _widened(their_keys, width)])
        values = torch.cat([_widened(values, width), _widened(their_values, width)])
        joined.update(keys, values, place)
    left = [pad(part, (width - part.shape[1], 0)) for part in (mask, their_mask)]
    return joined, torch.cat(left)


def _states(cache: DynamicCache) -> list[tuple[DynamicLayer, torch.Tensor, torch.Tensor]]:
    """The layers with their keys and values, each of shape (rows, heads, tokens, width)."""
    return [
        (layer, layer.keys, layer.values)
        for layer in cache.layers
        if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
    ]


def _widened(states: torch.Tensor, width: int) -> torch.Tensor:
    return pad(states, (0, 0, width - states.shape[-2], 0))


def _lost(matcher: LLMatcher) -> BackendError:
    reason = matcher.get_error().strip().splitlines()[0][:200]
    return BackendUnavailableError(f"The grammar engine gave up on the reply: {reason}. Simplify the JSON schema.")
