"""The training and test samples of nano, made by an `Author`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ...experts import extraction, generation, update
from ...serving.base import Expert, PromptStyle
from ...training.dataset import ChatLine, Sample
from . import memories
from .dialogue import Author

EXPERTS: tuple[Expert, ...] = ("extraction", "update", "generation")
_PROMPTS: dict[Expert, str] = {
    "extraction": extraction.SHORT_PROMPT,
    "update": update.SHORT_PROMPT,
    "generation": generation.SHORT_PROMPT,
}

Writer = Callable[[Author, PromptStyle], tuple[list[dict[str, str]], str]]


def samples(author: Author, expert: Expert, count: int, *, prefix: str) -> Iterator[Sample]:
    """Prompts exactly as they are served, with the replies that are wanted. Ids begin with `prefix`."""
    for number in range(count):
        messages, reply = _WRITERS[expert](author, "short")
        yield _sample(f"{prefix}-{number}", expert, messages, reply)


def plain_samples(author: Author, count: int, *, prefix: str) -> Iterator[Sample]:
    """Single sentences and the one fact in each, without instructions: what the base model learns first."""
    for number in range(count):
        scene = author.plain_scene()
        messages = _bare("extraction", extraction.messages(scene.exchange, "short"))
        yield _sample(f"{prefix}-{number}", "extraction", messages, extraction.target(scene.facts))


def base_samples(
    author: Author,
    count: int,
    *,
    weights: Sequence[int],
    full_prompts: float,
    dialogues: Sequence[Sequence[str]],
    prefix: str,
) -> Iterator[Sample]:
    """What the base model reads: the three tasks without a word of instruction, now and then with the full prompts,
    and chats.

    `weights` are the shares of the three tasks and of chats; `full_prompts` the share of tasks with the full prompt;
    `dialogues` are chats of other origin, mixed in with the generator's.
    """
    rng = author.rng
    kinds = (*EXPERTS, None)  # None: a chat
    for number in range(count):
        kind = rng.choices(kinds, list(weights))[0]
        if kind is None:
            yield _chat(author, f"{prefix}-{number}", dialogues)
            continue
        full = rng.random() < full_prompts
        messages, reply = _WRITERS[kind](author, "full" if full else "short")
        yield _sample(f"{prefix}-{number}", kind, messages if full else _bare(kind, messages), reply)


def _bare(expert: Expert, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """A short prompt without its instruction."""
    return [{**message, "content": message["content"].replace(_PROMPTS[expert], "").strip()} for message in messages]


def _extraction(author: Author, style: PromptStyle) -> tuple[list[dict[str, str]], str]:
    scene = author.scene()
    return extraction.messages(scene.exchange, style), extraction.target(scene.facts)


def _update(author: Author, style: PromptStyle) -> tuple[list[dict[str, str]], str]:
    bank = memories.bank(author)
    return update.messages(bank.old, bank.new, style), update.target(bank.decisions, bank.old, bank.new)


def _generation(author: Author, style: PromptStyle) -> tuple[list[dict[str, str]], str]:
    query = memories.query(author)
    return generation.messages(query.question, query.memories, style, now=query.now), query.answer


_WRITERS: dict[Expert, Writer] = {"extraction": _extraction, "update": _update, "generation": _generation}


def _chat(author: Author, id: str, dialogues: Sequence[Sequence[str]]) -> Sample:
    rng = author.rng
    if dialogues and rng.random() < 0.8:
        lines = rng.choice(dialogues)
        start = rng.randrange(max(1, len(lines) - 6))
        spoken = lines[start : start + 6]
        chat = [("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(spoken)]
    else:
        chat = memories.small_talk(author)
    *before, (_, reply) = chat
    return _sample(id, "generation", [{"role": role, "content": text} for role, text in before], reply)


def _sample(id: str, expert: Expert, messages: Sequence[dict[str, str]], reply: str) -> Sample:
    return Sample(
        id=id,
        expert=expert,
        conversation=id,
        messages=tuple(ChatLine.model_validate(message) for message in messages),
        reply=reply,
    )
