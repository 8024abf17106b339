"""The benchmark maker (Section 3.3 and C.1): a large model writes questions about images, of the types that a small
one gets wrong most often.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from ...errors import BackendError, DatasetError, InvalidInputError
from ...experts import vision
from ...files import write_whole
from ...serving.base import PromptStyle, Request
from ...training.recorded import RecordedModel, RecordedUsage
from ...types import ImagePart
from ..harness.scratch import together
from ..harness.steps import FailureCount, tallied
from . import questions as rules
from .asking import ImageCallLog, Pictures, Seen, no_reply, see
from .images import MAX_SIDE, Images, Picture, check_packages
from .questions import PAPER_TYPES, TYPES, MadeQuestion, QuestionType, RejectedError, VqaQuestion
from .report import MadeOfType, MakeReport, Rejected, Tried, write_made
from .scoring import exact_word

if TYPE_CHECKING:
    from ...serving.base import Backend

Progress = Callable[[str, int, int], None]
"""(what is done, how many of them, of how many)."""

DATASET_FILE = "dataset.jsonl"
_VALIDATION = ("validation", "val", "dev")
_PREFERRED = (*PAPER_TYPES, *TYPES)
"""Of types with the same error rate, the earlier one here is taken: the paper's three, then its order."""


class MakeOptions(BaseModel):
    """`types` names the types of question; None has the validator choose the `kept` hardest of all eight by
    `probe_images` images, or takes the paper's three where there is no validator. `hard_only` keeps the questions that
    the validator gets wrong (the paper keeps all). Images are sent with no side over `max_side` pixels. Prices are per
    million tokens of the maker; `thinking_tokens` are added to the room of its replies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    types: tuple[QuestionType, ...] | None = Field(default=None, min_length=1)
    kept: int = Field(default=3, ge=1)
    probe_images: int = Field(default=20, ge=1)
    hard_only: bool = False
    max_side: int = Field(default=MAX_SIDE, ge=32)
    concurrency: int = Field(default=8, ge=1)
    thinking_tokens: int = Field(default=0, ge=0)
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)


def make(
    images: Images,
    maker: Backend,
    out: Path,
    options: MakeOptions | None = None,
    *,
    validator: Backend | None = None,
    **more: Any,
) -> MakeReport:
    """`amake`, for code without an event loop; both models are closed at the end."""

    async def run() -> MakeReport:
        try:
            return await amake(images, maker, out, options, validator=validator, **more)
        finally:
            await maker.aclose()
            if validator is not None:
                await validator.aclose()

    return asyncio.run(run())


async def amake(
    images: Images,
    maker: Backend,
    out: Path,
    options: MakeOptions | None = None,
    *,
    validator: Backend | None = None,
    captions: Mapping[str, str] | None = None,
    model: str | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> MakeReport:
    """Make questions about `images`: `dataset.jsonl` in `out`, rows of `VqaQuestion` by path and type.

    Beside it stand `rejected.jsonl` (what was left out, with reason and reply), `report.json`, `report.md` and
    `make.png`. At most one question an image and type. `captions` go into the rows, by path. `model` is what the
    record calls the maker (default: its `model`, else its description), `command` what the report begins with.

    Every finished call is appended to `calls.jsonl` before it is used: a run that was stopped, however hard, is
    repeated with the same arguments, makes the missing calls only, and ends with the same dataset. So does a run over
    more images. A call that fails leaves its question out and is reported; the next run makes it again.

    The validator is asked as a vision student is (`experts.vision`); an unreadable reply counts as a wrong answer, and
    a failed call not at all. Where a split is called validation, val or dev, the sample is drawn from it as in the
    paper. Which images it has is decided by their hashes.

    Raises:
        InvalidInputError: `hard_only` without a validator, or `out` lies in the folder of the images.
        DatasetError: an image or a file cannot be read or written, no type could be tried, or another process is
            writing `calls.jsonl`.
        BackendError: a model cannot be used (refuses key or name, or 8 calls in a row failed); calls are kept.
        MissingDependencyError: Pillow or matplotlib is not installed.
    """
    options = options or MakeOptions()
    _check(images, out, options, validator)
    began = time.perf_counter()
    log = ImageCallLog(out / "calls.jsonl")
    try:
        asked = RecordedModel(
            maker,
            log,
            model=model,
            concurrency=options.concurrency,
            thinking_tokens=options.thinking_tokens,
            called="maker",
        )
        checking = None
        if validator is not None:
            named = RecordedModel(validator, log, model=None, concurrency=options.concurrency, called="validator")
            checking = _Validator(named, validator.prompt_style("vision"))
        run = _Run(images, asked, checking, options, progress)
        rows = await run.rows(captions or {})
    finally:
        log.close()
    report = run.report(rows, command, time.perf_counter() - began)
    try:
        rules.write_dataset(out / DATASET_FILE, rows)
        write_whole(out / "rejected.jsonl", "".join(f"{one.model_dump_json()}\n" for one in run.rejected()))
        write_made(report, out)
    except OSError as error:
        raise DatasetError(f"{out} cannot be written: {error}. The calls are kept; run the same again.") from error
    return report


def _check(images: Images, out: Path, options: MakeOptions, validator: Backend | None) -> None:
    check_packages()
    if out.resolve().is_relative_to(images.folder.resolve()):
        raise InvalidInputError(
            f"{out} is in the folder of the images: the next run would take its plot for one. Choose a folder outside."
        )
    if options.hard_only and validator is None:
        raise InvalidInputError("To keep hard questions only, a validator is needed: name its endpoint and model.")


_Wanted = tuple[Picture, QuestionType]


@dataclass(frozen=True, slots=True)
class _Validator:
    """The small model, and how it is asked."""

    model: RecordedModel
    style: PromptStyle


class _Run:
    """One run: what was asked of whom, and what came of it."""

    def __init__(
        self,
        images: Images,
        maker: RecordedModel,
        validator: _Validator | None,
        options: MakeOptions,
        progress: Progress | None,
    ) -> None:
        self._images, self._maker, self._validator, self._options = images, maker, validator, options
        self._progress = progress
        self._pictures = Pictures(images.folder, options.max_side, options.concurrency)
        self._failures: list[FailureCount] = []
        self._usable: dict[_Wanted, MadeQuestion] = {}
        self._refused: dict[_Wanted, Rejected] = {}
        self._unanswered: set[_Wanted] = set()
        self._seen: dict[_Wanted, Seen] = {}
        self._types: tuple[QuestionType, ...] = ()
        self._chosen_by = ""
        self._probe: dict[QuestionType, Tried] = {}
        self._hard: dict[QuestionType, Tried] = {}

    async def rows(self, captions: Mapping[str, str]) -> list[VqaQuestion]:
        """The dataset.

        Raises:
            DatasetError: an image cannot be read any more, or no type could be tried.
            BackendError: a model cannot be asked any more.
        """
        self._types, self._chosen_by = await self._choose()
        wanted = [(picture, type) for picture in self._images.pictures for type in self._types]
        tried = self._usable.keys() | self._refused.keys()
        await self._each([one for one in wanted if one not in tried], self._write, "questions")
        kept = self._distinct(wanted)
        if self._options.hard_only and self._validator is not None:
            unseen = [one for one in kept if one not in self._seen or self._seen[one].problem == "failed"]
            await self._each(unseen, partial(self._answer, self._validator), "validating")
            self._hard = {type: self._tried(kept, type) for type in self._types}
            kept = [one for one in kept if self._is_hard(one)]
        return [
            VqaQuestion(
                image=picture.path,
                sha256=picture.sha256,
                type=type,
                maker=self._maker.model,
                split=picture.split,
                caption=captions.get(picture.path),
                **self._usable[picture, type].model_dump(),
            )
            for picture, type in kept
        ]

    def rejected(self) -> list[Rejected]:
        """What of the types that were made is not in the dataset, by image and type."""
        return [
            self._refused[picture, type]
            for picture in self._images.pictures
            for type in self._types
            if (picture, type) in self._refused
        ]

    def report(self, rows: Sequence[VqaQuestion], command: str, seconds: float) -> MakeReport:
        """What the run did, after `rows`."""
        pictures, rejected = self._images.pictures, self.rejected()
        work = self._maker.work()
        resumed = self._maker.resumed
        cost = _cost(work.get(rules.EXPERT), self._options)
        if self._validator is not None:
            work |= {"validator": self._validator.model.work().get("vision", RecordedUsage())}
            resumed += self._validator.model.resumed
        return MakeReport(
            command=command,
            maker=self._maker.model,
            validator=None if self._validator is None else self._validator.model.model,
            images=len(pictures),
            splits=dict(sorted(Counter(one.split for one in pictures if one.split is not None).items())),
            skipped=self._images.skipped,
            types=self._types,
            chosen_by=self._chosen_by,
            hard_only=self._options.hard_only,
            probe=self._probe,
            made={
                type: MadeOfType(
                    asked=len(pictures),
                    kept=sum(row.type == type for row in rows),
                    failed=sum((picture, type) in self._unanswered for picture in pictures),
                    rejected=dict(sorted(Counter(one.reason for one in rejected if one.type == type).items())),
                )
                for type in self._types
            },
            hard=self._hard,
            failures=tallied(self._failures),
            usage=work,
            resumed=resumed,
            cost=cost,
            seconds=seconds,
        )

    async def _choose(self) -> tuple[tuple[QuestionType, ...], str]:
        """The types to make, and who chose them."""
        if self._options.types is not None:
            return tuple(dict.fromkeys(self._options.types)), "named"
        if self._validator is None:
            return PAPER_TYPES, "the paper's three, for want of a validator"
        sample = self._sample()
        wanted = [(picture, type) for picture in sample for type in TYPES]
        await self._each(wanted, self._write, "trying types")
        usable = [one for one in wanted if one in self._usable]
        await self._each(usable, partial(self._answer, self._validator), "validating types")
        self._probe = {type: self._tried(usable, type) for type in TYPES}
        rates = {type: tried.error_rate for type, tried in self._probe.items() if tried.error_rate is not None}
        if not rates:
            told = tallied(self._failures)
            why = f"{told[0].stage}, {told[0].error}: {told[0].example}" if told else "no question was usable."
            raise DatasetError(
                f"No type of question could be tried on {len(sample)} image(s): {why} Name the types, or use another "
                "maker."
            )
        ranked = sorted(rates, key=lambda type: (-rates[type], _PREFERRED.index(type)))
        chosen = ranked[: self._options.kept]
        return tuple(type for type in TYPES if type in chosen), f"the validator, by {len(sample)} image(s)"

    def _sample(self) -> Sequence[Picture]:
        """As good as drawn at random, and the same in every run: the first ones by hash."""
        pictures = self._images.pictures
        held_out = [one for one in pictures if (one.split or "").lower() in _VALIDATION]
        return sorted(held_out or pictures, key=lambda one: one.sha256)[: self._options.probe_images]

    async def _each(
        self, wanted: Sequence[_Wanted], do: Callable[[_Wanted, ImagePart], Awaitable[None]], what: str
    ) -> None:
        """`do` it with each and its image; a few at once, because images are held in memory meanwhile."""
        done = 0

        async def one(wanted: _Wanted, of: int) -> None:
            nonlocal done
            async with self._pictures.gate:
                await do(wanted, await self._pictures.load(wanted[0].path, wanted[0].sha256))
            done += 1
            if self._progress is not None:
                self._progress(what, done, of)

        await together(one(each, len(wanted)) for each in wanted)

    async def _write(self, wanted: _Wanted, image: ImagePart) -> None:
        """Have the maker write a question."""
        request = Request(rules.EXPERT, rules.messages(wanted[1], image), rules.SCHEMA, rules.MAX_TOKENS)
        try:
            said = await self._maker.ask(request)
        except BackendError as error:
            self._maker.check()
            self._failures.append(no_reply("maker", error))
            self._unanswered.add(wanted)
            return
        self._unanswered.discard(wanted)  # while the types were tried, perhaps
        try:
            self._usable[wanted] = rules.read(said)
        except RejectedError as error:
            self._refuse(wanted, error.reason, said.text)

    async def _answer(self, validator: _Validator, wanted: _Wanted, image: ImagePart) -> None:
        """Have the validator answer a question."""
        asked = vision.messages(self._usable[wanted].question, image, validator.style)
        self._seen[wanted] = await see(validator.model, asked, "vision", self._failures, "validator")

    def _distinct(self, wanted: Sequence[_Wanted]) -> list[_Wanted]:
        """The usable ones that no earlier type has asked of the same image; the others are refused."""
        kept, asked = [], set()
        for one in wanted:
            if one in self._usable:
                same = (one[0], rules.same_question(self._usable[one].question))
                if same in asked:
                    self._refuse(one, "duplicate")
                else:
                    asked.add(same)
                    kept.append(one)
        return kept

    def _is_hard(self, one: _Wanted) -> bool:
        if self._seen[one].problem == "failed":
            self._refuse(one, "not validated")
        elif self._is_right(one):
            self._refuse(one, "the validator knows it")
        else:
            return True
        return False

    def _is_right(self, one: _Wanted) -> bool:
        said = self._seen[one].answer
        return said is not None and exact_word(said, self._usable[one].answer)

    def _refuse(self, one: _Wanted, reason: rules.Reason, reply: str | None = None) -> None:
        told = self._usable[one].model_dump_json() if reply is None else reply
        self._refused[one] = Rejected(image=one[0].path, type=one[1], reason=reason, reply=told)

    def _tried(self, wanted: Sequence[_Wanted], type: QuestionType) -> Tried:
        """How the validator did over the questions of one type."""
        own = [one for one in wanted if one[1] == type]
        problems = Counter(self._seen[one].problem for one in own)
        return Tried.of(
            questions=len(own),
            right=sum(map(self._is_right, own)),
            unreadable=problems["unreadable"],
            failed=problems["failed"],
        )


def _cost(spent: RecordedUsage | None, options: MakeOptions) -> float | None:
    """What the maker's work costs; None without prices."""
    if spent is None or (options.price_in is None and options.price_out is None):
        return None
    return (spent.input_tokens * (options.price_in or 0) + spent.output_tokens * (options.price_out or 0)) / 1e6
