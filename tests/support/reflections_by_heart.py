"""Four things and their places: a corpus that the tiny model remembers in seconds, and asks about in other words."""

from __future__ import annotations

from typing import Any

from memlora_plugins.memo.reflections import HeldOutQuestion, Reflection

PLACES = {"Ana": "Lisbon", "cats": "Porto", "nurse": "the hospital", "tea": "May"}
LEARNED = ("Where is {}?", "Where can {} be found?", "{}: where?", "Tell me where {} is.")
HELD_OUT = "Where now is {}?"
BY_HEART: dict[str, Any] = {
    "learning_rate": 2e-3,
    "batch_size": 4,
    "epochs": 12,
    "device": "cpu",
    "gradient_checkpointing": False,
}
"""Options of full training with which it does."""


def reflections() -> list[Reflection]:
    """Four about each thing, from a document that is named after it."""
    return [
        Reflection(
            id=f"{thing} {number}",
            question=asked.format(thing),
            answer=place,
            step="1a" if number else "1b",
            steps=("1a",) if number else ("1b",),
            documents=(f"{thing}.txt",),
        )
        for thing, place in PLACES.items()
        for number, asked in enumerate(LEARNED)
    ]


def held_out() -> list[HeldOutQuestion]:
    """One about each thing: two of kind `fact`, two of kind `entity`. Another answer is accepted as well."""
    return [
        HeldOutQuestion(
            question=HELD_OUT.format(thing), answers=(place, "nowhere"), kind="fact" if place > "N" else "entity"
        )
        for thing, place in PLACES.items()
    ]
