"""One measurement on LoCoMo from its file to its report: questions answered, answers scored, results written."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DatasetError
from ..training.journal import Journal
from . import locomo
from .conversations import chosen, from_locomo
from .judge import Judge
from .locomo_qa import Row, RowResult, answer_questions, rows
from .locomo_report import LocomoSummary
from .locomo_scores import ScoredQuestion, scored, summarised, unavailable
from .machine import this_machine, versions
from .metrics import METRICS
from .similarity import Similarity

if TYPE_CHECKING:
    from ..embedding import Embedder
    from ..serving.base import Backend
    from .conversations import Conversation
    from .locomo_config import LocomoConfig

OnStep = Callable[[str, int, int], None]
"""(what is being done, steps done, of how many)."""

_PACKAGES = ("memlora-plugins", "torch", "transformers", "peft", "qdrant-edge-py")


@dataclass(frozen=True, slots=True)
class Material:
    """The conversations that are measured, the name and hash of the file that they come from, what was found in it,
    and how many answers were corrected."""

    conversations: Sequence[Conversation]
    file: str
    sha256: str
    load: dict[str, int]
    split: locomo.Split | None
    corrections: dict[str, int] | None


def material(
    file: str | PathLike[str],
    *,
    split: locomo.Split | None = None,
    ids: Collection[str] | None = None,
    corrected: str | PathLike[str] | None = None,
) -> Material:
    """The conversations of a LoCoMo file: of one split, or those of these `ids`; with corrected answers, if there are
    any.

    Raises:
        InvalidInputError: the file is no LoCoMo file, or has not these conversations.
        DatasetError: the corrected answers cannot be used.
    """
    path = Path(file)
    loaded = locomo.read(path)
    talks, counts = loaded.conversations, None
    if split is not None:
        talks = locomo.split(talks, split)
    if ids is not None:
        kept = {talk.id for talk in chosen(from_locomo(talks), ids)}
        talks = [talk for talk in talks if talk.sample_id in kept]
    if corrected is not None:
        talks, corrections = locomo.corrected(talks, corrected)
        counts = asdict(corrections)
    found = {what: count if isinstance(count, int) else len(count) for what, count in asdict(loaded.report).items()}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Material(from_locomo(talks), path.name, digest, found, split, counts)


def measure(
    config: LocomoConfig,
    data: Material,
    embedder: Embedder,
    out: Path,
    *,
    judge: Backend | None = None,
    command: str = "",
    on_step: OnStep | None = None,
) -> tuple[LocomoSummary, list[list[ScoredQuestion]]]:
    """Have every row of every student remember and answer, score that, and write the results to `out`.

    What is finished is kept there, see `locomo_qa.answer_questions`: repeated on the same `out`, it goes on, and where
    all is answered it only scores. `judge` answers for metric J; its verdicts are kept in `judging.jsonl`. It is closed
    at the end, `embedder` stays open.

    Raises:
        as `answer_questions` and `locomo_scores.scored`. DatasetError: `out` cannot be written.
    """
    step = on_step or (lambda what, done, total: None)
    now = [""]

    def begun(row: Row) -> None:
        now[0] = f"{row.student.name}: {row.name}"

    with ExitStack() as opened:
        if judge is not None:
            opened.callback(judge.close)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetError(f"{out} cannot be written: {error}") from error
        results = answer_questions(
            data.conversations,
            rows(config.student),
            embedder,
            out,
            concurrency=config.concurrency,
            progress=lambda done, total: step(now[0], done, total),
            on_row=begun,
        )
        step("metrics", 0, 1)
        metrics = opened.enter_context(
            Similarity(
                wordnet=config.wordnet,
                bertscore_model=config.bertscore_model,
                sentence_model=config.sentence_model,
            )
        )
        answers = asyncio.run(
            _scored(
                results,
                data,
                metrics,
                judge,
                out,
                concurrency=config.concurrency,
                progress=lambda done, total: step("judging", done, total),
            )
        )
        summary = _summary(config, data, embedder, results, answers, metrics, judge, command)
    summary.write(out, answers)
    return summary, answers


async def _scored(
    results: Sequence[RowResult],
    data: Material,
    metrics: Similarity,
    judge: Backend | None,
    out: Path,
    *,
    concurrency: int,
    progress: Callable[[int, int], None],
) -> list[list[ScoredQuestion]]:
    if judge is None:
        return await scored(results, data.conversations, metrics)
    try:
        with Journal(out / "judging.jsonl") as journal:
            return await scored(
                results,
                data.conversations,
                metrics,
                judge=Judge(judge),
                journal=journal,
                concurrency=concurrency,
                progress=progress,
            )
    finally:
        await judge.aclose()  # on the event loop that its connections belong to


def _summary(
    config: LocomoConfig,
    data: Material,
    embedder: Embedder,
    results: Sequence[RowResult],
    answers: Sequence[Sequence[ScoredQuestion]],
    metrics: Similarity,
    judge: Backend | None,
    command: str,
) -> LocomoSummary:
    scores, by = summarised(results, answers)
    verdicts = [one.verdict for row in answers for one in row if one.verdict is not None]
    return LocomoSummary(
        command=command,
        data=data.file,
        data_sha256=data.sha256,
        load=data.load,
        corrections=data.corrections,
        conversations=tuple(talk.id for talk in data.conversations),
        split=data.split,
        students={student.name: Path(student.base).name for student in config.student},
        embedder=embedder.name,
        judge=None if judge is None else Judge(judge).name,
        measures={**metrics.made_with, **dict.fromkeys(METRICS, "of SQuAD's normalised tokens")},
        unavailable=unavailable(metrics, None if judge is None else verdicts),
        changes_by=by,
        machine=this_machine(),
        versions=versions(*_PACKAGES),
        rows=tuple(scores),
    )
