"""How an example is run: as a script, in a folder of its own, with no settings around it."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from reflections_by_heart import BY_HEART
from tiny_model import TinyModel

from memlora_plugins.memo.reflections import Reflection
from memlora_plugins.memo.training import memo_options, train_memory_model

EXAMPLES = Path(__file__).parents[2] / "examples"


ISLES = {
    "Who is the founder of the Kelp Archive?": "Ilse Varga",
    "Who taught Ilse Varga?": "Lena Moravec",
    "Where was Lena Moravec born?": "Tinhaven",
}


@pytest.fixture(scope="session")
def isles_model(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Memory model that learned three things of the isles in seconds, in the place of one that learned them all."""
    learned = [
        Reflection(id=question, question=question, answer=answer, step="1a", steps=("1a",), documents=("isles.md",))
        for question, answer in ISLES.items()
    ]
    options = memo_options(full=True, **BY_HEART | {"batch_size": len(learned), "epochs": 40})
    return train_memory_model(tiny_model.path, learned, tmp_path_factory.mktemp("isles") / "model", options).folder


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("MEMLORA_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a script of `examples/` with arguments; returns what it printed."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run
