"""The demo with the real MiniLM and the real store; only the experts' replies are written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Memlora
from fake_server import FakeModelServer

from memlora_plugins.cli.demo_conversation import EXAMPLE
from memlora_plugins.cli.scripted import ScriptedBackend
from memlora_plugins.embedding import SentenceTransformerEmbedder
from memlora_plugins.errors import BackendRequestError
from memlora_plugins.serving.base import Backend, Completion, Request


@pytest.fixture
def real_embedder(memlora: Memlora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memlora_plugins.embedding.SentenceTransformerEmbedder", SentenceTransformerEmbedder)


@pytest.mark.usefixtures("real_embedder")
def test_it_shows_what_was_kept_found_and_changed(memlora: Memlora) -> None:
    shown = memlora("demo").stdout
    assert "No model runs in this demo" in shown[:600]
    for text in (
        "UPDATE",
        "DELETE",
        "NONE",
        "28 turns, 10 current facts, 7 retired versions, 0 turns still to distil",
        "Where does Maya live now?",
        "In Lisbon, in Alfama.",
        "Maya drinks four cups of coffee a night",
        "asked in the name of another user, finds nothing",
    ):
        assert text in shown, shown
    assert list(Path().iterdir()) == []  # the temporary folder was elsewhere, and is gone


@pytest.mark.usefixtures("real_embedder")
def test_the_answer_to_every_question_is_among_the_hits(memlora: Memlora, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    seen: dict[str, Any] = json.loads(memlora("demo", "--json", "--path", str(folder)).stdout)
    needles = ("Lisbon", "13", "tea", "peanuts", "São José", "swim")
    for asked, needle in zip(seen["asked"], needles, strict=True):
        assert any(needle in hit["text"] for hit in asked["hits"]), asked
    assert [version["retired_by"] for version in seen["history"]] == ["UPDATE", None]
    assert seen["stranger"] == []
    again = memlora("demo", "--path", str(folder)).stdout  # nothing is doubled
    assert "28 turns, 10 current facts, 7 retired versions" in again
    assert f"--user maya --path {folder}" in again.replace("\n", "")
    assert "Tom" in memlora("search", "climbing", "--user", "maya", "--path", str(folder)).stdout


def test_with_a_model_server_that_one_speaks(
    memlora: Memlora, model_server: FakeModelServer, with_model: list[str]
) -> None:
    script = ScriptedBackend(EXAMPLE)
    for expert in ("extraction", "update"):
        model_server.reply(expert, lambda body, of=expert: script.complete(Request(of, body["messages"])).text)
    model_server.reply("generation", "The server speaks.")
    shown = memlora("demo", *with_model).stdout
    assert "No model runs" not in shown
    assert model_server.base_url in shown
    assert shown.count("The server speaks.") == len(EXAMPLE.questions)


def test_what_a_model_cannot_do_is_said(memlora: Memlora, model_server: FakeModelServer, with_model: list[str]) -> None:
    model_server.reply("extraction", "no JSON")
    assert "warning: extraction" in memlora("demo", *with_model).stderr


def test_the_script_has_no_reply_to_anything_else() -> None:
    script = ScriptedBackend(EXAMPLE)
    assert isinstance(script, Backend)
    for expert in ("extraction", "update", "generation", "vision"):
        with pytest.raises(BackendRequestError, match=f"no reply of the {expert} expert"):
            script.complete(Request(expert, [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]))


async def test_the_script_streams_and_answers_asynchronously() -> None:
    script = ScriptedBackend(EXAMPLE)
    question = EXAMPLE.questions[0]
    request = Request("generation", [{"role": "user", "content": question.text}])
    assert (await script.acomplete(request)).text == question.answer
    pieces = [piece async for piece in script.astream(request)]
    assert pieces[0] == question.answer
    assert isinstance(pieces[-1], Completion)
    await script.aclose()


def test_the_script_fits_the_conversation() -> None:
    facts = [fact for session in EXAMPLE.sessions for line in session.lines for fact in line.facts]
    for decision in EXAMPLE.decisions:
        assert facts.index(decision.old) < facts.index(decision.fact)
    ids = [message.id for session in EXAMPLE.sessions for message in session.messages()]
    assert len(ids) == len(set(ids)) == 28
