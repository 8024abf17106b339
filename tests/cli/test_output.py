from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins import Fact, FactEvent, Hit, Scope
from memlora_plugins.cli import output
from memlora_plugins.errors import ReplyError
from memlora_plugins.types import Failure

NOON = datetime(2025, 6, 15, 12, tzinfo=UTC)


def fact(text: str, **changes: Any) -> Fact:
    values = {"id": "1", "scope": Scope("ana"), "sources": ("m",), "valid_from": NOON, "recorded_at": NOON} | changes
    return Fact(text=text, **values)


def test_everything_the_library_returns_becomes_json() -> None:
    @dataclass
    class Holder:
        path: Path
        facts: list[Fact]
        failure: Failure

    holder = Holder(Path("a"), [fact("x", metadata={"n": 1})], Failure("update", ReplyError("odd", reply="secret")))
    made = json.loads(json.dumps(output.jsonable(holder)))
    assert made["path"] == "a"
    assert made["facts"][0]["valid_from"] == "2025-06-15T12:00:00+00:00"
    assert made["facts"][0]["scope"] == {"user_id": "ana", "agent_id": None, "session_id": None}
    assert made["facts"][0]["metadata"] == {"n": 1}
    assert made["failure"]["error"] == {"type": "ReplyError", "message": "odd"}


@given(st.text())
def test_what_is_shown_never_steers_a_terminal(text: str) -> None:
    shown = output.visible(text)
    assert len(shown) == len(text)
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert [a for a, b in zip(text, shown, strict=True) if a == b and a in "\n\t"] == [c for c in text if c in "\n\t"]


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.complain("error: a\n  b\x1b[31m")
    assert capsys.readouterr().err == "error: a b\ufffd[31m\n"


def shown(table: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "120")
    output.console().print(table)
    return capsys.readouterr().out


def test_hits_name_the_speaker_and_markup_stays_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = [
        Hit(kind="turn", text="[bold]hi[/bold] :smile:", score=1.5, id="1", created_at=NOON, role="user", name="Maya"),
        Hit(kind="turn", text="hello", score=1.25, id="2", created_at=NOON, role="assistant"),
        Hit(kind="fact", text="Maya greets", score=0.5, id="3", created_at=NOON),
    ]
    text = shown(output.hits_table("found", hits), capsys, monkeypatch)
    assert "Maya: [bold]hi[/bold] :smile:" in text
    assert "assistant: hello" in text
    assert "0.50" in text
    assert "2025-06-15" in text


def test_versions_show_both_times_and_what_ended_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fact("in Porto", retired_at=NOON, retired_by="UPDATE", valid_to=datetime(2025, 6, 8, tzinfo=UTC))
    text = shown(output.versions_table("v", [old, fact("in Lisbon", operation="UPDATE")]), capsys, monkeypatch)
    assert "in Porto" in text
    assert "2025-06-08" in text
    text = shown(output.facts_table("f", [old]), capsys, monkeypatch)
    assert "2025-06-08" in text


def test_an_event_names_what_was_replaced() -> None:
    assert output.event_line(FactEvent("UPDATE", fact("new"), fact("old"))) == "UPDATE new  (was: old)"
    assert output.event_line(FactEvent("NONE", fact("same"), fact("same"))) == "NONE   same"
