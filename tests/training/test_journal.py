"""Rows that survive: torn lines, damaged ones, full disks, and two processes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.errors import DatasetError
from memlora_plugins.training.journal import Journal


@given(
    kept=st.lists(st.dictionaries(st.text(), st.text() | st.integers()), max_size=4),
    last=st.dictionaries(st.text(), st.text()),
    cut=st.integers(min_value=0),
)
def test_whatever_is_torn_off_earlier_rows_stay(
    tmp_path_factory: pytest.TempPathFactory, kept: list[dict[str, Any]], last: dict[str, Any], cut: int
) -> None:
    file = tmp_path_factory.mktemp("journal") / "rows.jsonl"
    with Journal(file) as journal:
        for row in kept:
            journal.add(row)
        before = file.stat().st_size
        journal.add(last)
    whole = file.read_bytes()
    file.write_bytes(whole[: before + cut % (len(whole) - before + 1)])
    with Journal(file) as journal:
        assert journal.rows in (kept, [*kept, last])
        journal.add({"more": 1})
    with Journal(file) as journal:
        assert journal.rows[-1] == {"more": 1}
        assert journal.rows[: len(kept)] == kept


def test_a_damaged_line_is_named_and_the_file_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\nnonsense\n{"b": 2}\n')
    for _ in range(2):  # the first failure holds no lock
        with pytest.raises(DatasetError, match="line 2 is damaged"):
            Journal(file)
    assert file.read_text().count("\n") == 3


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "rows.jsonl"), pytest.raises(DatasetError, match="Another process"):
        Journal(tmp_path / "rows.jsonl")
    Journal(tmp_path / "rows.jsonl").close()
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DatasetError, match="cannot be used"):
        Journal(tmp_path / "folder.jsonl")


def test_a_full_disk_leaves_no_half_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with Journal(file) as journal:
        journal.add({"a": 1})
        whole = file.read_bytes()
        real = journal._file

        class Full:
            """Takes half of what it is given, as a file does on a full disk."""

            def write(self, line: bytes) -> int | None:
                return real.write(line[: len(line) // 2])

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        journal._file = Full()  # type: ignore[assignment]
        with pytest.raises(DatasetError, match="make room"):
            journal.add({"b": 2})
        assert file.read_bytes() == whole
        assert journal.rows == [{"a": 1}]


def test_what_is_only_written_is_not_held(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with Journal(file, written_only=("long",)) as journal:
        journal.add({"long": "…", "short": 1})
        assert journal.rows == [{"short": 1}]
    with Journal(file, written_only=("long",)) as journal:
        assert journal.rows == [{"short": 1}]
    with Journal(file) as journal:
        assert journal.rows == [{"long": "…", "short": 1}]
