"""Invented conversations in LoCoMo's form, and a fake model that remembers and answers them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fake_server import FakeModelServer
from scripted import says

THINGS = ("cello", "bicycle", "garden", "bakery", "canoe", "telescope")
COLOURS = ("red", "blue", "green", "grey", "white", "brown")


def talk(id: str, one: str, other: str, *, sessions: int = 2) -> dict[str, Any]:
    """Both own something of a colour in each session; of each thing the colour is asked, of one person a wrong one."""
    spoken: dict[str, Any] = {"speaker_a": one, "speaker_b": other}
    questions: list[dict[str, Any]] = []
    for number in range(1, sessions + 1):
        thing, colour = THINGS[(number - 1) % len(THINGS)], COLOURS[(number - 1) % len(COLOURS)]
        lines = [
            (one, f"I bought a {thing}, it is {colour}."),
            (other, f"Nice! Mine is a tent, it is {COLOURS[-number]}."),
        ]
        spoken[f"session_{number}"] = [
            {"speaker": who, "dia_id": f"D{number}:{place}", "text": text}
            for place, (who, text) in enumerate(lines, start=1)
        ]
        spoken[f"session_{number}_date_time"] = f"1:56 pm on {7 + number} May, 2023"
        asked = f"Which colour is the {thing} of {one}?"
        questions.append(
            {"question": asked, "answer": colour, "category": 1 + number % 4, "evidence": [f"D{number}:1"]}
        )
        asked = f"Which colour is the {thing} of {other}?"
        questions.append({"question": asked, "adversarial_answer": colour, "category": 5, "evidence": [f"D{number}:1"]})
    return {"sample_id": id, "conversation": spoken, "qa": questions}


def write(file: Path, talks: Sequence[dict[str, Any]] | None = None) -> Path:
    """Two conversations, or these."""
    file.write_text(json.dumps(talks or [talk("conv-a", "Ana", "Ben"), talk("conv-b", "Mia", "Leo")]))
    return file


def serve(server: FakeModelServer) -> FakeModelServer:
    """Has a fake server note whole lines and answer with the colour of the thing that is asked about; the base model
    answers everything with "red, I think"."""

    def noted(body: dict[str, Any]) -> str:
        line = re.findall(r"user[^:\n]*: (.*)", str(body["messages"][-1]["content"]))[-1]
        return says(line)

    def answered(body: dict[str, Any]) -> str:
        if body["model"] == server.model:
            return "red, I think"
        prompt = str(body["messages"][-1]["content"])
        thing, who = re.findall(r"Which colour is the (\w+) of (\w+)\?", prompt)[-1]
        told = re.findall(rf"I bought a {thing}, it is (\w+)", prompt)
        return told[-1] if told and who in ("Ana", "Mia") else "I do not know."

    server.reply("extraction", noted)
    server.reply("update", '{"memory":[]}')
    server.reply("generation", answered)
    return server
