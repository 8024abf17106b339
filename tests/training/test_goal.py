"""Asking a model in training: what it says is what it will say when it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_model import TinyModel

from memlora_plugins.serving.base import Request
from memlora_plugins.serving.checkpoint import Checkpoint
from memlora_plugins.serving.engine import Source
from memlora_plugins.serving.local import LocalBackend
from memlora_plugins.training.goal import Examinee, Goal, Measured

PROMPTS = [[{"role": "user", "content": f"Where does Ana live{', really' * (number % 5)}?"}] for number in range(7)]


@pytest.fixture(scope="module")
def checkpoint(tiny_model: TinyModel) -> Checkpoint:
    return Checkpoint(Source(tiny_model.path))


def examinee(checkpoint: Checkpoint, window: int = 4096, max_tokens: int = 12) -> Examinee:
    goal = Goal(PROMPTS, lambda replies: Measured(0.0, {}), max_tokens)
    return Examinee(goal, checkpoint._tokenizer, checkpoint.stops, window, Path("base"))


@pytest.fixture(scope="module")
def served(tiny_model: TinyModel) -> dict[int, str]:
    backend = LocalBackend(tiny_model.path)
    asked = [Request("generation", prompt, max_tokens=12) for prompt in PROMPTS]
    replies = dict(enumerate(backend.complete(request).text for request in asked))
    backend.close()
    return replies


@pytest.mark.parametrize("tokens", [16_384, 100, 1])  # all at once, a few, one by one
def test_replies_are_those_that_are_served(
    checkpoint: Checkpoint, served: dict[int, str], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    monkeypatch.setattr("memlora_plugins.training.goal._TOKENS_AT_ONCE", tokens)
    assert examinee(checkpoint).replies(checkpoint._model, "cpu", 0, 1) == served


def test_processes_share_the_questions(checkpoint: Checkpoint, served: dict[int, str]) -> None:
    shares = [examinee(checkpoint).replies(checkpoint._model, "cpu", process, 3) for process in range(3)]
    assert sorted(map(len, shares)) == [2, 2, 3]
    assert {place: text for share in shares for place, text in share.items()} == served


def test_more_processes_than_questions(checkpoint: Checkpoint) -> None:
    assert examinee(checkpoint).replies(checkpoint._model, "cpu", 8, 9) == {}


def test_a_prompt_without_room_for_a_reply_has_none(checkpoint: Checkpoint, served: dict[int, str]) -> None:
    window = len(checkpoint._prompt(Request("generation", PROMPTS[1]))) + 12
    replies = examinee(checkpoint, window).replies(checkpoint._model, "cpu", 0, 1)
    assert replies[1] == served[1]
    assert served[2].startswith(replies[2])
    assert replies[4] == ""


def test_numbers_that_are_none_end_it(checkpoint: Checkpoint) -> None:
    def broken(**asked: Any) -> Any:
        output = checkpoint._model(**asked)
        output.logits[:] = float("nan")
        return output

    with pytest.raises(FloatingPointError, match="not finite"):
        examinee(checkpoint).replies(broken, "cpu", 0, 1)
