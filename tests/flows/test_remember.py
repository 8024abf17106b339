"""Long messages in pieces; flows looked at without any I/O."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.flows.asking import ask
from memlora_plugins.flows.effects import Complete
from memlora_plugins.flows.remember import combine, pieces
from memlora_plugins.serving.base import Completion
from memlora_plugins.types import AddResult, Failure, Scope, Turn, Usage


@given(st.text(st.sampled_from("ab .?!\n"), max_size=400), st.integers(4, 60))
def test_pieces_lose_nothing_and_fit(text: str, size: int) -> None:
    found = pieces(text, size)
    assert all(piece.strip() and len(piece) <= size for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_pieces_end_at_sentences_where_there_are_some() -> None:
    assert pieces("One thing happened. Another thing too. And more.", 25) == [
        "One thing happened.",
        " Another thing too.",
        " And more.",
    ]


class Words(list[str]):
    """A reading that is never cut off."""

    truncated = False


def test_asking_yields_one_request_and_returns_its_reading() -> None:
    flow = ask("extraction", [], lambda text: Words(text.split()), schema={"type": "object"}, max_tokens=64)
    effect = next(flow)
    assert isinstance(effect, Complete)
    assert (effect.request.expert, effect.request.max_tokens, effect.request.temperature) == ("extraction", 64, 0.0)
    try:
        flow.send(Completion("two words", usage=Usage(1, 7, 2)))
    except StopIteration as stop:
        asked = stop.value
    assert (asked.reading, asked.usage, asked.truncated) == (["two", "words"], Usage(1, 7, 2), False)


def test_results_combine_in_order() -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    turn = Turn(
        id="1",
        scope=Scope("ana"),
        message_id="m",
        role="user",
        text="hi",
        created_at=now,
        recorded_at=now,
        position=0,
        pending=True,
    )
    one = AddResult(turns=(turn,), usage=Usage(1, 1, 1))
    two = AddResult(pending=(turn,), errors=(Failure("x", ValueError("y")),), usage=Usage(2, 2, 2))
    both = combine([one, two])
    assert (both.turns, both.pending, both.usage) == ((turn,), (turn,), Usage(3, 3, 3))
    assert str(both.errors[0]) == "x: y"
    assert combine([]) == AddResult()
