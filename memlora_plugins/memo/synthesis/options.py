"""How a synthesis is run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..reflections import STEPS, Step


class SynthesisOptions(BaseModel):
    """What is asked, and how much of it.

    `steps` are those to take, all by default; the others are left out (Appendix E.1), but without 1a and 1b there is
    nothing. At most `concurrency` calls are under way at once.

    `verify_batch` pairs of a chunk are judged in one request of step 3. A request of steps 2 and 4 shows at most
    `pairs_per_request` pairs: a chunk or document with more is asked about in several. One of step 5 shows at most half
    as many of each of its two chunks, drawn at random. Step 5 compares at most `cross_pairs_per_group` pairs of chunks
    in a group (15 are all pairs of 6 chunks; None: all), and at most `max_cross_calls` in all groups together (None: as
    many as there are); which ones is drawn at random by `seed`, so that all chunks have their share.

    A reply may take `max_tokens`; `thinking_tokens` are added for what a model thinks before it. Step 3 is greedy, all
    others are sampled at `temperature`. A reply that cannot be read is asked for once more, 0.3 warmer. Prices are per
    million tokens, in any currency.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[Step, ...] = STEPS
    concurrency: int = Field(default=8, ge=1)
    verify_batch: int = Field(default=20, ge=1)
    pairs_per_request: int = Field(default=150, ge=2)
    cross_pairs_per_group: int | None = Field(default=15, ge=0)
    max_cross_calls: int | None = Field(default=None, ge=0)
    max_tokens: int = Field(default=4096, ge=1)
    thinking_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.0, ge=0, le=1.5)
    seed: int = Field(default=7, ge=0)
    price_in: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    price_out: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @field_validator("steps")
    @classmethod
    def _enough(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        if not {"1a", "1b"} & set(steps):
            raise ValueError("without the steps 1a and 1b there is nothing to work on")
        return tuple(step for step in STEPS if step in steps)

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """What so many tokens cost; None without prices."""
        if self.price_in is None and self.price_out is None:
            return None
        return (input_tokens * (self.price_in or 0.0) + output_tokens * (self.price_out or 0.0)) / 1e6
