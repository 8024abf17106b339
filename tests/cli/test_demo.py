"""The demo with the real nano, the real MiniLM and the real store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Memlora
from fake_server import FakeModelServer
from scripted import says

from memlora_plugins.cli.demo_conversation import QUESTIONS, SESSIONS

ANSWERS = ("Madrid", "green tea", "peanuts", "nurse", "Biscuit", "3 March")


@pytest.mark.usefixtures("real_embedder")
def test_it_shows_what_was_kept_found_and_changed(memlora: Memlora) -> None:
    shown = memlora("demo").stdout
    for text in (
        "nano",
        "UPDATE",
        "DELETE",
        "24 turns, 9 current facts, 3 retired versions, 0 turns still to distil",
        "Where do I live?",
        "Maya: I just moved to Madrid.",
        "asked in the name of another user, finds nothing",
    ):
        assert text in shown, shown
    assert list(Path().iterdir()) == []  # the temporary folder was elsewhere, and is gone


@pytest.mark.usefixtures("real_embedder")
def test_every_question_gets_the_answer_of_today(memlora: Memlora, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    seen: dict[str, Any] = json.loads(memlora("demo", "--json", "--path", str(folder)).stdout)
    for asked, wanted in zip(seen["asked"], ANSWERS, strict=True):
        assert wanted in asked["answer"], asked
        assert any(wanted in hit["text"] for hit in asked["hits"]), asked
    assert [version["retired_by"] for version in seen["history"]] == ["UPDATE", None]
    assert seen["stranger"] == []
    again = memlora("demo", "--path", str(folder)).stdout  # nothing is doubled
    assert "24 turns, 9 current facts, 3 retired versions" in again
    assert f"--user maya --path {folder}" in again.replace("\n", "")
    assert "tennis" in memlora("search", "tennis", "--user", "maya", "--path", str(folder)).stdout


def test_with_a_model_server_that_one_speaks(
    memlora: Memlora, model_server: FakeModelServer, with_model: list[str]
) -> None:
    model_server.reply("extraction", says("Maya lives in Porto"))
    model_server.reply("generation", "The server speaks.")
    shown = memlora("demo", *with_model).stdout
    assert model_server.base_url in shown
    assert shown.count("The server speaks.") == len(QUESTIONS)


def test_what_a_model_cannot_do_is_said(memlora: Memlora, model_server: FakeModelServer, with_model: list[str]) -> None:
    model_server.reply("extraction", "no JSON")
    assert "warning: extraction" in memlora("demo", *with_model).stderr


@pytest.mark.usefixtures("no_nano")
def test_without_any_model_it_says_what_is_missing(memlora: Memlora) -> None:
    assert "No model is configured" in memlora("demo", code=1).stderr


def test_the_messages_have_ids_of_their_own() -> None:
    ids = [message.id for session in SESSIONS for message in session.messages()]
    assert len(ids) == len(set(ids)) == 24
