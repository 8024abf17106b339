"""Teacher data: what a large model does as the experts of a memory, as samples for small ones (Algorithm B2).

Every conversation is remembered by a real memory whose model is the teacher, so that its memory bank comes to be as in
use; what the teacher is asked and says on the way are the samples of extraction and update. The samples of generation
are the conversation's questions with what the memory recalls for them, and the answers of the dataset.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ..errors import DatasetError, InvalidInputError
from ..files import write_whole
from ..serving.base import Expert, PromptStyle
from ..settings import load_settings
from .calls import CallLog
from .dataset import write_samples
from .lessons import Bar, Lessons, Progress
from .recorded import RecordedModel, RecordedUsage

if TYPE_CHECKING:
    from ..embedding import Embedder
    from ..evaluation.conversations import Conversation
    from ..serving.base import Backend
    from ..settings import Settings

EXPERTS: tuple[Expert, ...] = ("extraction", "update", "generation")
_EMPTY_OBSERVED = 0.3


class ExpertData(BaseModel):
    """What came of one expert: samples, and what was dropped, by reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    dropped: dict[str, int]


class DistilReport(BaseModel):
    """What distilling conversations brought, and cost.

    `calls` are those whose replies were used, `resumed` of them made by earlier runs, `retries` of them second
    attempts; tokens are as the endpoint reports them and cover both, and so does `cost`, in the currency of the prices
    (None without prices). `work` is the same by expert that was asked, wanted for samples or not. `facts` is
    the size of the teacher's memory bank, `undistilled` counts messages that are missing from it because a call or
    the embedder failed, `failures` why, by stage and error. A later run asks again what got no reply; a reply that
    could not be used is an answer all the same, and stays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str | None
    prompt_style: PromptStyle
    conversations: int
    messages: int
    facts: int
    undistilled: int
    failures: dict[str, int]
    experts: dict[str, ExpertData]
    work: dict[str, RecordedUsage]
    calls: int
    resumed: int
    retries: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    seconds: float

    @property
    def unanswered(self) -> int:
        """Questions that got no reply at all: running again asks them again."""
        again = ("timed out", "unavailable", "no chat completion")
        return sum(data.dropped.get(reason, 0) for data in self.experts.values() for reason in again)


async def adistil(
    conversations: Sequence[Conversation],
    teacher: Backend | None,
    out: Path,
    *,
    embedder: Embedder,
    experts: Collection[Expert] = EXPERTS,
    prompt_style: PromptStyle = "short",
    concurrency: int = 8,
    thinking_tokens: int = 0,
    use_observations: bool = False,
    empty_share: float | None = None,
    unanswerable: bool = False,
    price_in: float | None = None,
    price_out: float | None = None,
    model: str | None = None,
    calls: Path | None = None,
    settings: Settings | None = None,
    seed: int = 7,
    progress: Progress | None = None,
) -> DistilReport:
    """Write `extraction.jsonl`, `update.jsonl` and `generation.jsonl` (those in `experts`) and `report.json` to `out`.

    Every finished call is appended to `calls` (default `out/calls.jsonl`) before it is used; a run that was stopped,
    however hard, is repeated with the same arguments and makes the missing calls only. `model` is what the record
    calls the teacher (default: its `model`, else its description). `teacher` and `embedder` stay open.

    The teacher is asked with the short prompts, or with `prompt_style="full"` the full ones; samples hold the short
    prompt either way. It is asked for updates only where they are needed: for their samples, or for the memory bank
    of generation. `thinking_tokens` is room for what it thinks before each reply, on top of the reply's own.

    With `use_observations` the facts in the file (LoCoMo's `observation`) stand in for extraction, each with the last
    of the messages it came from. `teacher` may then be None: the memory bank holds those facts as they are, and there
    are no samples of update.

    `empty_share` is the largest share of extraction samples that list no fact, the rest of those is dropped at random
    by `seed` (default: 0.3 with `use_observations`, where a message without a note may still tell something; else
    all are kept). `unanswerable` adds generation samples that say so for questions without an answer. Prices are per
    million tokens. `settings` are those of the memory (default: `Settings()`).

    Raises:
        InvalidInputError: arguments that contradict each other, an empty list of conversations, or two of one id.
        BackendError: the teacher cannot be used (refuses key or model, or 8 calls in a row failed); calls are kept.
        DatasetError: a file cannot be read or written, or another process is writing `calls`.
    """
    _check(conversations, teacher, experts, concurrency, thinking_tokens, use_observations)
    prices = _checked_prices(price_in, price_out)
    share = (_EMPTY_OBSERVED if use_observations else 1.0) if empty_share is None else empty_share
    if not 0 <= share <= 1:
        raise InvalidInputError(f"empty_share must be between 0 and 1, got {share}.")
    began = time.perf_counter()
    log = CallLog(calls or out / "calls.jsonl")
    try:
        asked = None
        if teacher is not None:
            asked = RecordedModel(teacher, log, model=model, concurrency=concurrency, thinking_tokens=thinking_tokens)
        lessons = Lessons(
            asked,
            log,
            embedder,
            settings or load_settings(),
            experts=frozenset(experts),
            style=prompt_style,
            observed=use_observations,
            unanswerable=unanswerable,
            progress=Bar(conversations, progress, questions="generation" in experts),
        )
        with tempfile.TemporaryDirectory(prefix="memlora-distil-") as folder:
            await lessons.conversations(conversations, Path(folder), at_once=concurrency)
    finally:
        log.close()
    data: dict[str, ExpertData] = {}
    for expert in (expert for expert in EXPERTS if expert in experts):
        samples = lessons.samples(expert, share, seed)
        write_samples(out / f"{expert}.jsonl", samples)
        data[expert] = ExpertData(samples=len(samples), dropped=lessons.dropped(expert))
    work = {} if asked is None else asked.work()
    tokens_in = sum(spent.input_tokens for spent in work.values())
    tokens_out = sum(spent.output_tokens for spent in work.values())
    report = DistilReport(
        teacher=None if asked is None else asked.model,
        prompt_style=prompt_style,
        conversations=len(conversations),
        messages=sum(len(talk.messages) for talk in conversations),
        facts=lessons.facts,
        undistilled=lessons.undistilled,
        failures=dict(lessons.failures.most_common()),
        experts=data,
        work=work,
        calls=sum(spent.calls for spent in work.values()),
        resumed=0 if asked is None else asked.resumed,
        retries=sum(spent.retries for spent in work.values()),
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost=prices and (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6,
        seconds=time.perf_counter() - began,
    )
    try:
        write_whole(out / "report.json", report.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise DatasetError(f"{out / 'report.json'} cannot be written: {error}") from error
    return report


def distil(
    conversations: Sequence[Conversation], teacher: Backend | None, out: Path, *, embedder: Embedder, **options: Any
) -> DistilReport:
    """`adistil` with its `options`, for code without an event loop; `teacher` is closed at the end."""

    async def run() -> DistilReport:
        try:
            return await adistil(conversations, teacher, out, embedder=embedder, **options)
        finally:
            if teacher is not None:
                await teacher.aclose()

    return asyncio.run(run())


def _check(
    talks: Sequence[Conversation],
    teacher: Backend | None,
    experts: Collection[Expert],
    concurrency: int,
    thinking_tokens: int,
    use_observations: bool,
) -> None:
    if not talks:
        raise InvalidInputError("There is no conversation to distil.")
    if twice := [id for id, count in Counter(talk.id for talk in talks).items() if count > 1]:
        raise InvalidInputError(f"The conversation {twice[0]} is given twice; ids tell conversations apart.")
    if not experts or set(experts) - set(EXPERTS):
        raise InvalidInputError(f"experts must be some of {', '.join(EXPERTS)}, got {', '.join(experts) or 'none'}.")
    if concurrency < 1:
        raise InvalidInputError(f"concurrency must be at least 1, got {concurrency}.")
    if thinking_tokens < 0:
        raise InvalidInputError(f"thinking_tokens must be 0 or more, got {thinking_tokens}.")
    if use_observations and not any(talk.facts for talk in talks):
        raise InvalidInputError("use_observations: no conversation has an `observation` with facts.")
    if teacher is None and not use_observations:
        raise InvalidInputError("Without a teacher there is nothing to distil; name one, or use the observations.")
    if teacher is None and "update" in experts:
        raise InvalidInputError("Samples of update need a teacher; name one, or leave update out of experts.")


def _checked_prices(price_in: float | None, price_out: float | None) -> tuple[float, float] | None:
    if price_in is None and price_out is None:
        return None
    prices = price_in or 0.0, price_out or 0.0
    if not all(isfinite(price) and price >= 0 for price in prices):
        raise InvalidInputError(f"Prices must be 0 or more per million tokens, got {price_in} and {price_out}.")
    return prices
