"""What a Memory model's folder says of itself, read and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memlora_plugins.errors import DatasetError, SettingsError
from memlora_plugins.memo.card import MemoCard, TrainedDocument, read_card, read_trained_documents, write_card

DOCUMENT = TrainedDocument(id="a.txt", title="A", sha256="0" * 64)


def test_a_card_is_written_beside_what_else_is_noted(tmp_path: Path) -> None:
    (tmp_path / "memlora.json").write_text('{"base_sha256": "abc", "memo": {"documents": [], "of_a_later_version": 1}}')
    card = read_card(tmp_path).model_copy(update={"abstain_below": 0.25, "documents": (DOCUMENT,)})
    write_card(tmp_path, card)
    assert json.loads((tmp_path / "memlora.json").read_text()) == {
        "base_sha256": "abc",
        "memo": {
            "documents": [{"id": "a.txt", "title": "A", "sha256": "0" * 64}],
            "abstain_below": 0.25,
            "held_out": None,
            "of_a_later_version": 1,
        },
    }
    assert read_card(str(tmp_path)) == card


def test_a_merged_model_says_what_it_was_merged_from(tmp_path: Path) -> None:
    card = MemoCard(merged_from=({"folder": "one"}, {"folder": "two"}))
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        (None, "is no Memory model.*memo train"),
        ("{}", "is no Memory model"),
        ("{", "cannot be read.*Restore it"),
        ("[]", "must hold a JSON object"),
        ('{"memo": {"documents": [{"title": "A"}]}}', r"memo\.documents\.0\.id: Field required"),
        ('{"memo": {"abstain_below": "often"}}', r"memo\.abstain_below"),
        ('{"memo": {"documents": [{"id": "a", "sha256": "x"}]}}', r"memo\.documents\.0\.sha256"),
    ],
)
def test_what_is_no_card_is_explained(tmp_path: Path, notes: str | None, told: str) -> None:
    if notes is not None:
        (tmp_path / "memlora.json").write_text(notes)
    with pytest.raises(SettingsError, match=told):
        read_card(tmp_path)


def test_a_list_of_documents(tmp_path: Path) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text(f'{DOCUMENT.model_dump_json()}\n\n{{"id": "b"}}\n')
    assert read_trained_documents(file) == [DOCUMENT, TrainedDocument(id="b")]
    file.write_text('{"id": "b"}\n{"name": "c"}\n')
    with pytest.raises(DatasetError, match=r"documents.jsonl, line 2: id: Field required"):
        read_trained_documents(file)
    file.write_text("\n")
    with pytest.raises(DatasetError, match=r"is empty\. A line is"):
        read_trained_documents(file)
