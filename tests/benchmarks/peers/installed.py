"""What is installed for a library: a digest that tells one tree from another, and the size of each part."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from bench import FailedError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MODULES = {"mem0": "mem0", "langmem": "langmem", "llama-index": "llama_index.core", "memlora": "memlora_plugins"}
PACKAGES = {"mem0": ("mem0ai",), "langmem": ("langmem", "trustcall", "langgraph"), "memlora": ("memlora-plugins",),
            "llama-index": ("llama-index-core", "chromadb")}  # fmt: skip
CORE = {"mem0": ("mem0ai",), "langmem": ("langmem", "langchain-openai"), "memlora": ("memlora-plugins",),
        "llama-index": ("llama-index-core", "llama-index-llms-openai-like",
                        "llama-index-embeddings-openai-like")}  # fmt: skip
"""What a library needs in any set-up with such endpoints; the rest of its environment is the store chosen here."""
_TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence", "wheel")
_ASK = """\
import importlib.metadata, importlib.util, json, sys, sysconfig
print(json.dumps({
    "folder": importlib.util.find_spec(sys.argv[1]).submodule_search_locations[0],
    "site": sysconfig.get_path("purelib"),
    "versions": {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()},
}))
"""


def digest(python: Path, library: str) -> dict[str, str]:
    """`code`: of the library's own files; `all`: of those and the versions of everything in its environment.

    Raises:
        FailedError: that interpreter has no such library.
    """
    told = _ask(python, library)
    code = of_folder(Path(told["folder"]))
    return {"code": code, "all": _short(code, json.dumps(told["versions"], sort_keys=True))}


def of_folder(folder: Path) -> str:
    """Of the names and contents of all files below, but for compiled ones."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return _short(*(part for file in files for part in (file.relative_to(folder).as_posix(), file.read_bytes())))


def size(python: Path, library: str) -> dict[str, float]:
    """MB of site-packages without pip and setuptools, packages in it, and what of both only the store needs."""
    site = Path(_ask(python, library)["site"])
    parts = [part for part in site.iterdir() if not part.name.lower().startswith(_TOOLS)]
    files = [file for part in parts for file in ([part] if part.is_file() else part.rglob("*")) if file.is_file()]
    known = {canonicalize_name(one.name): one for one in distributions(path=[str(site)])}
    known = {name: one for name, one in known.items() if not name.startswith(_TOOLS)}
    core = set(_needed(known, CORE[library]))
    store = [one for name, one in known.items() if name not in core]
    return {
        "mb": _mb(files),
        "packages": len(known),
        "store_mb": sum(_mb(_files(one, site)) for one in store),
        "store_packages": len(store),
    }


def versions(python: Path, library: str) -> dict[str, str]:
    """Of the packages that matter."""
    told = _ask(python, library)["versions"]
    return {name: told[name] for name in PACKAGES[library]}


def _needed(known: Mapping[Any, Distribution], roots: Sequence[str]) -> Iterator[str]:
    """The roots and everything installed that they require, with the extras they ask for."""
    ahead, seen = [Requirement(root) for root in roots], set()
    while ahead:
        wanted = ahead.pop()
        name = canonicalize_name(wanted.name)
        if (name, wanted_extras := frozenset(wanted.extras)) in seen or name not in known:
            continue
        seen.add((name, wanted_extras))
        yield name
        for text in known[name].requires or ():
            one = Requirement(text)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in {"", *wanted_extras}):
                ahead.append(one)


def _files(one: Distribution, site: Path) -> Iterator[Path]:
    for file in one.files or ():
        path = Path(str(one.locate_file(file)))
        if path.is_file() and ".." not in file.parts and site in path.parents:
            yield path


def _mb(files: Iterable[Path]) -> float:
    return sum(file.lstat().st_size for file in files) / 1e6


def _ask(python: Path, library: str) -> Any:
    # -I: neither the working directory nor PYTHONPATH may stand in for what is installed
    done = subprocess.run([python, "-I", "-c", _ASK, MODULES[library]], capture_output=True, text=True)
    if done.returncode:
        raise FailedError((done.stderr.strip().splitlines() or ["no interpreter"])[-1])
    return json.loads(done.stdout)


def _short(*parts: str | bytes) -> str:
    made = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        made.update(len(data).to_bytes(8, "big") + data)
    return made.hexdigest()[:12]
