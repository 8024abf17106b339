"""The example of `memlora demo`: a person, an assistant, four sessions in half a year, and some questions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ..types import Message

PERSON = "Maya"


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation: lines of the person, each with the assistant's reply."""

    id: str
    start: datetime
    lines: tuple[tuple[str, str], ...]

    def messages(self) -> list[Message]:
        """The session as messages two minutes apart, with ids that stay the same from run to run."""
        said: list[Message] = []
        for line, reply in self.lines:
            for role, text, name in (("user", line, PERSON), ("assistant", reply, None)):
                number = len(said)
                moment = self.start + timedelta(minutes=2 * number)
                id = f"{self.id}-{number}"
                if role == "user":
                    said.append(Message("user", text, id=id, name=name, created_at=moment))
                else:
                    said.append(Message("assistant", text, id=id, created_at=moment))
        return said


SESSIONS = (
    Session(
        "january",
        datetime(2025, 1, 12, 19, 30, tzinfo=UTC),
        (
            ("Hi! I just moved to Porto.", "Welcome to Porto!"),
            ("I work as a nurse. My dog is called Biscuit.", "Say hello to Biscuit."),
            ("My favourite drink is coffee.", "The coffee in Porto is good."),
        ),
    ),
    Session(
        "march",
        datetime(2025, 3, 1, 9, 10, tzinfo=UTC),
        (
            ("What a rainy day!", "A good day to stay in."),
            ("My birthday is on 3 March.", "Noted, 3 March."),
            ("I play tennis.", "Have fun on the court."),
        ),
    ),
    Session(
        "april",
        datetime(2025, 4, 20, 18, 5, tzinfo=UTC),
        (
            ("I'm allergic to peanuts.", "Understood, no peanuts in anything I suggest."),
            ("I'm learning Portuguese.", "Boa sorte!"),
            ("My favourite drink is green tea now.", "Do you sleep better?"),
        ),
    ),
    Session(
        "june",
        datetime(2025, 6, 15, 20, 45, tzinfo=UTC),
        (
            ("I just moved to Madrid.", "What a step!"),
            ("I don't play tennis any more.", "What do you do instead?"),
            ("I love swimming, it's my hobby.", "Enjoy the water!"),
        ),
    ),
)

QUESTIONS = (
    "Where do I live?",
    "What is my favourite drink?",
    "Which allergy do I have?",
    "What do I do for a living?",
    "What is my dog called?",
    "When is my birthday?",
)
