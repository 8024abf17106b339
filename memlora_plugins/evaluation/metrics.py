"""How near an answer is to the expected one: token F1, exact match, containment.

All compare normalised tokens, as the SQuAD evaluation does: lower case, without punctuation, without English articles.
"""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Callable

Metric = Callable[[str, str], float]
"""(answer, expected answer) to a score, 1.0 for a perfect answer."""

_ARTICLES = frozenset({"a", "an", "the"})


def answer_tokens(text: str) -> list[str]:
    """The words of `text` that are compared: lower case, punctuation deleted, English articles left out."""
    kept = "".join(char for char in text.lower() if not _is_punctuation(char))
    return [token for token in kept.split() if token not in _ARTICLES]


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of the precision and recall of tokens, each counted as often as it occurs; 0 to 1.

    Two answers without any token are equal; one alone shares nothing.
    """
    said, wanted = answer_tokens(answer), answer_tokens(gold)
    if not (said and wanted):
        return float(said == wanted)
    shared = (Counter(said) & Counter(wanted)).total()
    return 2 * shared / (len(said) + len(wanted))


def exact_match(answer: str, gold: str) -> float:
    """1.0 if the tokens are the same in the same order, else 0.0."""
    return float(answer_tokens(answer) == answer_tokens(gold))


def contains(answer: str, gold: str) -> float:
    """1.0 if the expected tokens stand together, in order, in the answer, else 0.0.

    An expected answer without any token is contained only in another one.
    """
    said, wanted = answer_tokens(answer), answer_tokens(gold)
    if not wanted:
        return float(not said)
    starts = range(len(said) - len(wanted) + 1)
    return float(any(said[start : start + len(wanted)] == wanted for start in starts))


METRICS: dict[str, Metric] = {"token_f1": token_f1, "exact_match": exact_match, "contains": contains}
"""By the name that the command line and reports use."""


def metric_name(metric: Metric) -> str:
    """What reports call a metric: the function's name, or its class's."""
    return getattr(metric, "__name__", type(metric).__name__)


def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")
