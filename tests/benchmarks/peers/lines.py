"""Made-up things that people say of themselves, the same for every library; the standard library is all it needs."""

from __future__ import annotations

import random
from collections.abc import Iterator

USERS = 100
"""The stored memories are spread over so many people; every search is one person's."""

_words = str.split
_PEOPLE = _words("brother sister neighbour colleague cousin flatmate uncle aunt teacher friend")
_NAMES = _words("Ana Bram Cleo Dario Edda Farid Gwen Hugo Ilka Joost Kira Levi Mona Nuno Olga Piet Rosa Sami Tara Ugo")
_PLACES = _words("Lisbon Porto Ghent Turin Graz Leeds Malmo Cork Basel Lyon Bilbao Tartu Riga Delft Bergen Sofia")
_THINGS = _words("kayak cello telescope greenhouse typewriter loom trumpet tent kiln sailboat drone piano camera oven")
_COLOURS = _words("red green blue yellow grey orange purple silver black white")
_MONTHS = _words("January February March April May June July August September October November December")
_SHAPES = (
    "My {who} {name} bought a {colour} {thing} in {place} last {month}.",
    "I want to visit {place} with {name} in {month}, to see the {thing}.",
    "Since {month} I keep the {colour} {thing} of my {who} at home in {place}.",
    "{name}, my {who}, teaches how to repair a {thing} in {place}.",
    "In {place} I lost my {colour} {thing}, and {name} found it in {month}.",
)
CONVERSATION = (
    ("I moved to Lisbon in May, close to the river.", "How nice, do you like it there?"),
    ("My sister Clara is a vet and has two dogs.", "What are they called?"),
    ("I am allergic to peanuts, even a crumb is too much.", "I will keep that in mind."),
    ("On Saturdays I play the cello in a small quartet.", "Which pieces do you play?"),
    ("My car broke down, so I cycle to work at the harbour.", "How long does it take?"),
    ("Clara's dogs are called Pixel and Moss.", "Lovely names."),
    ("I am learning Portuguese with a teacher called Rui.", "How is it going?"),
    ("In autumn I want to hike in the Azores.", "Which island?"),
    ("I sold the broken car to my neighbour Tomas.", "Did he repair it?"),
    ("My favourite soup is the one with kale and potatoes.", "A good one for the winter."),
)
"""A short conversation: what the person says, and the answer."""


def sentence(dice: random.Random) -> str:
    """One that is most likely not said twice."""
    return dice.choice(_SHAPES).format(
        who=dice.choice(_PEOPLE),
        name=dice.choice(_NAMES),
        place=dice.choice(_PLACES),
        thing=dice.choice(_THINGS),
        colour=dice.choice(_COLOURS),
        month=dice.choice(_MONTHS),
    )


def memories(count: int) -> Iterator[tuple[str, str]]:
    """(user, text) of `count` memories, one person's after the other's; equal texts are told apart by a number."""
    dice = random.Random(17)
    for number in range(count):
        yield user(number * USERS // count), f"{sentence(dice)[:-1]}, note {number}."


def user(number: int) -> str:
    return f"user-{number % USERS:03d}"


def fresh(seed: int, count: int) -> list[str]:
    """Things that are not among the memories."""
    dice = random.Random(f"fresh {seed}")
    return [f"{sentence(dice)[:-1]}, said {seed}-{number}." for number in range(count)]
