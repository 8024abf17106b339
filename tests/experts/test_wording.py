from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.experts import MEMORY_BEGIN, MEMORY_END, mark_injected, strip_injected
from memlora_plugins.experts.wording import content_words, day, one_line, overlap, speaker

B, E = MEMORY_BEGIN, MEMORY_END


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("nothing here", "nothing here"),
        (f"a{B}x{E}b", "ab"),
        (f"a{B}x{E}b{B}y{E}c", "abc"),
        (f"a{B}x{B}y{E}z{E}b", "ab"),
        (f"a{B}x{B}y{E}z{B}w{E}v{E}b", "ab"),
        (f"a{B}b", f"a{B}b"),
        (f"a{E}b", f"a{E}b"),
        (f"a{E}b{B}c", f"a{E}b{B}c"),
        (f"I typed {B} once. {B}x{E} Bye", f"I typed {B} once.  Bye"),
        (f"{B}x{E} and {E} typed", f" and {E} typed"),
        (f"a {B} b {B}x{E} c {B}y{E} d", f"a {B} b  c  d"),
    ],
)
def test_only_whole_blocks_of_injected_memories_go(text: str, left: str) -> None:
    assert strip_injected(text) == left


_typed = st.lists(st.one_of(st.sampled_from([B, E]), st.text("ab \n<>/", max_size=4)), max_size=12).map("".join)


@given(_typed)
def test_stripping_is_idempotent_and_hides_whatever_was_injected(text: str) -> None:
    assert strip_injected(strip_injected(text)) == strip_injected(text)
    assert strip_injected(f"before {mark_injected(text)} after") == "before  after"


def test_many_markers_take_no_time() -> None:
    assert strip_injected(B * 20_000 + E * 20_000) == ""
    assert strip_injected(E * 20_000 + B * 20_000) == E * 20_000 + B * 20_000


@given(st.text())
def test_one_line_is_one_line_and_stays_as_it_is(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert one_line(line) == line
    assert "<|" not in line
    line.encode()


def test_ordinary_text_is_left_alone() -> None:
    for text in (
        "a < b > c, x<y",
        "Emoji \U0001f468\u200d\U0001f469\u200d\U0001f467 and Zoë, 猫!",
        "list[int] | None <b>",
    ):
        assert one_line(text) == text


def test_speakers_are_named_once() -> None:
    assert speaker("user", None) == "user"
    assert speaker("user", " Ana:\nBo ") == "user Ana Bo"
    assert speaker("assistant", "Assistant") == "assistant"
    assert len(speaker("user", "x" * 500)) == 65


def test_days_are_utc_with_the_weekday() -> None:
    assert day(datetime(2024, 5, 6)) == "Mon 2024-05-06"
    assert day(datetime(2024, 5, 6, 23, tzinfo=timezone(-timedelta(hours=3)))) == "Tue 2024-05-07"
    assert day(datetime.min.replace(tzinfo=UTC)) == "Mon 0001-01-01"


def test_overlap_counts_what_texts_are_about() -> None:
    assert overlap("Ana is in Rome", "Bo is in Rome") == 0.5
    assert overlap("Ana is a nurse", "Bo was at the sea") == 0.0
    assert overlap("", "x") == 0.0
    assert content_words("who is it") == {"who", "is", "it"}
