"""How a pair comes from others: its id, its lineage, its documents; and which of equal pairs stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from ...types import normalise
from ..reflections import STEPS, Reflection, Step


class Discarded(BaseModel):
    """A pair that was left out, and why. A `duplicate` names the pair that stays, in `instead`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    pair: Reflection
    instead: str | None = None


def extracted(step: Step, question: str, answer: str, document: str) -> Reflection:
    """A pair from the text of a document."""
    return _pair(step, question, answer, (document,), (step,))


def derived(
    step: Step, question: str, answer: str, parents: Sequence[Reflection], group: str | None = None
) -> Reflection:
    """A pair that was made from `parents`: it has the documents and the steps of all of them."""
    documents = tuple(dict.fromkeys(id for parent in parents for id in parent.documents))
    behind = {step, *(one for parent in parents for one in parent.steps)}
    steps = tuple(one for one in STEPS if one in behind)
    return _pair(step, question, answer, documents, steps, group, tuple(dict.fromkeys(one.id for one in parents)))


def key(pair: Reflection) -> tuple[str, str]:
    """What two pairs have in common that say the same: question and answer, case, spacing and final points aside."""
    return normalise(pair.question), normalise(pair.answer)


def distinct(pairs: Iterable[Reflection]) -> tuple[list[Reflection], list[Discarded]]:
    """The first of equal pairs in the order of `pairs`, and the others.

    The one that stays keeps its own documents and lineage: these tell of one way to make it, and of all of that way.
    """
    kept: dict[tuple[str, str], Reflection] = {}
    repeated: list[Discarded] = []
    for pair in pairs:
        first = kept.setdefault(key(pair), pair)
        if first is not pair:
            repeated.append(Discarded(reason="duplicate", pair=pair, instead=first.id))
    return list(kept.values()), repeated


def final(pairs: Sequence[Reflection]) -> tuple[list[Reflection], list[Discarded]]:
    """`pairs` without duplicates, in their order. Of equal pairs the one of the earliest step stays, then the first.

    That one needs the least to come about. `without_steps` takes it away with any of its steps, even where a duplicate
    would have come about without them: these stand in `discarded.jsonl`, with their own lineage.
    """
    kept, repeated = distinct(sorted(pairs, key=lambda pair: STEPS.index(pair.step)))
    staying = {id(pair) for pair in kept}
    return [pair for pair in pairs if id(pair) in staying], repeated


def _pair(
    step: Step,
    question: str,
    answer: str,
    documents: tuple[str, ...],
    steps: tuple[Step, ...],
    group: str | None = None,
    parents: tuple[str, ...] = (),
) -> Reflection:
    made_of = json.dumps([step, question, answer, documents], ensure_ascii=False)
    return Reflection(
        id=hashlib.sha256(made_of.encode()).hexdigest()[:24],
        question=question,
        answer=answer,
        step=step,
        steps=steps,
        documents=documents,
        group=group,
        parents=parents,
    )
