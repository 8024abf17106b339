"""Fakes of large models for the questions of `hops`: an Executive that can read, a Memory model, and a judge.

Each is what a `FakeModelServer` replies by: the body of a chat request to the text of the reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hops
from fake_server import FakeModelServer
from scripted_memo import DONE, confirm, ground


def reads(body: dict[str, Any]) -> str:
    """Knows who was born where, and finds the river in the prompt alone: in documents, or in what the Memory model
    said.
    """
    prompt = body["messages"][-1]["content"]
    person = next(person for person in hops.PEOPLE if person in prompt.rpartition("Question: ")[2])
    town = hops.PEOPLE[person]
    river = re.search(rf"The river (\w+) runs through {town}", prompt)
    if "response_format" not in body:
        return river[1] if river else "I don't know"
    keys = set(body["response_format"]["json_schema"]["schema"]["properties"])
    if keys == {"sub_questions"}:
        return json.dumps(ground(f"Which river runs through {town}?"))
    if "confirmed_entity" in keys:
        return json.dumps(confirm(town))
    if "decision" in keys:
        return json.dumps(DONE)
    return json.dumps({"final_answer": river[1] if river else "unknown", "justification": ""})


def remembers(body: dict[str, Any]) -> str:
    """Knows the rivers of all towns but one."""
    question = body["messages"][-1]["content"]
    town = next((town for town in hops.RIVERS if town in question and town != "Dunmere"), None)
    return f"The river {hops.RIVERS[town]} runs through {town}." if town else "I don't know."


def judges(body: dict[str, Any]) -> str:
    """Finds right what is a right answer word by word."""
    prompt = body["messages"][0]["content"]
    data, _ = json.JSONDecoder().raw_decode(prompt[prompt.index('{\n "question"') :])
    right = data["given answer"] in data["right answers"]
    return json.dumps({"reason": "compared", "label": "CORRECT" if right else "WRONG"})


@contextmanager
def executive() -> Iterator[FakeModelServer]:
    """A fake Executive on loopback, called `large`."""
    with FakeModelServer(model="large") as server:
        server.reply("generation", reads)
        server.reply("executive", reads)
        yield server


@contextmanager
def memory_server() -> Iterator[FakeModelServer]:
    """A fake server of a whole Memory model."""
    with FakeModelServer(model="memory") as server:
        server.reply("memory", remembers)
        yield server


@contextmanager
def judge() -> Iterator[FakeModelServer]:
    """A fake judge on loopback, called `strict`."""
    with FakeModelServer(model="strict") as server:
        server.reply("judge", judges)
        yield server
