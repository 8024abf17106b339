"""A fake teacher on loopback: it notes what follows "I", and updates a memory that begins with the same words."""

from __future__ import annotations

import json
import re
from typing import Any

from fake_server import FakeModelServer
from scripted import decides, says

from memlora_plugins.experts import update


def fake_teacher() -> FakeModelServer:
    """Answers extraction and update by the rules of `extracts` and `updates`."""
    server = FakeModelServer()
    server.reply("extraction", extracts)
    server.reply("update", updates)
    return server


def prompt_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def extracts(body: dict[str, Any]) -> str:
    """ "user Ana: I like tea. I have a cat." tells "Ana like tea" and "Ana have a cat"."""
    line = next(line for line in reversed(prompt_of(body).split("\n")) if line.startswith("user"))
    speaker, _, said = line.partition(": ")
    name = speaker.removeprefix("user").strip() or "The user"
    return says(*(f"{name} {told}" for told in re.findall(r"\bI ([^.]+)\.", said)))


def updates(body: dict[str, Any]) -> str:
    """Like the paper's teacher it also repeats every old memory as NONE."""
    old, new = update.lists(prompt_of(body))
    items = [(str(number), "NONE", text) for number, text in enumerate(old)]
    for fact in new:
        start = fact.split()[:3]
        same = next((number for number, text in enumerate(old) if text.split()[:3] == start), None)
        if same is None:
            items.append((str(len(items)), "ADD", fact))
        else:
            items[same] = (str(same), "UPDATE", fact)
    return f"<think>Let me see.</think>\n```json\n{json.dumps(json.loads(decides(*items)), indent=2)}\n```"
