from __future__ import annotations

import json

import pytest
from commands import Memlora
from fake_server import FakeModelServer, Fault
from scripted import decides, says

ANA = ("--user", "ana")
NONE = ("--model", "none")


def test_without_a_model_it_keeps_finds_and_says_what_waits(memlora: Memlora) -> None:
    added = memlora("add", "I moved to Lisbon in May.", *ANA, *NONE, "--at", "2025-05-02T10:00+02:00", "--name", "Ana")
    assert "kept 1 new turn" in added.stdout
    assert "1 turn(s) still to distil" in added.stdout
    assert "No model is configured" in added.stderr
    found = memlora("search", "Lisbon", *ANA).stdout
    assert "Ana: I moved to Lisbon in May." in found
    assert "2025-05-02" in found
    assert "nothing found" in memlora("search", "Lisbon", "--user", "ben").stdout
    assert "no facts of ana" in memlora("facts", *ANA).stdout
    refused = memlora("answer", "Where?", *ANA, *NONE, code=1).stderr
    assert refused.startswith("error: No model is configured")
    assert len(refused.splitlines()) == 1


def test_reading_and_erasing_need_no_model(memlora: Memlora, monkeypatch: pytest.MonkeyPatch) -> None:
    memlora("add", "I live in Porto.", *ANA, *NONE, "--no-distil")
    monkeypatch.setenv("MEMLORA_MODEL", "no-such-folder/at-all")
    assert "I live in Porto." in memlora("search", "Porto", *ANA).stdout
    assert "no facts" in memlora("facts", *ANA).stdout
    assert "I live in Porto." in memlora("export", *ANA).stdout
    assert "erased 1 item(s)" in memlora("erase", *ANA, "--yes").stdout
    assert "no-such-folder" in memlora("answer", "Where?", *ANA, code=1).stderr


def test_a_message_with_an_id_is_kept_once(memlora: Memlora) -> None:
    for _ in range(2):
        memlora("add", "-", *ANA, *NONE, "--id", "m1", "--no-distil", input="from standard input")
    hits = json.loads(memlora("search", "standard", *ANA, "--json").stdout)
    assert [(hit["text"], hit["sources"], hit["kind"]) for hit in hits] == [("from standard input", ["m1"], "turn")]


def test_facts_answers_and_history_with_a_model(
    memlora: Memlora, model_server: FakeModelServer, with_model: list[str]
) -> None:
    model_server.reply("extraction", says("Ana lives in Porto"), says("Ana lives in Lisbon"))
    model_server.reply("update", decides(("0", "UPDATE", "Ana lives in Lisbon")))
    model_server.reply("generation", "In Lisbon.")
    added = json.loads(memlora("add", "I live in Porto.", *ANA, "--json", *with_model).stdout)
    assert [event["operation"] for event in added["events"]] == ["ADD"]
    assert (
        "UPDATE Ana lives in Lisbon  (was: Ana lives in Porto)"
        in memlora("add", "I live in Lisbon.", *ANA, *with_model).stdout
    )
    [fact] = json.loads(memlora("facts", *ANA, "--json").stdout)
    assert fact["text"] == "Ana lives in Lisbon"
    assert "Ana lives in Lisbon" in memlora("facts", *ANA).stdout
    assert "Ana lives in Porto" in memlora("facts", *ANA, "--all").stdout
    versions = json.loads(memlora("history", fact["id"], *ANA, "--json").stdout)
    assert [version["text"] for version in versions] == ["Ana lives in Porto", "Ana lives in Lisbon"]
    assert "2 version(s)" in memlora("history", fact["id"], *ANA).stdout
    assert memlora("answer", "Where?", *ANA, *with_model).stdout == "In Lisbon.\n"
    assert json.loads(memlora("answer", "Where?", *ANA, "--json", *with_model).stdout)["text"] == "In Lisbon."
    other = memlora("history", fact["id"], "--user", "ben", code=1).stderr
    assert other.startswith("error: No fact")


def test_a_failing_model_loses_nothing(memlora: Memlora, model_server: FakeModelServer, with_model: list[str]) -> None:
    model_server.fail(Fault(status=400, message="no"))
    added = memlora("add", "I live in Porto.", *ANA, *with_model)
    assert "1 turn(s) still to distil" in added.stdout
    assert added.stderr.startswith("warning: extraction: ")
    assert "I live in Porto." in memlora("search", "Porto", *ANA).stdout


def test_erase_asks_first(memlora: Memlora) -> None:
    memlora("add", "a secret", *ANA, *NONE, "--no-distil")
    assert memlora("erase", *ANA, code=1, input="n\n").stderr.startswith("Erase everything remembered of ana")
    assert "a secret" in memlora("search", "secret", *ANA).stdout
    assert "erased 1 item(s) of ana" in memlora("erase", *ANA, "--yes").stdout
    assert "nothing found" in memlora("search", "secret", *ANA).stdout
    assert json.loads(memlora("erase", *ANA, "--yes", "--json").stdout)["erased"] == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("add", " ", *ANA), "empty"),
        (("add", "x", *ANA, "--at", "soon"), "'soon' is no time"),
        (("add", "x", "--user", " "), "non-blank"),
        (("search", " ", *ANA), "blank"),
        (("search", "x", *ANA, "--base-url", "http://x"), None),
        (("add", "x", *ANA, "--base-url", "http://127.0.0.1:9"), "model"),
        (("add", "x", *ANA, "--api", "telepathy"), "api"),
    ],
)
def test_bad_input_is_one_readable_line(memlora: Memlora, words: tuple[str, ...], complaint: str | None) -> None:
    if complaint is None:
        memlora(*words, code=2)
        return
    error = memlora(*words, code=1).stderr
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert complaint in error
