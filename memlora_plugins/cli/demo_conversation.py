"""The example of `memlora demo`: a person, an assistant, four sessions in half a year.

Beside each line of the person stands what a good extraction expert would reply, beside each fact that changes an older
one what a good update expert would decide, and beside each question a good answer: the script of `ScriptedBackend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ..types import Message, Operation

PERSON = "Maya"


@dataclass(frozen=True, slots=True)
class Line:
    """What the person says, the facts in it, and the assistant's reply."""

    text: str
    facts: tuple[str, ...]
    reply: str


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation."""

    id: str
    start: datetime
    lines: tuple[Line, ...]

    def messages(self) -> list[Message]:
        """The session as messages two minutes apart, with ids that stay the same from run to run."""
        said: list[Message] = []
        for line in self.lines:
            for role, text, name in (("user", line.text, PERSON), ("assistant", line.reply, None)):
                number = len(said)
                moment = self.start + timedelta(minutes=2 * number)
                id = f"{self.id}-{number}"
                if role == "user":
                    said.append(Message("user", text, id=id, name=name, created_at=moment))
                else:
                    said.append(Message("assistant", text, id=id, created_at=moment))
        return said


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of `fact` where `old` is among its near neighbours."""

    fact: str
    operation: Operation
    old: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question to the memory, and an answer from what it holds."""

    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Script:
    """A conversation with everything the experts would say about it."""

    sessions: Sequence[Session]
    decisions: Sequence[Decision] = field(default_factory=tuple)
    questions: Sequence[Question] = field(default_factory=tuple)


_PORTO = "Maya moved to Porto in January 2025"
_NURSE = "Maya works as a nurse at Santo António hospital"
_NIGHTS = "Maya works mostly night shifts at the hospital"
_COFFEE = "Maya drinks four cups of coffee a night"
_BIRTHDAY = "The birthday of Maya's sister Lena is on 3 March"
_TEST = "Maya has an allergy test in March 2025, peanuts are suspected"
_CLIMBING = "Maya goes climbing on Saturdays with her colleague Tom"
_DOG = "Maya has a dog named Biscuit"

_NO_COFFEE = "Maya stopped drinking coffee in February 2025 and drinks tea"
_BIRTHDAY_CORRECTED = "The birthday of Maya's sister Lena is on 13 March"
_ALLERGY = "Maya is allergic to peanuts and wants no recipes with them"
_DAYS = "Maya works day shifts at the hospital"
_LISBON = "Maya moved to Lisbon in June 2025 and lives in Alfama"
_NO_CLIMBING = "Maya no longer goes climbing because her knee hurts"
_NEW_JOB = "Maya starts as a nurse at Hospital de São José in Lisbon on 1 July 2025"

EXAMPLE = Script(
    sessions=(
        Session(
            "january",
            datetime(2025, 1, 12, 19, 30, tzinfo=UTC),
            (
                Line(
                    "Hi! I just moved to Porto with my dog Biscuit and I know nobody here yet.",
                    (_PORTO, _DOG),
                    "Welcome to Porto, both of you! What brought you there?",
                ),
                Line(
                    "Work. Since Monday I am a nurse at Santo António hospital, mostly night shifts.",
                    (_NURSE, _NIGHTS),
                    "Nights in a new city sound hard. How do you keep going?",
                ),
                Line(
                    "With far too much coffee, four cups a night.",
                    (_COFFEE,),
                    "That is a lot. Maybe swap the last two for something lighter?",
                ),
                Line(
                    "I'll try. Please keep in mind that my sister Lena's birthday is on 3 March, I always forget it.",
                    (_BIRTHDAY,),
                    "Noted: Lena, 3 March.",
                ),
            ),
        ),
        Session(
            "march",
            datetime(2025, 3, 1, 9, 10, tzinfo=UTC),
            (
                Line(
                    "I have not had a coffee since February, only tea. You were right.",
                    (_NO_COFFEE,),
                    "Well done! Do you sleep better?",
                ),
                Line(
                    "A little. And I got the date wrong: Lena's birthday is the 13th of March, not the 3rd.",
                    (_BIRTHDAY_CORRECTED,),
                    "Good that you checked. 13 March it is. Do you have a present?",
                ),
                Line(
                    "I booked her a pottery class, she has wanted to try that for years.",
                    ("Maya booked a pottery class as a birthday present for her sister Lena",),
                    "Lovely idea.",
                ),
                Line(
                    "Next week I have an allergy test, the doctor suspects peanuts.",
                    (_TEST,),
                    "I hope it goes well. Tell me the result if you like.",
                ),
            ),
        ),
        Session(
            "april",
            datetime(2025, 4, 20, 18, 5, tzinfo=UTC),
            (
                Line(
                    "The test was clear: I am allergic to peanuts. Never suggest me a recipe with them, please.",
                    (_ALLERGY,),
                    "Understood, no peanuts in anything I suggest.",
                ),
                Line(
                    "Good news too: they moved me to day shifts, I finally sleep.",
                    (_DAYS,),
                    "That must feel like a new life. What do you do with your evenings?",
                ),
                Line(
                    "Long walks with my dog Biscuit, and on Saturdays I go climbing with Tom from my ward.",
                    (_DOG, _CLIMBING),
                    "Have fun up there, and say hello to Biscuit.",
                ),
            ),
        ),
        Session(
            "june",
            datetime(2025, 6, 15, 20, 45, tzinfo=UTC),
            (
                Line(
                    "Big change: Biscuit and I moved to Lisbon last weekend, to a small flat in Alfama.",
                    (_LISBON,),
                    "What a step! And the hospital?",
                ),
                Line(
                    "I start at Hospital de São José on 1 July, still as a nurse.",
                    (_NEW_JOB,),
                    "Congratulations. Will you find people to climb with there?",
                ),
                Line(
                    "No more climbing, my knee hurts. I swim in the mornings now.",
                    (_NO_CLIMBING, "Maya swims in the mornings"),
                    "Swimming is kind to knees. Enjoy the water!",
                ),
            ),
        ),
    ),
    decisions=(
        Decision(_NO_COFFEE, "UPDATE", _COFFEE),
        Decision(_BIRTHDAY_CORRECTED, "UPDATE", _BIRTHDAY),
        Decision(_ALLERGY, "UPDATE", _TEST),
        Decision(_DAYS, "UPDATE", _NIGHTS),
        Decision(_LISBON, "UPDATE", _PORTO),
        Decision(_NEW_JOB, "UPDATE", _NURSE),
        Decision(_NO_CLIMBING, "DELETE", _CLIMBING),
    ),
    questions=(
        Question("Where does Maya live now?", "In Lisbon, in Alfama. She moved there from Porto in June 2025."),
        Question("When is Lena's birthday?", "On 13 March. Maya first said 3 March and corrected it."),
        Question("Can I offer Maya a coffee?", "Better tea: she stopped drinking coffee in February 2025."),
        Question("Is Maya allergic to anything?", "Yes, to peanuts. She wants no recipes with them."),
        Question("Where will Maya work from July?", "At Hospital de São José in Lisbon, as a nurse."),
        Question("What sport does Maya do?", "She swims in the mornings; she gave up climbing because of her knee."),
    ),
)
