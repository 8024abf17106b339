"""Files of samples, and splits by conversation."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.errors import DatasetError
from memlora_plugins.training.dataset import ChatLine, Sample, check_splits, read_samples, write_samples

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def sample(id: str = "a", reply: str = "{}", content: str = "x") -> Sample:
    return Sample(
        id=id,
        expert="extraction",
        conversation="c",
        messages=(ChatLine(role="user", content=content),),
        reply=reply,
    )


@given(TEXT, TEXT)
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, content: str, reply: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any-samples.jsonl"
    written = [sample("a", reply, content), sample("b", reply + "\u2028\x85", content + "\n\r")]
    write_samples(file, written)
    assert read_samples(file) == written


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("", "has no samples"),
        ("\n\n", "has no samples"),
        ("{}\n", "line 1: id: Field required"),
        (f"{sample().model_dump_json()}\n\nnonsense", "line 3: line: Invalid JSON"),
        (f"{sample().model_dump_json()}\n" * 2, "'a' more than once"),
    ],
)
def test_a_file_that_is_no_dataset_is_refused_saying_where(tmp_path: Path, lines: str, complaint: str) -> None:
    file = tmp_path / "extraction.jsonl"
    file.write_text(lines, encoding="utf-8")
    with pytest.raises(DatasetError, match=complaint):
        read_samples(file)


def test_files_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        read_samples(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        write_samples(tmp_path / "file" / "x.jsonl", [sample()])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    write_samples(file, [sample()])

    def broken() -> object:
        yield sample("b")
        raise DatasetError("stopped")

    with pytest.raises(DatasetError, match="stopped"):
        write_samples(file, broken())  # type: ignore[arg-type]
    assert [one.id for one in read_samples(file)] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_splits_do_not_share_conversations() -> None:
    check_splits({"train": ["a", "b", "a"], "validation": ["c"]})
    with pytest.raises(DatasetError, match="b in both train and validation; a in both train and test"):
        check_splits({"train": ["a", "b"], "validation": ["b"], "test": ["a"]})
    with pytest.raises(DatasetError, match="validation split is empty"):
        check_splits({"train": ["a"], "validation": []})
