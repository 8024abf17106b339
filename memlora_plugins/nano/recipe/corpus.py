"""The training and test samples of nano, made by an `Author`."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ...experts import extraction, generation, update
from ...experts.extraction import Exchange
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

Written = tuple[list[dict[str, str]], str]
"""Messages, and the reply to them."""
Writer = Callable[[Author, PromptStyle, bool, memories.Nearest | None], Written]
"""(author, style of the prompt, whether there is little in it, how a memory is found)"""
Lesson = Literal["sentence", "verdict", "lookup", "exchange", "decision", "question", "task", "chat"]
"""What a sample of the base teaches. In short form, where nearly every word matters: sentences and what is noted of
each, what becomes of a memory, what one answers. Then each of the three tasks, mostly without instruction; any of them
with its full prompt; talk."""

_TAUGHT: Mapping[Lesson, Expert] = {
    "sentence": "extraction",
    "exchange": "extraction",
    "decision": "update",
    "question": "generation",
}
_COPIED = (3, 24)  # words of a text to copy
_COMPARED = (3, 8)  # … of a line to compare
_PLAIN = 0.6  # share of the base's questions that have little in them
_INSTRUCTED = 0.3  # share of the base's tasks that have the short instruction


def samples(
    author: Author, expert: Expert, count: int, *, prefix: str, nearest: memories.Nearest | None = None
) -> Iterator[Sample]:
    """Prompts exactly as they are served, with the replies that are wanted. Ids begin with `prefix`.

    `nearest` finds the memory that a new fact is compared with, or that a question is answered from; without it that
    is any memory, and a question is answered from several.
    """
    for number in range(count):
        messages, reply = _WRITERS[expert](author, "short", False, nearest)
        yield _sample(f"{prefix}-{number}", expert, messages, reply)


def copies(tokenizer: Any, count: int, *, seed: int, prefix: str) -> Iterator[Sample]:
    """Random words, and each text of them as its only fact: nothing can be guessed there, only copied."""
    rng = random.Random(seed)
    words = _whole_words(tokenizer)
    for number in range(count):
        text = "".join(rng.choices(words, k=rng.randint(*_COPIED))).strip()
        messages = extraction.messages(Exchange(text), "short")
        yield _sample(
            f"{prefix}-{number}", "extraction", _bare("extraction", messages), extraction.target(_after_space([text]))
        )


def comparisons(tokenizer: Any, count: int, *, seed: int, prefix: str) -> Iterator[Sample]:
    """Numbered lines of random words and a new one, and what it is to them: "same 1" where it repeats line 1, "some 1"
    where it does so with other words in places, "more 1" with words added, "none" where it repeats no line."""
    rng = random.Random(seed)
    words = _whole_words(tokenizer)
    for number in range(count):
        lines = [rng.sample(words, rng.randint(*_COMPARED)) for _ in range(rng.randint(1, 4))]
        place = rng.randrange(len(lines))
        new = list(lines[place])
        relation = rng.choice(("same", "some", "more", "none"))
        if relation == "some":
            for other in rng.sample(range(len(new)), len(new) // 3):
                new[other] = rng.choice(words)
        elif relation == "more":
            new += rng.sample(words, rng.randint(1, 3))
        elif relation == "none":
            new = rng.sample(words, rng.randint(*_COMPARED))
        asked = memories.against((f"{''.join(line).strip()}." for line in lines), f"{''.join(new).strip()}.")
        yield _asked(f"{prefix}-{number}", "update", asked, "none" if relation == "none" else f"{relation} {place}")


def _whole_words(tokenizer: Any) -> list[str]:
    """The words, with the space before, that are one token each."""
    pieces = (tokenizer.decode([number]) for number in range(len(tokenizer)))
    return [piece for piece in pieces if re.fullmatch(" [A-Za-z]+", piece)]


def base_samples(
    author: Author,
    count: int,
    *,
    shares: Mapping[Lesson, int],
    dialogues: Sequence[Sequence[str]],
    prefix: str,
) -> Iterator[Sample]:
    """What the base model reads.

    `shares` says how often there is each kind of lesson; `dialogues` are chats of other origin, mixed in with the
    generator's.
    """
    rng = author.rng
    for number in range(count):
        id = f"{prefix}-{number}"
        kind = rng.choices(list(shares), list(shares.values()))[0]
        if kind == "task":
            expert = rng.choice(EXPERTS)
            yield _sample(id, expert, *_WRITERS[expert](author, "full", False, None))
        elif kind == "chat":
            yield _chat(author, id, dialogues)
        elif kind == "verdict":
            yield _asked(id, "update", *memories.verdict(author))
        elif kind == "lookup":
            asked, answer = memories.lookup(author)
            yield _asked(id, "generation", asked, *_after_space([answer]))
        else:
            yield _bare_sample(author, kind, id)


def _asked(id: str, expert: Expert, asked: str, reply: str) -> Sample:
    return _sample(id, expert, [{"role": "user", "content": asked}], reply)


def _bare_sample(author: Author, kind: Lesson, id: str) -> Sample:
    """A sample without the full instructions."""
    expert = _TAUGHT[kind]
    plain = kind == "sentence" or (kind != "exchange" and author.rng.random() < _PLAIN)
    messages, reply = _WRITERS[expert](author, "short", plain, None)
    instructed = kind != "sentence" and author.rng.random() < _INSTRUCTED
    return _sample(id, expert, messages if instructed else _bare(expert, messages), reply)


def _bare(expert: Expert, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """A short prompt without its instruction."""
    return [{**message, "content": message["content"].replace(_PROMPTS[expert], "").strip()} for message in messages]


def _extraction(author: Author, style: PromptStyle, plain: bool, nearest: memories.Nearest | None) -> Written:
    scene = author.plain_scene() if plain else author.scene()
    return extraction.messages(scene.exchange, style), extraction.target(_after_space(scene.facts))


def _update(author: Author, style: PromptStyle, plain: bool, nearest: memories.Nearest | None) -> Written:
    pair = memories.pair(author, nearest)
    old, new = [str(pair.found)], [pair.new]
    return update.messages(old, new, style), update.target(pair.decisions, old, new)


def _generation(author: Author, style: PromptStyle, plain: bool, nearest: memories.Nearest | None) -> Written:
    query = memories.recalled(author, nearest, taught=True) if nearest else memories.query(author, plain=plain)
    [answer] = _after_space([query.answer])
    return generation.messages(query.question, query.memories, style, now=query.now), answer


def _after_space(texts: Sequence[str]) -> list[str]:
    """With the space before, so that words to copy are the same tokens in a reply as in the prompt."""
    return [f" {text}" for text in texts]


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
