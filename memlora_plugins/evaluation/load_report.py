"""What was found in a LoCoMo file, and the faults that were mended or left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Table


@dataclass(slots=True)
class LoadReport:
    """What was found in a file, and what was wrong with it."""

    turns: int = 0
    questions: int = 0
    facts: int = 0
    dates_without_session: int = 0
    """A session without any turn counts as none."""
    turns_left_out: int = 0
    """Without text and without a caption."""
    questions_left_out: int = 0
    """Without text."""
    questions_repeated: int = 0
    """Asked before in the same conversation, in the same words. They are kept: published figures count them."""
    questions_without_evidence: int = 0
    """Their evidence is missing, or names no turn."""
    answers_not_text: int = 0
    """Numbers, true or false, and lists; they are read as text."""
    answers_missing: int = 0
    """Of questions of the categories 1 to 4."""
    adversarial_answered: int = 0
    """Questions of category 5 that have an `answer`."""
    evidence_repaired: int = 0
    """Evidence strings that were not simply the id of a turn, and could be read all the same."""
    evidence_dropped: list[str] = field(default_factory=list)
    """Evidence strings that name no turn, as "sample_id: string"."""
    facts_without_turn: int = 0

    def table(self) -> Table:
        """One row for each kind of thing or fault that there is."""
        from .report import Table  # which knows LoCoMo's categories

        dropped = self.evidence_dropped
        named = f" ({', '.join(dropped[:5])}{', …' if len(dropped) > 5 else ''})" if dropped else ""
        counts = {
            "turns": self.turns,
            "questions": self.questions,
            "facts written by a large model": self.facts,
            "dates without a session": self.dates_without_session,
            "turns without text and caption, left out": self.turns_left_out,
            "questions without text, left out": self.questions_left_out,
            "questions asked more than once, kept": self.questions_repeated,
            "questions without evidence": self.questions_without_evidence,
            "answers that are no text, read as text": self.answers_not_text,
            "questions of categories 1 to 4 without an answer": self.answers_missing,
            "adversarial questions with an answer": self.adversarial_answered,
            "malformed evidence, repaired": self.evidence_repaired,
            f"evidence that names no turn, dropped{named}": len(dropped),
            "facts that name no turn": self.facts_without_turn,
        }
        return Table("The file", ("what", "number"), tuple((what, str(n)) for what, n in counts.items() if n))
