"""The demo with everything real: nano, MiniLM and the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Memlora
from fake_server import FakeModelServer
from scripted import says

from memlora_plugins.cli.demo_conversation import QUESTIONS, SESSIONS


@pytest.mark.usefixtures("real_embedder")
def test_it_shows_what_was_kept_found_and_changed(memlora: Memlora) -> None:
    demo = memlora("demo")
    assert demo.stderr == ""
    shown = demo.stdout
    assert "The experts are nano" in shown[:600]
    for text in (
        "ADD",
        "UPDATE",
        "DELETE",
        "24 turns, 9 current facts, 3 retired versions, 0 turns still to distil",
        "Where does Maya live?",
        "Maya lives in Porto",
        "Maya lives in Lisbon",
        "asked in the name of another user, finds nothing",
    ):
        assert text in shown, shown
    assert list(Path().iterdir()) == []  # the temporary folder was elsewhere, and is gone


@pytest.mark.usefixtures("real_embedder")
def test_every_answer_is_right_and_stands_among_the_hits(memlora: Memlora, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    seen: dict[str, Any] = json.loads(memlora("demo", "--json", "--path", str(folder)).stdout)
    assert [asked["question"] for asked in seen["asked"]] == list(QUESTIONS)
    for asked, answer in zip(
        seen["asked"], ("Lisbon", "nurse", "3 March", "green tea", "peanuts", "Biscuit"), strict=True
    ):
        assert answer in asked["answer"], asked
        assert any(answer in hit["text"] for hit in asked["hits"]), asked
    assert [version["retired_by"] for version in seen["history"]] == ["UPDATE", None]
    assert seen["stranger"] == []
    again = memlora("demo", "--path", str(folder)).stdout  # nothing is doubled
    assert "24 turns, 9 current facts, 3 retired versions" in again
    assert f"--user maya --path {folder}" in again.replace("\n", "")
    assert "tennis" in memlora("search", "tennis", "--user", "maya", "--path", str(folder)).stdout


def test_with_a_model_server_that_one_speaks(
    memlora: Memlora, model_server: FakeModelServer, with_model: list[str]
) -> None:
    model_server.reply("extraction", says())
    model_server.reply("generation", "The server speaks.")
    shown = memlora("demo", *with_model).stdout
    assert "The experts are nano" not in shown
    assert model_server.base_url in shown
    assert shown.count("The server speaks.") == len(QUESTIONS)


def test_what_a_model_cannot_do_is_said(memlora: Memlora, model_server: FakeModelServer, with_model: list[str]) -> None:
    model_server.reply("extraction", "no JSON")
    assert "warning: extraction" in memlora("demo", *with_model).stderr


def test_every_line_has_an_id_of_its_own() -> None:
    ids = [message.id for session in SESSIONS for message in session.messages()]
    assert len(ids) == len(set(ids)) == 24
