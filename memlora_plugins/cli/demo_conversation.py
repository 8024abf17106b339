"""The example of `memlora demo`: a person, an assistant, four sessions in half a year, and what is asked afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ..types import Message

PERSON = "Maya"


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation. `lines` are what the person says, each with the assistant's reply."""

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
            ("Hi! I just moved to Porto.", "Welcome to Porto! What do you do there?"),
            ("I work as a nurse. And I have a dog called Biscuit.", "Say hello to Biscuit."),
            ("By the way, my birthday is on 3 March.", "Noted."),
        ),
    ),
    Session(
        "march",
        datetime(2025, 3, 1, 9, 10, tzinfo=UTC),
        (
            ("My favourite drink is black coffee. How are you today?", "Fine, thank you!"),
            ("Oh, one more thing: I'm allergic to peanuts.", "No peanuts in anything I suggest, then."),
            ("I play tennis. It's a nice evening, isn't it?", "It is!"),
        ),
    ),
    Session(
        "april",
        datetime(2025, 4, 20, 18, 5, tzinfo=UTC),
        (
            ("My favourite drink is green tea these days.", "Good for the nerves."),
            ("I'm learning Portuguese.", "Boa sorte!"),
            ("Can you recommend a film?", "That depends on your mood."),
        ),
    ),
    Session(
        "june",
        datetime(2025, 6, 15, 20, 45, tzinfo=UTC),
        (
            ("Guess what! I moved to Lisbon.", "What a step!"),
            ("I don't play tennis any more.", "Will you find something else?"),
            ("Not sure I told you, but I visited Lena and Tom yesterday.", "I hope they are well."),
        ),
    ),
)
QUESTIONS = (
    "Where does Maya live?",
    "What does Maya work as?",
    "When is Maya's birthday?",
    "What is Maya's favourite drink?",
    "What is Maya allergic to?",
    "What is the name of Maya's dog?",
)
