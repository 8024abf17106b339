"""A Memory model from reflections: a small model that answers questions about a corpus from its weights alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from ..errors import DatasetError
from ..evaluation.metrics import answer_tokens, contains, exact_match
from ..training.card import table
from ..training.dataset import ChatLine, Sample
from ..training.goal import Goal, Measured
from ..training.identity import digest
from ..training.options import Schedule, TrainingOptions
from ..training.trainer import TrainingEvent, train_model
from .answers import question_messages
from .card import HeldOutRecall, MemoCard, Recall, RecallAt, TrainedDocument
from .reflections import HeldOutQuestion, Reflection

_NAMED = 20  # documents
_NEVER = 1_000_000  # validations


class MemoOptions(TrainingOptions):
    """`TrainingOptions` with the MeMo paper's values for full training (its Table 10); `memo_options` has LoRA's too.

    A step takes 256 reflections, as the paper does for corpora of up to 700,000 (512 for larger ones); for small
    corpora take less, so that an epoch has steps enough. Set `device_batch_size` to what fits into memory.

    Held-out questions are answered at every `measure_every`-th validation (which comes after each epoch, or every
    `eval_every` steps) and at the last one, in up to `answer_tokens` tokens each. Training ends early only where
    `patience` measurements without a better one are asked for.
    """

    full: bool = True
    dropout: float = Field(default=0.05, ge=0, lt=1)
    learning_rate: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    schedule: Schedule = "constant"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    batch_size: int = Field(default=256, ge=1)
    epochs: int = Field(default=3, ge=1)
    patience: int = Field(default=_NEVER, ge=1)
    max_length: int = Field(default=8096, ge=2)
    gradient_checkpointing: bool = True
    measure_every: int = Field(default=1, ge=1)
    answer_tokens: int = Field(default=48, ge=1)


def memo_options(full: bool = True, **changes: Any) -> MemoOptions:
    """The paper's hyper-parameters with `changes`: for all weights, or for a LoRA adapter of all linear layers.

    An adapter has rank 8, the paper's for models below 2 billion parameters (16 for one of 14 billion), and learns at
    2e-4. Its alpha is twice the rank where it is not among the changes.

    Raises:
        pydantic.ValidationError: changes that cannot be.
    """
    if not full:
        changes = {"learning_rate": 2e-4, "alpha": 2 * changes.get("rank", 8), **changes}
    return MemoOptions(full=full, **changes)


@dataclass(frozen=True, slots=True)
class TrainedMemoryModel:
    """A finished Memory model. `folder` is a transformers folder, or peft's for LoRA, with its card.

    `recall` is what its weights answer of the held-out questions, None where there were none. `epochs` counts those
    trained, `tokens_per_second` prompt and reply tokens in training steps. `card` is `memlora.json`, as data.
    """

    folder: Path
    recall: RecallAt | None
    epochs: float
    tokens_per_second: float
    card: dict[str, Any]


def train_memory_model(
    base: Path | str,
    reflections: Sequence[Reflection],
    out: Path,
    options: MemoOptions = MemoOptions(),  # noqa: B008 (frozen)
    *,
    held_out: Sequence[HeldOutQuestion] = (),
    documents: Iterable[TrainedDocument] = (),
    resume: bool = False,
    on_event: Callable[[TrainingEvent], None] | None = None,
) -> TrainedMemoryModel:
    """Train the model in folder `base` (or of that name in the Hugging Face cache) to answer, and write it to `out`.

    A prompt is the question alone, as a Memory model is asked it; only the answer is learned (Section 4.2 of the
    paper). After each epoch the model in training answers the `held_out` questions, and the weights that recall most
    are kept (of equals the earliest): the paper reports the best epoch as well. Without such questions the last weights
    are kept; a loss on some of the reflections would not say what the model recalls.

    The card lists the documents that the reflections descend from, with title and hash as `documents` tell them:
    weights cannot be erased, so they are on record.

    Checkpoints, `resume`, `on_event` and several processes are as in `training.trainer.train`. With several processes,
    each answers its share of the questions. Weights that are divided among processes (ZeRO-3, FSDP) cannot be measured
    in training; DDP and DeepSpeed's ZeRO-2 can.

    Raises:
        DatasetError: no reflections, all of them too long, or a held-out question among them.
        MissingDependencyError, SettingsError, BackendUnavailableError, TrainingError: as `training.trainer.train`.
    """
    _check(reflections, held_out)
    known = _trained_on(reflections, documents)
    questions = _sha256(held_out)

    def note(card: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        memo = MemoCard(documents=known, held_out=_recalled(card, questions, len(held_out)))
        return {"memo": memo.row()}, _lines(memo)

    card = train_model(
        "memory",
        base,
        [_sample(one.id, one.question, one.answer, "reflections") for one in reflections],
        [_sample(str(at), one.question, one.answers[0], "held-out questions") for at, one in enumerate(held_out)],
        out,
        options,
        goal=_goal(held_out, options) if held_out else None,
        also={"held-out questions": questions, "documents": digest([one.model_dump() for one in known])},
        note=note,
        resume=resume,
        on_event=on_event,
    )
    found, measured = card["metrics"], MemoCard.model_validate(card["memo"]).held_out
    return TrainedMemoryModel(
        folder=Path(out).expanduser().absolute(),
        recall=None if measured is None else measured.best,
        epochs=found["epochs"],
        tokens_per_second=found["tokens_per_second"],
        card=card,
    )


def recalled(held_out: Sequence[HeldOutQuestion], replies: Sequence[str]) -> tuple[Recall, dict[str, Recall]]:
    """What `replies` to the questions are worth, in all and by kind.

    An answer is right if it contains any of those accepted; it is exact if it says nothing else.
    """
    marks: dict[str, list[tuple[float, float]]] = {}
    for question, reply in zip(held_out, replies, strict=True):
        right = max(contains(reply, answer) for answer in question.answers)
        exact = max(exact_match(reply, answer) for answer in question.answers)
        marks.setdefault(question.kind, []).append((right, exact))
    every = [mark for of_kind in marks.values() for mark in of_kind]
    return _mean(every), {kind: _mean(marks[kind]) for kind in sorted(marks)}


def _mean(marks: Sequence[tuple[float, float]]) -> Recall:
    right, exact = (sum(column) / len(marks) for column in zip(*marks, strict=True))
    return Recall(questions=len(marks), contained=right, exact=exact)


def _goal(held_out: Sequence[HeldOutQuestion], options: MemoOptions) -> Goal:
    def judge(replies: Sequence[str]) -> Measured:
        overall, kinds = recalled(held_out, replies)
        details = {"overall": overall.model_dump(), "kinds": {kind: one.model_dump() for kind, one in kinds.items()}}
        return Measured(overall.contained, details)

    prompts = [question_messages(one.question) for one in held_out]
    return Goal(prompts, judge, options.answer_tokens, options.measure_every)


def _sample(id: str, question: str, answer: str, split: str) -> Sample:
    lines = tuple(ChatLine.model_validate(message) for message in question_messages(question))
    return Sample(id=id, expert="memory", conversation=split, messages=lines, reply=answer)


def _check(reflections: Sequence[Reflection], held_out: Sequence[HeldOutQuestion]) -> None:
    if not reflections:
        raise DatasetError("There are no reflections to train on. `memlora memo synthesize` writes them.")
    asked = {tuple(answer_tokens(one.question)) for one in held_out}  # these are few, reflections may be a million
    learned = {words for one in reflections if asked and (words := tuple(answer_tokens(one.question))) in asked}
    if known := [one.question for one in held_out if tuple(answer_tokens(one.question)) in learned]:
        raise DatasetError(
            f"{len(known)} of {len(held_out)} held-out questions are reflections as well, such as {known[0]!r}. Leave "
            "them out of either: what was learned word for word does not show what is recalled."
        )


def _trained_on(reflections: Iterable[Reflection], told: Iterable[TrainedDocument]) -> tuple[TrainedDocument, ...]:
    """The documents that the reflections descend from, in the order they first occur.

    Where several texts have one id (those of two corpora, say), all of them: a reflection does not tell them apart.
    """
    known: dict[str, dict[str | None, TrainedDocument]] = {}
    for document in told:
        known.setdefault(document.id, {}).setdefault(document.sha256, document)
    ids = dict.fromkeys(id for one in reflections for id in one.documents)
    return tuple(one for id in ids for one in known.get(id, {None: TrainedDocument(id=id)}).values())


def _sha256(held_out: Iterable[HeldOutQuestion]) -> str:
    """The hash of the file that `write_rows` makes of them."""
    return hashlib.sha256("".join(f"{one.model_dump_json()}\n" for one in held_out).encode()).hexdigest()


def _recalled(card: Mapping[str, Any], sha256: str, questions: int) -> HeldOutRecall | None:
    measured = [row for row in card["history"] if "measured" in row]
    if not measured:
        return None
    history = tuple(RecallAt(step=row["step"], epoch=row["epoch"], **row["measured"]) for row in measured)
    [best] = [one for one in history if one.step == card["metrics"]["best_step"]]
    return HeldOutRecall(sha256=sha256, questions=questions, best=best, history=history)


def _lines(memo: MemoCard) -> list[str]:
    """What the card says, for the README."""
    lines = [
        f"It answers questions from memory about {len(memo.documents)} documents, which cannot be taken out of its "
        "weights again: "
        + ", ".join(document.title or document.id for document in memo.documents[:_NAMED])
        + (f" and {len(memo.documents) - _NAMED} more." if len(memo.documents) > _NAMED else "."),
        "",
    ]
    if memo.held_out is None:
        return [*lines, "Nothing was held out: what it recalls was not measured.", ""]
    kinds = tuple(memo.held_out.best.kinds)
    rows = [
        (str(one.step), f"{one.epoch:g}", *map(_percent, (one.overall, *(one.kinds[kind] for kind in kinds))))
        for one in memo.held_out.history
    ]
    return [
        *lines,
        f"Recall of {memo.held_out.questions} held-out questions, in percent: the answer contains the right one (and "
        f"says nothing else). Kept is step {memo.held_out.best.step}.",
        "",
        *table(("step", "epoch", "all", *kinds), rows),
        "",
    ]


def _percent(recall: Recall) -> str:
    return f"{100 * recall.contained:.1f} ({100 * recall.exact:.1f})"
