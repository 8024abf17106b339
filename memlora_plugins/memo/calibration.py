"""When a Memory model had better say "I don't know": the confidence that tells right answers from wrong ones best.

It is found on questions that no Memory model was trained on, and kept in the model's card.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nextafter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InvalidInputError
from ..evaluation.metrics import contains
from .answers import AnswersQuestions, MemoryAnswer, aask_model, ask_model, says_something
from .card import read_card, write_card
from .reflections import HeldOutQuestion

if TYPE_CHECKING:
    from ..evaluation.report import Table

Target = Literal["balanced"] | float
"""What a threshold is chosen by: as many right answers kept as wrong ones withheld, or a share of right answers."""
Judged = tuple[float, bool]
"""The confidence of an answer, and whether it is right."""

_MOST_ROWS = 12  # of a table for people


@dataclass(frozen=True, slots=True)
class Cut:
    """What a threshold does to answers: those of its confidence or more are kept, the others withheld."""

    threshold: float
    kept: int
    right_kept: int
    right: int
    wrong: int

    @property
    def right_among_kept(self) -> float | None:
        """The precision, 0 to 1; None where nothing is kept."""
        return self.right_kept / self.kept if self.kept else None

    @property
    def kept_among_right(self) -> float:
        """0 to 1; 1 where no answer is right."""
        return self.right_kept / self.right if self.right else 1.0

    @property
    def abstained_among_wrong(self) -> float:
        """0 to 1; 1 where no answer is wrong."""
        return 1 - (self.kept - self.right_kept) / self.wrong if self.wrong else 1.0

    @property
    def balanced(self) -> float:
        """The mean of the two shares above (balanced accuracy), 0 to 1."""
        return (self.kept_among_right + self.abstained_among_wrong) / 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """The threshold that was chosen, and what it and every other one do to the answers that were given.

    Of all `questions`, those are left out that the model `admitted` not to know, and those that `failed`. `cuts` have
    each threshold that makes a difference, the lowest first; `cut` is the chosen one.
    """

    target: Target
    cut: Cut
    cuts: tuple[Cut, ...]
    questions: int
    admitted: int = 0
    failed: int = 0

    @property
    def threshold(self) -> float:
        """What to pass as `abstain_below`."""
        return self.cut.threshold

    def table(self) -> Table:
        """At most a dozen of the thresholds, the chosen one marked."""
        from ..evaluation.report import Table

        step = max(1, -(-len(self.cuts) // (_MOST_ROWS - 1)))
        shown = [cut for place, cut in enumerate(self.cuts) if place % step == 0 or cut == self.cut]
        rows = tuple(
            (
                f"{cut.threshold:.3f}" + (" *" if cut == self.cut else ""),
                str(cut.kept),
                "" if cut.right_among_kept is None else f"{cut.right_among_kept:.3f}",
                f"{cut.kept_among_right:.3f}",
                f"{cut.abstained_among_wrong:.3f}",
                f"{cut.balanced:.3f}",
            )
            for cut in shown
        )
        columns = ("abstain below", "kept", "right of kept", "kept of right", "withheld of wrong", "balanced")
        told = f"{self.questions} questions, {self.admitted} not known by its own account, {self.failed} failed"
        return Table(f"Calibration on {told}", columns, rows)


def calibrate(
    model: AnswersQuestions,
    held_out: Sequence[HeldOutQuestion],
    *,
    unanswerable: Sequence[str] = (),
    target: Target = "balanced",
    temperature: float = 0.0,
) -> Calibration:
    """Ask `model` all questions, and choose the confidence below which it had better abstain.

    An answer is right if it contains one of the expected ones (`evaluation.metrics.contains`); to an `unanswerable`
    question none is. What the model withholds now is judged like everything else. `target` is `"balanced"`, for
    the best mean of the share of right answers that are kept and the share of wrong ones that are withheld, or the
    share of the kept answers that are to be right, 0 to 1, at the lowest threshold. Of equally good thresholds the
    lowest is chosen. The model itself is left as it is: see `note`.

    Raises:
        InvalidInputError: no question, no answer that there is a confidence for, or no threshold reaches the target.
        BackendError: see `MemoryModel.ask`.
    """
    questions = _questions(held_out, unanswerable)
    return judged(held_out, ask_model(model, questions, temperature), target)


async def acalibrate(
    model: AnswersQuestions,
    held_out: Sequence[HeldOutQuestion],
    *,
    unanswerable: Sequence[str] = (),
    target: Target = "balanced",
    temperature: float = 0.0,
) -> Calibration:
    """As `calibrate`."""
    questions = _questions(held_out, unanswerable)
    return judged(held_out, await aask_model(model, questions, temperature), target)


def judged(held_out: Sequence[HeldOutQuestion], answers: Sequence[MemoryAnswer], target: Target) -> Calibration:
    """`calibrate` with the answers at hand: first those to `held_out`, in their order, then to unanswerable questions.

    Raises:
        InvalidInputError: see `calibrate`.
    """
    points: list[Judged] = []
    admitted = failed = 0
    expected = [question.answers for question in held_out] + [()] * (len(answers) - len(held_out))
    for answer, golds in zip(answers, expected, strict=True):
        said = answer.text if answer.withheld is None else answer.withheld
        if answer.error is not None:
            failed += 1
        elif not says_something(said):
            admitted += 1
        elif answer.confidence is None:
            raise InvalidInputError(
                "The server does not tell how likely the tokens of an answer are (logprobs), so nothing can be "
                "calibrated. Serve the Memory model with vLLM (`memlora memo serve`) or in process."
            )
        else:
            points.append((answer.confidence, any(contains(said, gold) for gold in golds)))
    if not points:
        raise InvalidInputError(
            "No question was answered, so there is nothing to calibrate. Train the Memory model longer."
        )
    cuts = thresholds(points)
    return Calibration(target, choose(cuts, target), cuts, len(answers), admitted, failed)


def thresholds(points: Iterable[Judged]) -> tuple[Cut, ...]:
    """Every way to cut `points` in two by their confidence: the lowest keeps all, the highest none.

    A threshold stands in the middle between the confidences that it separates.
    """
    ordered = sorted(points)
    right = sum(is_right for _, is_right in ordered)
    wrong = len(ordered) - right
    cuts = [Cut(0.0, len(ordered), right, right, wrong)]
    kept, right_kept = len(ordered), right
    for place, (value, is_right) in enumerate(ordered):
        kept, right_kept = kept - 1, right_kept - is_right
        above = ordered[place + 1][0] if kept else nextafter(value, 2)
        if above > value:
            middle = (value + above) / 2
            cuts.append(Cut(middle if middle > value else above, kept, right_kept, right, wrong))
    return tuple(cuts)


def choose(cuts: Sequence[Cut], target: Target) -> Cut:
    """The best of `cuts` by `target`, see `calibrate`.

    Raises:
        InvalidInputError: none reaches it, or it is none.
    """
    if target == "balanced":
        return max(cuts, key=lambda cut: (cut.balanced, -cut.threshold))
    if isinstance(target, bool | str) or not 0 <= target <= 1:
        raise InvalidInputError(f'target must be "balanced" or a share, 0 to 1; got {target!r}.')
    precise = [(cut.right_among_kept, cut) for cut in cuts if cut.right_among_kept is not None]
    reached = [cut for precision, cut in precise if precision >= target]
    if not reached:
        best = max(precision for precision, _ in precise)
        raise InvalidInputError(
            f"At no threshold are {target:.0%} of the answers right; the most is {best:.1%}. Lower the target, or "
            "train the Memory model longer."
        )
    return min(reached, key=lambda cut: cut.threshold)


def note(folder: str | Path, calibration: Calibration) -> None:
    """Have the Memory model in `folder` abstain below the threshold from now on: `MemoryModel.open` reads it there.

    Raises:
        SettingsError: `folder` holds no Memory model.
        OSError: its card cannot be written.
    """
    write_card(folder, read_card(folder).model_copy(update={"abstain_below": calibration.threshold}))


def _questions(held_out: Sequence[HeldOutQuestion], unanswerable: Sequence[str]) -> list[str]:
    questions = [*(question.question for question in held_out), *unanswerable]
    if not questions:
        raise InvalidInputError("There is no held-out question to calibrate on.")
    return questions
