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

from ...errors import BackendError, DatasetError, ReplyError
from ...serving.base import Request
from ...training.journal import Journal
from .. import locomo
from ..conversations import chosen, from_locomo
from ..judge import EXPERT, MAX_TOKENS, SCHEMA, Judge, JudgedItem, prompt
from ..judge_reply import read
from ..metrics import METRICS
from ..report import keep_private
from ..similarity import Similarity
from .abstention import RULE
from .answering import Row, RowResult, answer_questions, rows
from .report import ANSWERS_FILE, LocomoSummary, name_of
from .scores import PLAIN_F1, J, ScoredQuestion, ajudged, scored, summarised, unavailable

if TYPE_CHECKING:
    from ...embedding import Embedder
    from ...serving.base import Backend
    from ..conversations import Conversation
    from .config import LocomoConfig

WITH_TEXTS = (ANSWERS_FILE, "calls.jsonl", "answering.jsonl", "judging.jsonl", "memories.jsonl", "memories")
"""What of a folder of results holds texts of the conversations."""
_EASY = JudgedItem("Which day comes after Monday?", ("Tuesday",), "Tuesday")

OnStep = Callable[[str, int, int], None]
"""(what is being done, steps done, of how many)."""
Answers = list[list[ScoredQuestion]]
"""Those of each row."""


@dataclass(frozen=True, slots=True)
class Material:
    """The conversations that are measured, the name and hash of the file that they come from, what was found in it,
    and how many answers were corrected in the whole of it, by a file of which hash."""

    conversations: Sequence[Conversation]
    file: str
    sha256: str
    load: dict[str, int]
    split: locomo.Split | None
    corrections: dict[str, int] | None
    corrections_sha256: str | None = None


def material(
    file: str | PathLike[str],
    *,
    split: locomo.Split | None = None,
    ids: Collection[str] | None = None,
    corrected: str | PathLike[str] | None = None,
) -> Material:
    """The conversations of a LoCoMo file: of one split, or those of these `ids`; with corrected answers, if there are
    any. The file is corrected whole, as the corrected answers are for the whole of it.

    Raises:
        InvalidInputError: the file is no LoCoMo file, or has not these conversations.
        DatasetError: the corrected answers cannot be used.
    """
    path = Path(file)
    loaded = locomo.read(path)
    talks, counts, corrections_sha256 = loaded.conversations, None, None
    if corrected is not None:
        talks, corrections = locomo.corrected(talks, corrected)
        counts = asdict(corrections)
        corrections_sha256 = hashlib.sha256(Path(corrected).read_bytes()).hexdigest()
    if split is not None:
        talks = locomo.split(talks, split)
    if ids is not None:
        kept = {talk.id for talk in chosen(from_locomo(talks), ids)}
        talks = [talk for talk in talks if talk.sample_id in kept]
    found = {what: count if isinstance(count, int) else len(count) for what, count in asdict(loaded.report).items()}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Material(from_locomo(talks), path.name, digest, found, split, counts, corrections_sha256)


def measure(
    config: LocomoConfig,
    data: Material,
    embedder: Embedder,
    out: Path,
    *,
    judge: Backend | None = None,
    command: str = "",
    on_step: OnStep | None = None,
    on_note: Callable[[str], None] | None = None,
) -> tuple[LocomoSummary, Answers]:
    """Have every row of every student remember and answer, score that, and write the results to `out`.

    What is finished is kept there, see `answer_questions`: repeated on the same `out`, it goes on, and where
    all is answered it only scores. `judge` answers for metric J; its verdicts are kept in `judging.jsonl`. It is closed
    at the end, `embedder` stays open. Where it cannot be asked, J is not available, and a later run asks only what it
    has not judged. Before a model is asked, `on_note` hears what is missing, and of a judge that cannot mark one easy
    answer; at the end, why it could not be asked. What holds texts of the conversations is in `.gitignore` there.

    Raises:
        as `answer_questions` and `scores.scored`. DatasetError: `out` cannot be written.
    """
    step = on_step or (lambda what, done, total: None)
    note = on_note or (lambda line: None)
    now = [""]

    def begun(row: Row) -> None:
        first = not now[0]
        if first and judge is not None and (why := _unfit(judge)) is not None:
            note(
                f"The judge cannot mark an easy answer ({why}). The models are asked all the same, it again at the end."
            )
        now[0] = f"{row.student.name}: {row.name}"

    with ExitStack() as opened:
        if judge is not None:
            opened.callback(judge.close)
        try:
            out.mkdir(parents=True, exist_ok=True)
            keep_private(out, WITH_TEXTS)
        except OSError as error:
            raise DatasetError(f"{out} cannot be written: {error}") from error
        step("metrics", 0, 1)
        metrics = opened.enter_context(
            Similarity(
                wordnet=config.wordnet,
                bertscore_model=config.bertscore_model,
                sentence_model=config.sentence_model,
            )
        )
        for measure, why in unavailable(metrics, None).items():
            if measure != J or judge is None:
                note(f"{name_of(measure)}: not available: {why}")
        results = answer_questions(
            data.conversations,
            rows(config.student),
            embedder,
            out,
            concurrency=config.concurrency,
            progress=lambda done, total: step(now[0], done, total),
            on_row=begun,
        )
        step("scoring", 0, 1)
        answers, unasked = scored(results, data.conversations, metrics), None
        if judge is not None:
            answers, unasked = asyncio.run(
                _judged(
                    answers,
                    judge,
                    out,
                    concurrency=config.concurrency,
                    progress=lambda done, total: step("judging", done, total),
                )
            )
        if unasked is not None:
            note(f"The judge cannot be asked: {unasked}")
        summary = _summary(config, data, embedder, results, answers, metrics, judge, unasked, command)
    summary.write(out, answers)
    return summary, answers


def _unfit(judge: Backend) -> BackendError | ReplyError | None:
    """Why it cannot be asked: found out by one call, before others work for hours for what only it can finish."""
    try:
        said = judge.complete(Request(EXPERT, [{"role": "user", "content": prompt(_EASY)}], SCHEMA, MAX_TOKENS, 0.0))
        correct, _ = read(said.text, cut_off=said.finish_reason == "length")
    except (BackendError, ReplyError) as error:
        return error
    return None if correct else ReplyError("it marks a right answer as wrong", reply=said.text)


async def _judged(
    answers: Answers, judge: Backend, out: Path, *, concurrency: int, progress: Callable[[int, int], None]
) -> tuple[Answers, BackendError | None]:
    try:
        with Journal(out / "judging.jsonl") as journal:
            return await ajudged(answers, Judge(judge), journal=journal, concurrency=concurrency, progress=progress)
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
    unasked: BackendError | None,
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
        corrections_sha256=data.corrections_sha256,
        conversations=tuple(talk.id for talk in data.conversations),
        split=data.split,
        students={student.name: Path(student.base).name for student in config.student},
        embedder=embedder.name,
        judge=None if judge is None else Path(Judge(judge).name).name,
        measures={
            **metrics.made_with,
            **dict.fromkeys(METRICS, "of SQuAD's normalised tokens"),
            "token_f1": PLAIN_F1,
            "says it is not known": RULE,
        },
        unavailable=unavailable(metrics, None if judge is None else verdicts, unasked),
        changes_by=by,
        rows=tuple(scores),
    )
