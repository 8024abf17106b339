"""The scripts in examples/with_langchain/ run as they stand, with nano and the chat model that is scripted there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "with_langchain"
Run = Callable[..., str]


@pytest.fixture
def show(run: Run, tmp_path: Path) -> Run:
    """Runs one of them with a memory of its own; returns what it printed."""
    return lambda name: run(f"with_langchain/{name}", str(tmp_path / "memory"))


def test_every_example_is_tested() -> None:
    tested = set(re.findall(r'show\("(\w+\.py)"\)', Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in FOLDER.glob("*.py")} == tested | {"brain.py"}


def test_every_example_says_how_to_run_it() -> None:
    for path in FOLDER.glob("*.py"):
        if path.name != "brain.py":
            assert f"\nRun: python examples/with_langchain/{path.name} [FOLDER]\n" in path.read_text(encoding="utf-8")


def test_chat_agent(show: Run) -> None:
    monday, friday = show("chat_agent.py").removeprefix("- Monday\n").split("- Friday\n")
    assert monday == "Ana:   I live in Porto.\nAgent: I see.\nAna:   My dog is called Biscuit.\nAgent: I see.\n"
    assert re.findall("^Agent: (.*)$", friday, flags=re.M) == [
        "You told me: The user: I live in Porto.",
        "You told me: The user: My dog is called Biscuit.",
    ]


def test_classic_chain(show: Run) -> None:
    first, second = show("classic_chain.py").split("- second conversation\n")
    assert "You told me" not in first
    assert re.findall('^Chain: You told me: .* (Porto|peanuts)[."]+$', second, flags=re.M) == ["Porto", "peanuts"]


def test_history(show: Run) -> None:
    told, _, kept = show("history.py").partition("- the first session, as it is kept\n")
    assert told.endswith(
        "- second session\nAna:   What is my dog called?\nReply: You told me: The user: My dog is called Biscuit.\n"
    )
    assert kept == "human: I live in Porto.\nai: I see.\nhuman: My dog is called Biscuit.\nai: I see.\n"


def test_memo_agent(run: Run, isles_model: Path) -> None:
    def show(name: str) -> str:
        return run(f"with_langchain/{name}", str(isles_model))

    lines = show("memo_agent.py").splitlines()
    assert lines[0] == " human: In which town was the teacher of the Kelp Archive's founder born?"
    assert lines[2::2] == [
        "  tool: 1. Who is the founder of the Kelp Archive? -> Ilse Varga",
        "  tool: 1. Who taught Ilse Varga? -> Lena Moravec",
        "  tool: 1. Where was Lena Moravec born? -> Tinhaven",
    ]
    assert lines[-1] == "    ai: In Tinhaven."


def test_memory_tools(show: Run) -> None:
    saved, found, forgotten, after = show("memory_tools.py").split(" human: ")[1:]
    assert "tool: Saved: The user is allergic to peanuts." in saved
    [id] = re.findall(r"^(\S+) \[.*\] The user is allergic to peanuts\.$", found, flags=re.M)
    assert found.endswith("ai: Peanuts.\n")
    assert f"forget_memory({{'memory_ids': ['{id}']}})" in forgotten
    assert "peanuts" not in after
    assert after.endswith("ai: Nothing that I know of.\n")


def test_two_users(show: Run) -> None:
    lines = show("two_users.py").splitlines()
    assert lines[2:] == [
        "ana: Where do I live? -> You told me: The user: I live in Porto.",
        "ben: Where do I live? -> You told me: The user: I live in Oslo.",
    ]
    for line in lines:
        assert ("Oslo" in line) == line.startswith("ben")
