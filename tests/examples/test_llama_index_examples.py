"""The scripts in examples/with_llama_index/ run as they stand, with nano and the LLM that is scripted there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "with_llama_index"
SHARED = {"thinker.py", "library_of_documents.py"}
Run = Callable[..., str]


@pytest.fixture
def show(run: Run, tmp_path: Path) -> Run:
    """Runs one of them with a memory of its own; returns what it printed."""
    return lambda name: run(f"with_llama_index/{name}", str(tmp_path / "memory"))


def test_every_example_is_tested() -> None:
    tested = set(re.findall(r'show\("(\w+\.py)"\)', Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in FOLDER.glob("*.py")} == tested | SHARED


def test_every_example_says_how_to_run_it() -> None:
    for path in FOLDER.glob("*.py"):
        if path.name not in SHARED:
            assert f"\nRun: python examples/with_llama_index/{path.name} [FOLDER]\n" in path.read_text(encoding="utf-8")


def test_agent(show: Run) -> None:
    monday, friday = show("agent.py").removeprefix("- Monday\n").split("- Friday\n")
    assert monday == "Ana:   I live in Porto.\nAgent: I see.\nAna:   My dog is called Biscuit.\nAgent: I see.\n"
    assert re.findall("^Agent: (.*)$", friday, flags=re.M) == [
        "You told me: The user: I live in Porto.",
        "You told me: The user: My dog is called Biscuit.",
    ]


def test_rag_router(show: Run) -> None:
    assert re.sub(r" \(0\.\d\d\)$", "", show("rag_router.py"), flags=re.M) == (
        "Ana: Which office do I work in?\n"
        "memory: Oslo office\n"
        "  source: The user: I work in the Oslo office.\n"
        "Ana: Where is the office in Oslo?\n"
        "handbook: The office in Oslo is at 2 Fjord Lane.\n"
        "  source: The office in Porto is at 9 Harbour Street. The office in Oslo is at 2 Fjord Lane.\n"
        "Ana: What is my dog called?\n"
        "memory: Biscuit\n"
        "  source: The user: My dog is called Biscuit.\n"
        "Ana: When are dogs welcome in the office?\n"
        "handbook: Dogs are welcome in the office on Fridays.\n"
        "  source: Dogs are welcome in the office on Fridays. They stay out of the canteen.\n"
    )


def test_memo_engine(run: Run, isles_model: Path) -> None:
    def show(name: str) -> str:
        return run(f"with_llama_index/{name}", str(isles_model))

    assert show("memo_engine.py") == (
        "Question: In which town was the teacher of the Kelp Archive's founder born?\n"
        "- grounding: Who is the founder of the Kelp Archive? Ilse Varga\n"
        "- answer: Who taught Ilse Varga? Lena Moravec\n"
        "- answer: Where was Lena Moravec born? Tinhaven\n"
        "Answer: Tinhaven\n"
    )


def test_sub_questions(show: Run) -> None:
    assert show("sub_questions.py") == (
        "Ana: Which food am I allergic to, and what is in the canteen's satay?\n"
        "Answer: peanuts; The canteen's satay is chicken in a sauce of peanuts.\n"
        "- Sub question: Which food am I allergic to?\nResponse: peanuts\n"
        "- Sub question: what is in the canteen's satay?\n"
        "Response: The canteen's satay is chicken in a sauce of peanuts.\n"
        "- The user: I'm allergic to peanuts.\n"
        "- The canteen's satay is chicken in a sauce of peanuts. Its soup is made of vegetables. It opens at noon.\n"
    )
