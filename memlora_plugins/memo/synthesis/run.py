"""The synthesis of a corpus: five steps over chunks, documents and groups, with any Generator (Algorithm 1).

Steps follow each other by what they need and not in waves. Whatever is ready waits for a turn at the Generator, the
earlier steps first; as soon as these leave one free, the first chunks are consolidated while the last ones are read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DatasetError, InvalidInputError
from ...evaluation.harness.scratch import together
from ...files import write_whole
from ...training.calls import CallLog
from ...training.recorded import RecordedModel, RecordedUsage
from ..card import TrainedDocument
from ..reflections import STEPS, Reflection, Step, write_rows
from . import steps
from .asking import Asking, Piece
from .crossing import Crossing, GroupPlan, drawn, plan
from .derivation import Discarded, derived, distinct, extracted, final, key
from .options import SynthesisOptions
from .report import RunReport, StepWork, SynthesisReport, report_of, write

if TYPE_CHECKING:
    from ...serving.base import Backend
    from ..corpus import Chunk, Corpus


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SynthesisEvent:
    """A step of a chunk, a document or two compared chunks (`unit`) is over; it is one of `total` such pieces of work.

    `pairs` came of it. `failures` are what went wrong; the rest goes on.
    """

    step: Step
    unit: str
    pairs: int
    failures: tuple[str, ...]
    done: int
    total: int


async def asynthesize(
    corpus: Corpus,
    generator: Backend,
    out: Path,
    options: SynthesisOptions | None = None,
    *,
    model: str | None = None,
    on_event: Callable[[SynthesisEvent], None] | None = None,
) -> SynthesisReport:
    """Make the reflections of a corpus: `reflections.jsonl` in `out`.

    Beside it stand `discarded.jsonl` (pairs that were left out, with the reason), `documents.jsonl` (what the corpus is
    made of, with hashes and without texts), `report.json`, `summary.md` and `synthesis.png`.

    Every finished call is appended to `calls.jsonl` before it is used: a run that was stopped, however hard, is
    repeated with the same arguments, makes the missing calls only, and ends with the same files. So does a run over
    a corpus that has grown. `model` is what the record calls the Generator (default: its `model`, else its
    description). `generator` stays open.

    A step that fails for a chunk (no reply, a reply that stays unreadable, a prompt that is too long) is reported, and
    the chunk goes on with what it has; pairs that could not be verified are left out.

    Raises:
        InvalidInputError: the corpus is empty, or a group names a chunk that is not in it.
        BackendError: the Generator cannot be used (refuses key or model, or 8 calls in a row failed); calls are kept.
        DatasetError: a file cannot be read or written, or another process is writing `calls.jsonl`.
    """
    options = options or SynthesisOptions()
    _check(corpus)
    began = time.perf_counter()
    log = CallLog(out / "calls.jsonl")
    try:
        asked = RecordedModel(
            generator,
            log,
            model=model,
            concurrency=options.concurrency,
            thinking_tokens=options.thinking_tokens,
            called="Generator",
        )
        run = _Run(corpus, asked, options, on_event)
        found = await run.reflections()
    finally:
        log.close()
    kept, repeated = final(found)
    discarded = sorted(
        [*run.discarded, *repeated], key=lambda one: (STEPS.index(one.pair.step), one.pair.id, one.reason)
    )
    report = report_of(kept, run.report(kept, repeated, time.perf_counter() - began))
    try:
        write_whole(out / "discarded.jsonl", "".join(f"{one.model_dump_json()}\n" for one in discarded))
        documents = (TrainedDocument(id=one.id, title=one.title, sha256=one.sha256) for one in corpus.documents)
        write_whole(out / "documents.jsonl", "".join(f"{one.model_dump_json()}\n" for one in documents))
    except OSError as error:
        raise DatasetError(f"{out} cannot be written: {error}. The calls are kept; run the same again.") from error
    write_rows(out / "reflections.jsonl", kept)
    write(report, out)
    return report


def synthesize(
    corpus: Corpus, generator: Backend, out: Path, options: SynthesisOptions | None = None, **more: Any
) -> SynthesisReport:
    """`asynthesize`, for code without an event loop; `generator` is closed at the end."""

    async def run() -> SynthesisReport:
        try:
            return await asynthesize(corpus, generator, out, options, **more)
        finally:
            await generator.aclose()

    return asyncio.run(run())


def _check(corpus: Corpus) -> None:
    if not corpus.chunks:
        raise InvalidInputError("The corpus is empty: there is no chunk to make reflections of.")
    known = {chunk.id for chunk in corpus.chunks}
    for name, members in corpus.groups.items():
        if missing := [id for id in members if id not in known]:
            raise InvalidInputError(f"The group {name!r} names the chunk {missing[0]!r}, which the corpus lacks.")


@dataclass(slots=True)
class _Found:
    """The pairs of a document: verified ones by chunk, and what describes its entities."""

    verified: dict[str, list[Reflection]] = field(default_factory=dict)
    entities: list[Reflection] = field(default_factory=list)

    def all(self) -> list[Reflection]:
        return [*(pair for pairs in self.verified.values() for pair in pairs), *self.entities]

    def of(self, chunk: str) -> list[Reflection]:
        """The pairs of one chunk, with the entity pairs that were made from any of them."""
        own = self.verified[chunk]
        ids = {pair.id for pair in own}
        return distinct([*own, *(pair for pair in self.entities if ids & set(pair.parents))])[0]


class _Run:
    """One run over a corpus, and what it counts."""

    def __init__(
        self,
        corpus: Corpus,
        model: RecordedModel,
        options: SynthesisOptions,
        on_event: Callable[[SynthesisEvent], None] | None,
    ) -> None:
        self._corpus = corpus
        self._asking = Asking(model, options)
        self._options = options
        self._on_event = on_event
        self._chunks: dict[str, list[Chunk]] = {}
        for chunk in corpus.chunks:
            self._chunks.setdefault(chunk.document, []).append(chunk)
        self._crossings: list[Crossing] = []
        self._groups: dict[str, GroupPlan] = {}
        if "5" in options.steps:
            self._crossings, self._groups = plan(corpus.groups, options)
        wanted = Counter(options.steps)
        self._total = (
            len(corpus.chunks) * (wanted["1a"] + wanted["1b"] + wanted["2"] + wanted["3"])
            + len(self._chunks) * wanted["4"]
            + len(self._crossings)
        )
        self._done = 0
        self.discarded: list[Discarded] = []
        self._made: Counter[Step] = Counter()
        self._blank = 0
        self._kinds: Counter[str] = Counter()
        self._not_shown = 0
        self._not_compared = 0

    async def reflections(self) -> list[Reflection]:
        """The pairs of all documents and then of all groups, in the order of the corpus; equal ones among them."""
        for group in self._groups.values():
            if group.left_out:
                logger.info(
                    "group %r: %d of %d pairs of chunks are compared, %d left out",
                    group.group,
                    group.compared,
                    group.pairs,
                    group.left_out,
                )
        try:
            async with asyncio.TaskGroup() as tasks:
                documents = {id: tasks.create_task(self._document(id)) for id in self._chunks}
                of = {chunk.id: documents[chunk.document] for chunk in self._corpus.chunks}
                crossings = [tasks.create_task(self._cross(one, of[one.one], of[one.other])) for one in self._crossings]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [
            *(pair for document in documents.values() for pair in document.result().all()),
            *(pair for crossing in crossings for pair in crossing.result()),
        ]

    # The steps ------------------------------------------------------------------------------------------------------

    async def _document(self, id: str) -> _Found:
        chunks = self._chunks[id]
        found = _Found(dict(zip((one.id for one in chunks), await together(map(self._chunk, chunks)), strict=True)))
        if "4" in self._options.steps:
            found.entities = await self._entities(id, distinct(found.all())[0])
        return found

    async def _chunk(self, chunk: Chunk) -> list[Reflection]:
        """The verified pairs of a chunk: steps 1 to 3."""
        wanted = self._options.steps
        extracted = await together(self._extract(step, chunk) for step in ("1a", "1b") if step in wanted)
        raw, repeated = distinct(pair for pairs in extracted for pair in pairs)
        if "2" in wanted:
            raw, more = distinct([*raw, *await self._consolidate(chunk, raw)])
            repeated += more
        self.discarded += repeated
        return await self._verify(chunk, raw) if "3" in wanted else raw

    async def _extract(self, step: Step, chunk: Chunk) -> list[Reflection]:
        piece = Piece(step, chunk.id)
        said = self._said(piece, await self._asking.ask(piece, chunk.text, steps.read_pairs))
        return self._over(piece, [extracted(step, one.question, one.answer, chunk.document) for one in said])

    async def _consolidate(self, chunk: Chunk, pairs: Sequence[Reflection]) -> list[Reflection]:
        piece = Piece("2", chunk.id)
        several = [batch for batch in _batches(pairs, self._options.pairs_per_request) if len(batch) > 1]
        made = await together(self._derive(piece, steps.numbered(batch), batch) for batch in several)
        return self._over(piece, [pair for pairs in made for pair in pairs])

    async def _verify(self, chunk: Chunk, pairs: Sequence[Reflection]) -> list[Reflection]:
        piece = Piece("3", chunk.id)
        batches = _batches(pairs, self._options.verify_batch)
        verified = await together(self._judge(piece, chunk, batch) for batch in batches)
        return self._over(piece, self._sound([pair for pairs in verified for pair in pairs]))

    async def _judge(self, piece: Piece, chunk: Chunk, batch: Sequence[Reflection]) -> list[Reflection]:
        verdicts = await self._verdicts(piece, chunk, batch)
        if verdicts is None:
            self._discard("not verified", batch)
            return []
        missing = [number for number in range(len(batch)) if number not in verdicts]
        if missing:
            more = await self._verdicts(piece, chunk, [batch[number] for number in missing], again=True)
            verdicts |= {missing[number]: verdict for number, verdict in (more or {}).items()}
        verified: list[Reflection] = []
        for number, pair in enumerate(batch):
            verdict = verdicts.get(number)
            if verdict is None:
                self._discard("no verdict", [pair])
            elif verdict.judgement == "discard":
                self._discard("not self-contained", [pair])
            else:
                verified.append(self._rewritten(pair, verdict))
        return verified

    async def _verdicts(
        self, piece: Piece, chunk: Chunk, batch: Sequence[Reflection], *, again: bool = False
    ) -> dict[int, steps.Verdict] | None:
        data = steps.to_verify(chunk.text, batch)
        reading = await self._asking.ask(piece, data, lambda text: steps.read_verdicts(text, len(batch)), again=again)
        return None if reading is None else dict(reading.by_number)

    def _rewritten(self, pair: Reflection, verdict: steps.Verdict) -> Reflection:
        if verdict.judgement == "keep":
            return pair
        made = derived("3", verdict.question or pair.question, verdict.answer or pair.answer, [pair])
        if key(made) == key(pair):
            return pair
        self._made["3"] += 1
        return made

    async def _entities(self, document: str, pairs: Sequence[Reflection]) -> list[Reflection]:
        piece = Piece("4", document)
        batches = _batches(pairs, self._options.pairs_per_request)
        made = await together(self._derive(piece, steps.numbered(batch), batch) for batch in batches)
        found = [pair for pairs in made for pair in pairs]
        self._discard("names its answer", [pair for pair in found if steps.gives_itself_away(pair)])
        return self._over(piece, self._sound([pair for pair in found if not steps.gives_itself_away(pair)]))

    async def _cross(
        self, crossing: Crossing, one: asyncio.Task[_Found], other: asyncio.Task[_Found]
    ) -> list[Reflection]:
        piece = Piece("5", crossing.unit)
        first, second = (await one).of(crossing.one), (await other).of(crossing.other)
        known = set(map(key, first))
        second = [pair for pair in second if key(pair) not in known]
        if not first or not second:
            self._not_compared += 1
            return self._over(piece, [])
        sides = [
            drawn(side, self._options.pairs_per_request // 2, f"{self._options.seed}:{piece.unit}:{number}")
            for number, side in enumerate((first, second))
        ]
        self._not_shown += len(first) + len(second) - sum(map(len, sides))
        data = steps.to_cross(*sides)
        made = await self._derive(piece, data, [*sides[0], *sides[1]], group=crossing.group)
        ids = [{pair.id for pair in side} for side in sides]
        across = [pair for pair in made if all(side & set(pair.parents) for side in ids)]
        staying = set(map(id, across))
        self._discard("from one side only", [pair for pair in made if id(pair) not in staying])
        return self._over(piece, self._sound(across))

    async def _derive(
        self, piece: Piece, data: str, shown: Sequence[Reflection], group: str | None = None
    ) -> list[Reflection]:
        """New pairs from those that are shown."""
        reading = await self._asking.ask(piece, data, lambda text: steps.read_pairs(text, len(shown)))
        made: list[Reflection] = []
        for one in self._said(piece, reading):
            named = [shown[number] for number in one.sources]  # none: any of them may be behind it
            made.append(derived(piece.step, one.question, one.answer, named or shown, group))
        return made

    # What they have in common ---------------------------------------------------------------------------------------

    def _said(self, piece: Piece, reading: steps.Pairs | None) -> tuple[steps.Said, ...]:
        """The pairs of a reply, counted."""
        if reading is None:
            return ()
        self._made[piece.step] += len(reading.said)
        self._blank += reading.blank
        if piece.step == "5":
            self._kinds.update(one.kind or "not told" for one in reading.said)
        return reading.said

    def _sound(self, pairs: Sequence[Reflection]) -> list[Reflection]:
        """Pairs that do not speak of their source; all of them where nothing is to be verified."""
        if "3" not in self._options.steps:
            return list(pairs)
        self._discard("points to its source", [pair for pair in pairs if steps.points_to_source(pair)])
        return [pair for pair in pairs if not steps.points_to_source(pair)]

    def _discard(self, reason: str, pairs: Sequence[Reflection]) -> None:
        self.discarded += [Discarded(reason=reason, pair=pair) for pair in pairs]

    def _over(self, piece: Piece, pairs: list[Reflection]) -> list[Reflection]:
        """`pairs`, once whoever listens was told of them."""
        self._done += 1
        if self._on_event is not None:
            failures = tuple(piece.failures)
            self._on_event(SynthesisEvent(piece.step, piece.unit, len(pairs), failures, self._done, self._total))
        return pairs

    def report(self, kept: Sequence[Reflection], repeated: Sequence[Discarded], seconds: float) -> RunReport:
        """What the run did. Of all pairs, `repeated` were left out in the end, for the same ones among those `kept`."""
        reasons = Counter(one.reason for one in [*self.discarded, *repeated])
        reasons["blank"] += self._blank
        model = self._asking.model
        work = {step: self._work(step) for step in self._options.steps}
        tokens_in = sum(one.input_tokens for one in work.values())
        tokens_out = sum(one.output_tokens for one in work.values())
        told_of = {id for one in [*kept, *(one.pair for one in repeated)] for id in one.documents}
        failures = sorted(self._asking.failures, key=lambda one: (STEPS.index(one.step), one.unit, one.message))
        return RunReport(
            generator=model.model,
            options=self._options,
            documents=len(self._corpus.documents),
            chunks=len(self._corpus.chunks),
            skipped=tuple(map(str, self._corpus.skipped)),
            steps=work,
            made=sum(one.made for step, one in work.items() if step != "3"),
            discarded=dict(+reasons),
            kinds=dict(self._kinds),
            groups=tuple(self._groups.values()),
            left_out=sum(group.left_out for group in self._groups.values()),
            not_compared=self._not_compared,
            not_shown=self._not_shown,
            without_pairs=tuple(one.id for one in self._corpus.documents if one.id not in told_of),
            failures=tuple(failures),
            calls=sum(one.calls for one in work.values()),
            resumed=model.resumed,
            retries=sum(one.retries for one in work.values()),
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            cost=self._options.cost(tokens_in, tokens_out),
            occupancy=model.turns.occupancy,
            seconds=seconds,
        )

    def _work(self, step: Step) -> StepWork:
        spent = self._asking.model.work().get(steps.EXPERTS[step], RecordedUsage())
        return StepWork(
            **spent.model_dump(),
            made=self._made[step],
            cut_off=self._asking.cut_off[step],
            failed=sum(failure.step == step for failure in self._asking.failures),
            cost=self._options.cost(spent.input_tokens, spent.output_tokens),
        )


def _batches(pairs: Sequence[Reflection], size: int) -> list[Sequence[Reflection]]:
    return [pairs[at : at + size] for at in range(0, len(pairs), size)]
