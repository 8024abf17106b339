"""What the blank model learns before any language: nano's three tasks on random words.

Nothing can be guessed there, so what is learned is the work itself: which words to take from where and in what order,
whose "my" it is, which memory is meant.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from ...experts import extraction, generation, update
from ...experts.extraction import Exchange
from ...experts.rules import Decision
from ...serving.base import Expert
from ...types import Hit
from .dialogue import UNKNOWN, USER
from .person import PRONOUNS, to_note
from .relation import fill

Drill = tuple[Expert, list[dict[str, str]], str]
"""An expert, the messages to it with the short prompt, and the wanted reply."""

_COPIED = (3, 24)  # words of a text to copy
_SENTENCES = (1, 1, 2, 2, 3, 4)
_WORDS = (2, 8)  # in a sentence, besides those of the person
_SUBJECTS = (
    *("I have", "I live in", "I like", "I work as", "I don't", "I moved to", "I'm", "I've", "I got", "I play"),
    *("I can't", "I need", "I lost", "I want", "I stopped", "I go to", "My", "my", "me", "mine"),
)
_AGAIN = ("my", "my", "me", "I")
_ENDS = (".", ".", ".", "!", "...")
_NAMED = 0.55
_KEY, _VALUE = (2, 5), (1, 3)  # words that say what a memory is about, and what it says


def copies(tokenizer: Any, count: int, *, seed: int) -> Iterator[Drill]:
    """Texts without a sense, and each of them as its only fact."""
    teacher = _Teacher(tokenizer, seed)
    for _ in range(count):
        text = teacher.some(_COPIED)
        yield "extraction", extraction.messages(Exchange(text), "short"), extraction.target([text])


def drills(tokenizer: Any, count: int, *, seed: int) -> Iterator[Drill]:
    """Most of them notes of what a person says, the others decisions about memories, and questions."""
    teacher = _Teacher(tokenizer, seed)
    for _ in range(count):
        yield teacher.rng.choices((teacher.notes, teacher.decision, teacher.question), (60, 25, 15))[0]()


class _Teacher:
    """Draws words. The same seed draws the same."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self.rng = random.Random(seed)
        pieces = (tokenizer.decode([number]) for number in range(len(tokenizer)))  # words that are one token each
        words = [piece.strip() for piece in pieces if re.fullmatch(" [a-z]+|[A-Z][a-z]+", piece)]
        self.words = [word for word in words if word.casefold() not in PRONOUNS]
        self.names = [word for word in self.words if word[0].isupper()]

    def some(self, count: tuple[int, int]) -> str:
        return " ".join(self.rng.choices(self.words, k=self.rng.randint(*count)))

    def person(self) -> str | None:
        if self.rng.random() > _NAMED:
            return None
        ending: str = self.rng.choice(self.words).lower() if self.rng.random() < 0.5 else ""
        return f"{self.rng.choice(self.names)}{ending}"

    def notes(self) -> Drill:
        """Sentences of random words that a person says of themselves, and a note of each."""
        person = self.person()
        said = [self._sentence() for _ in range(self.rng.choice(_SENTENCES))]
        facts = [fill(to_note.__wrapped__(sentence), {"n": person or USER}) for sentence in said]
        exchange = Exchange(" ".join(sentence + self.rng.choice(_ENDS) for sentence in said), person)
        return "extraction", extraction.messages(exchange, "short"), extraction.target(facts)

    def _sentence(self) -> str:
        parts = self.some(_WORDS).split()
        parts.insert(self.rng.choice((0, 0, 0, self.rng.randint(0, len(parts)))), self.rng.choice(_SUBJECTS))
        if self.rng.random() < 0.3:
            parts.insert(self.rng.randint(1, len(parts)), self.rng.choice(_AGAIN))
        return " ".join(parts)

    def decision(self) -> Drill:
        """A new fact that changes, repeats or ends one of a few memories, or is about something else."""
        about, keys = self._memories()
        old = [f"{about} {key} {value}" for key, value in keys.items()]
        place = self.rng.randrange(len(old))
        key, value = list(keys.items())[place]
        kind = self.rng.choice(("ADD", "UPDATE", "UPDATE", "DELETE", "NONE"))
        new = {
            "ADD": f"{about} {self.some(_KEY)} {self.some(_VALUE)}",
            "UPDATE": f"{about} {key} {self.some(_VALUE)}",
            "DELETE": f"{about} no longer {key} {value}",
            "NONE": old[place],
        }[kind]
        decisions = {
            "ADD": [Decision("ADD", new, None, 0)],
            "UPDATE": [Decision("UPDATE", new, place, 0)],
            "DELETE": [Decision("ADD", new, None, 0), Decision("DELETE", old[place], place, 0)],
            "NONE": [Decision("NONE", new, place, 0)],
        }[kind]
        return "update", update.messages(old, [new], "short"), update.target(decisions, old, [new])

    def question(self) -> Drill:
        """What one of a few memories is about, and what it says of that."""
        about, keys = self._memories()
        now = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=self.rng.randrange(1_000))
        hits = [
            Hit(
                kind="fact",
                text=f"{about} {key} {value}",
                score=1.0,
                id=str(place),
                created_at=now - timedelta(place + 1),
            )
            for place, (key, value) in enumerate(keys.items())
        ]
        key, value = self.rng.choice(list(keys.items()))
        if self.rng.random() < 0.15:
            key, value = self.some(_KEY), UNKNOWN
        return "generation", generation.messages(f"What {key}?", hits, "short", now=now), value

    def _memories(self) -> tuple[str, dict[str, str]]:
        """Whom they are about, and what they are about with what they say of that."""
        about = self.person() or USER.capitalize()
        return about, {self.some(_KEY): self.some(_VALUE) for _ in range(self.rng.randint(1, 5))}
