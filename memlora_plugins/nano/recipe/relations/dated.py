"""What happened or will happen on a day that is told from today: "yesterday", "tomorrow"."""

from __future__ import annotations

from ..relation import Relation

POOLS: dict[str, tuple[str, ...]] = {}


def _event(name: str, did: str, asked: str) -> Relation:
    """`did` is what follows "I": "ran a race"; `asked` what follows "did I"."""
    return Relation(
        name=name,
        said=(
            f"I {did} {{when}}",
            f"I actually {did} {{when}}",
            f"Well, {{when}} I {did}",
            f"{{when}} I finally {did}",
            f"You know, I {did} {{when}}",
            f"So I {did} {{when}}",
            f"I just {did} {{when}}",
            f"It was great, I {did} {{when}}",
            f"I must tell you that I {did} {{when}}",
            f"Imagine, {{when}} I {did}",
        ),
        asked=(
            f"When did I {asked}?",
            f"On what day did I {asked}?",
            f"What date did I {asked}?",
            f"Can you say when I {did}?",
        ),
        answer="{when}",
        many=True,
    )


RELATIONS: tuple[Relation, ...] = (
    _event("dated_dentist", "went to the dentist", "go to the dentist"),
    _event("dated_race", "ran a race", "run a race"),
    _event("dated_exam", "passed an exam", "pass an exam"),
    _event("dated_car", "sold the car", "sell the car"),
    _event("dated_key", "lost the house keys", "lose the house keys"),
    _event("dated_move", "moved into a new flat", "move into a new flat"),
    _event("dated_job", "started a new job", "start a new job"),
    _event("dated_parents", "visited {woman} and {man}", "visit {woman} and {man}"),
    _event("dated_dinner", "had dinner with {name}", "have dinner with {name}"),
    _event("dated_call", "talked to {name} on the phone", "talk to {name} on the phone"),
    _event("dated_swim", "swam in the sea", "swim in the sea"),
    _event("dated_cake", "baked a cake for {name}", "bake a cake for {name}"),
)
