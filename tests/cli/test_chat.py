from __future__ import annotations

import json

import pytest
from commands import Memlora
from fake_server import FakeModelServer, Fault
from scripted import says

ANA = ("--user", "ana")
NONE = ("--model", "none")


def test_without_a_model_it_says_what_it_does_and_remembers(memlora: Memlora) -> None:
    lines = [
        "I moved to Lisbon.",
        "",
        "Where is Lisbon?",
        "/facts",
        "/search Lisbon",
        "/search",
        "/what",
        "/quit",
        "lost",
    ]
    chat = memlora("chat", *ANA, *NONE, input="\n".join(lines))
    assert "No model answers" in chat.stdout
    assert "nothing is known yet" in chat.stdout
    assert "/search WORDS" in chat.stdout
    assert "error: The question is blank" in chat.stderr
    hits = json.loads(memlora("search", "Lisbon", *ANA, "--json").stdout)
    assert {hit["text"] for hit in hits} == {"I moved to Lisbon.", "Where is Lisbon?"}


@pytest.mark.usefixtures("tiny_nano")
def test_nano_answers_where_nothing_else_is_said(memlora: Memlora) -> None:
    chat = memlora("chat", *ANA, input="Hello!\n/quit\n")
    assert "No model answers" not in chat.stdout
    assert "No model is configured" not in chat.stderr
    [line, *_] = [json.loads(line) for line in memlora("export", *ANA).stdout.splitlines()]
    assert line["text"] == "Hello!"


@pytest.mark.usefixtures("real_embedder")
def test_who_tells_nano_of_a_move_is_answered_with_the_new_city_and_sees_the_old_one_in_the_history(
    memlora: Memlora,
) -> None:
    for line in ("I live in Porto.", "I moved to Madrid."):  # a chat ends with what was said distilled
        memlora("chat", *ANA, input=f"{line}\n/quit\n")
    assert "Madrid" in memlora("chat", *ANA, input="Where do I live?\n/quit\n").stdout
    [fact] = json.loads(memlora("facts", *ANA, "--json").stdout)
    history = memlora("history", fact["id"], *ANA).stdout
    assert "Porto" in history
    assert "UPDATE" in history


def test_with_a_model_it_answers_and_learns(
    memlora: Memlora, model_server: FakeModelServer, with_model: list[str]
) -> None:
    model_server.reply("extraction", says("Ana lives in Lisbon"))
    model_server.reply("generation", "Noted\x1b[2J!")
    chat = memlora("chat", *ANA, *with_model, input="I live in Lisbon.\n")  # ends as with Ctrl-D
    assert "Noted\ufffd[2J!" in chat.stdout
    assert [fact["text"] for fact in json.loads(memlora("facts", *ANA, "--json").stdout)] == ["Ana lives in Lisbon"]
    kept = [json.loads(line) for line in memlora("export", *ANA).stdout.splitlines()]
    assert [row["role"] for row in kept if row["kind"] == "turn"] == ["user", "assistant"]


def test_a_failing_model_does_not_end_the_conversation(
    memlora: Memlora, model_server: FakeModelServer, with_model: list[str]
) -> None:
    model_server.fail(Fault(status=400, message="broken"))
    model_server.reply("generation", "Hello again.")
    chat = memlora("chat", *ANA, *with_model, input="Hello?\nHello?\n")
    assert "error: " in chat.stderr
    assert "Hello again." in chat.stdout
    kept = [json.loads(line) for line in memlora("export", *ANA).stdout.splitlines()]
    assert [row["role"] for row in kept] == ["user", "user", "assistant"]


def test_what_could_not_be_distilled_is_said_at_the_end(
    memlora: Memlora, model_server: FakeModelServer, with_model: list[str]
) -> None:
    model_server.reply("extraction", "no JSON at all")
    chat = memlora("chat", *ANA, *with_model, input="I live in Lisbon.\n")
    assert "warning: extraction" in chat.stderr


def test_erase_asks_first(memlora: Memlora) -> None:
    chat = memlora("chat", *ANA, *NONE, input="a secret\n/erase\nn\n/search secret\n/erase\ny\n/search secret\n")
    assert chat.stdout.count("user: a secret") == 1
    assert "erased 1 item(s)" in chat.stdout
