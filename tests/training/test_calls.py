"""The record of a teacher's calls: what it survives."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.errors import DatasetError
from memlora_plugins.serving.base import Completion, Request
from memlora_plugins.training.calls import Call, CallLog, call_key
from memlora_plugins.types import Usage

REQUEST = Request("extraction", [{"role": "user", "content": "Hi"}], {"type": "object"}, 64)
CALL = Call(Completion('{"facts":[]}', "stop", Usage(1, 7, 3), "big"), 1.5)


def filled(path: Path, *keys: str) -> None:
    log = CallLog(path)
    for key in keys:
        log.add(key, REQUEST, CALL)
    log.close()


def kept(path: Path, *keys: str) -> list[Call | None]:
    log = CallLog(path)
    try:
        return [log.get(key) for key in keys]
    finally:
        log.close()


def test_a_later_run_finds_what_was_kept_and_the_same_beginning(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "calls.jsonl"
    log = CallLog(path)
    log.add("a", REQUEST, CALL)
    began = log.began
    log.close()
    again = CallLog(path)
    assert (again.get("a"), again.get("b"), again.began, len(again)) == (CALL, None, began, 1)
    again.close()


@given(st.text(), st.sampled_from(["stop", "length"]), st.text())
def test_any_reply_is_kept_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, text: str, reason: Any, model: str
) -> None:
    path = tmp_path_factory.mktemp("calls") / "calls.jsonl"
    call = Call(Completion(text, reason, Usage(1, 2, 3), model), 0.25)
    log = CallLog(path)
    log.add("k", REQUEST, call)
    log.close()
    assert kept(path, "k") == [call]


@pytest.mark.parametrize("cut", [1, 2, 40, -1])
def test_a_torn_last_line_costs_that_call_at_most(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "calls.jsonl"
    filled(path, "a", "b")
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    path.write_bytes(whole[: start + cut] if cut > 0 else whole[:-1])
    assert kept(path, "a", "b") == [CALL, CALL if cut < 0 else None]  # only the line's end was missing
    filled(path, "c")
    assert kept(path, "a", "c") == [CALL, CALL]


def test_a_large_record_takes_the_memory_of_its_replies(tmp_path: Path) -> None:
    """A synthesis of a large corpus has gigabytes of prompts on record."""
    path = tmp_path / "calls.jsonl"
    log = CallLog(path)
    long = Request("e", [{"role": "user", "content": "x" * 200_000}])
    for number in range(100):
        log.add(str(number), long, CALL)
    log.close()
    tracemalloc.start()
    try:
        kept(path, "0")
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 5
    finally:
        tracemalloc.stop()


def test_a_torn_first_line_is_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes(b'{"beg')
    assert kept(path, "a") == [None]
    assert "began" in json.loads(path.read_text())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[]\n", "line 1 is damaged"),
        (b'{"began": "soon"}\n', "not a record of calls"),
        (b'{"role": "user"}\n', "not a record of calls"),
        (b'{"began": "2025-01-01T00:00:00+00:00"}\n{"key": 1}\n{}\n', "line 2 is damaged"),
        (b'{"began": "2025-01-01T00:00:00+00:00"}\nrubbish\n{}\n', "line 2 is damaged"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line_and_released(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(DatasetError, match=complaint):
            CallLog(path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    log = CallLog(tmp_path / "calls.jsonl")
    with pytest.raises(DatasetError, match="Another process is writing"):
        CallLog(tmp_path / "calls.jsonl")
    log.close()
    filled(tmp_path / "calls.jsonl", "a")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        CallLog(tmp_path / "file" / "calls.jsonl")
    (tmp_path / "calls.jsonl").mkdir()
    for _ in range(2):
        with pytest.raises(DatasetError, match="cannot be used"):
            CallLog(tmp_path / "calls.jsonl")


class Disk:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self.room = file, room

    def write(self, line: bytes) -> int:
        taken: int = self._file.write(line[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    log = CallLog(path)
    log.add("a", REQUEST, CALL)
    disk = Disk(log._journal._file, 30)
    log._journal._file = disk  # type: ignore[assignment]
    with pytest.raises(DatasetError, match="make room and run it again"):
        log.add("b", REQUEST, CALL)
    assert log.get("b") is None
    disk.room = 10_000
    log.add("c", REQUEST, CALL)
    log.close()
    assert kept(path, "a", "b", "c") == [CALL, None, CALL]


@pytest.mark.parametrize(
    "change",
    [
        lambda: (Request("update", REQUEST.messages, REQUEST.schema, 64), "big"),
        lambda: (Request("extraction", [{"role": "user", "content": "Ho"}], REQUEST.schema, 64), "big"),
        lambda: (Request("extraction", REQUEST.messages, None, 64), "big"),
        lambda: (Request("extraction", REQUEST.messages, REQUEST.schema, 128), "big"),
        lambda: (Request("extraction", REQUEST.messages, REQUEST.schema, 64, 0.3), "big"),
        lambda: (REQUEST, "bigger"),
    ],
)
def test_what_makes_calls_differ(change: Callable[[], tuple[Request, str]]) -> None:
    assert call_key(*change()) != call_key(REQUEST, "big") == call_key(REQUEST, "big")
