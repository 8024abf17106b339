"""The package as a whole: what it exports, and the wheel that people install."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import llama_index.memory.memlora as package
from llama_index.memory.memlora import MemLoRAQueryEngine, MemLoRARetriever, MemLoRAToolSpec
from memlora_plugins import Memory

PROJECT = Path(__file__).parents[1]


def test_every_name_is_there() -> None:
    for name in package.__all__:
        assert getattr(package, name).__doc__
    for event in (
        package.ExpertEndEvent,
        package.MeMoInteractionEvent,
        package.MeMoStageEvent,
        package.MemoryAddEvent,
        package.MemoryWarningEvent,
    ):
        assert event.class_name() == event.__name__


def test_nothing_tells_what_is_remembered(told: Memory) -> None:
    for kind in (MemLoRARetriever, MemLoRAQueryEngine, MemLoRAToolSpec):
        assert "Porto" not in repr(kind(memory=told, user_id="ana"))


def test_the_namespaces_belong_to_nobody() -> None:
    for folder in ("llama_index", "llama_index/memory"):
        assert not (PROJECT / folder / "__init__.py").exists()


@pytest.mark.timeout(600)
def test_the_wheel_holds_the_package_alone_and_works_beside_others(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(PROJECT, source, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    kept = [name for name in names if ".dist-info/" not in name]
    assert {Path(name).parent.as_posix() for name in kept} == {"llama_index/memory/memlora"}
    assert "llama_index/memory/memlora/py.typed" in kept
    assert {Path(name).name for name in kept} >= {path.name for path in Path(package.__file__).parent.glob("*.py")}
    # Installed into a folder of its own, it and llama-index-core are found in one namespace, and so is a third package.
    folder = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", folder, wheel], check=True)
    other = tmp_path / "other" / "llama_index" / "memory" / "other"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(tmp_path / 'other')!r}]\n"
        "import llama_index.memory.other, llama_index.core, llama_index.memory.memlora as ours\n"
        "print(ours.__file__, ours.MemLoRAMemory.class_name())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(folder / "llama_index/memory/memlora/__init__.py"), "MemLoRAMemory"]
