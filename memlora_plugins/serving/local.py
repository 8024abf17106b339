"""The experts in this process, without a server: transformers and peft, one base model, one LoRA adapter per expert.

One thread owns the model. Callers, sync or async, hand it requests; whatever waits joins the running batch before its
next step, experts mixed. Backends of the same model and adapters share one loaded copy.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from ..errors import AdapterInvalidError, ClosedError, MissingDependencyError, SettingsError
from .adapters import base_config, is_hub_name, preflight
from .base import Completion, Expert, PromptStyle, Request
from .engine import Engine, Job, Source

_PACKAGES = ("torch", "transformers", "peft", "llguidance")
_MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors")


class LocalBackend:
    """Experts answered by the model in folder `model`, in this process.

    `model` is a folder, or the name of a model that is in the Hugging Face cache; only with `allow_download` is it
    fetched from the hub, and nothing else here ever opens a connection. `adapters` maps an expert to the folder of its
    LoRA adapter; an expert without one is the base model with the full prompt. The model is loaded with the first
    request, or by `load()`; equal arguments share one loaded copy, freed when the last backend of it is closed.

    `device` is `"auto"` (a CUDA GPU, else the CPU) or what torch calls it; `dtype` is `"auto"` (bfloat16 on a GPU
    that computes in it, else float32), `"float32"`, `"bfloat16"` or `"float16"`. At most `max_batch` requests run at
    once, and as many as have `max_batch_tokens` together when all are as long as the longest may get. `threads` is
    given to torch and so holds for the whole process; None means 1 on machines of up to 4 cores (more threads than
    idle cores are many times slower), and torch's own choice on larger ones.

    Replies under a schema are compact JSON, by the same grammar as on the vLLM server. At temperature 0 the likeliest
    token is taken; above, tokens are sampled from the whole distribution.

    Raises:
        MissingDependencyError: a package of the extra `local` is missing.
        SettingsError: no such model, or an impossible limit.
        AdapterInvalidError: a folder holds no usable adapter.
    Raises (`load` and the completing methods), besides those of `Backend`:
        SettingsError: the folder's model cannot be used here (no chat template, no such device, …).
        AdapterInvalidError: an adapter belongs to another base model.
        ClosedError; ForkedError: made in another process.
    """

    def __init__(
        self,
        model: str | Path,
        adapters: Mapping[str, str | Path] | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_batch: int = 32,
        max_batch_tokens: int = 65_536,
        threads: int | None = None,
        allow_download: bool = False,
    ) -> None:
        _check_packages()
        if min(max_batch, max_batch_tokens, 1 if threads is None else threads) < 1:
            raise SettingsError("max_batch, max_batch_tokens and threads must be at least 1.")
        folder = model_folder(model, allow_download)
        config = base_config(folder)
        if config is None:
            raise SettingsError(f"{folder} holds no model: it has no readable config.json.")
        self.model = str(model)
        # The limit on ranks is the server's; here any rank runs.
        self._adapters = {
            expert: preflight(expert, _adapter_folder(expert, path), max_rank=sys.maxsize, base_config=config)
            for expert, path in (adapters or {}).items()
        }
        source = Source(folder, tuple(sorted(self._adapters.items())), device, dtype, threads)
        self._engine = _SHARED.take((source, max_batch, max_batch_tokens))
        self._release = weakref.finalize(self, _SHARED.release, self._engine)
        self._release.atexit = False  # the batcher sees to the end of the process, and does not wait long

    def __repr__(self) -> str:
        return f"<LocalBackend: {self.describe()}>"

    @property
    def adapters(self) -> dict[str, str]:
        """Expert to the name of its adapter: the expert's and the hash of its files."""
        return {expert: adapter.name for expert, adapter in self._adapters.items()}

    def prompt_style(self, expert: Expert) -> PromptStyle:
        """`"short"` for an expert with an adapter, `"full"` for the base model."""
        return "short" if expert in self._adapters else "full"

    def describe(self) -> str:
        experts = ", ".join(f"{expert}={name}" for expert, name in self.adapters.items()) or "no adapters"
        return f"in process, base model {self.model}, {experts}"

    def load(self) -> None:
        """Load the model now, so that the first request need not wait for it. Blocks; harmless when repeated."""
        self._open_engine().load()

    def complete(self, request: Request) -> Completion:
        return self._submit(request).future.result()

    async def acomplete(self, request: Request) -> Completion:
        return await asyncio.wrap_future(self._submit(request).future)

    def stream(self, request: Request) -> Iterator[str | Completion]:
        heard: queue.SimpleQueue[str | Future[Completion]] = queue.SimpleQueue()
        job = self._job(request)
        job.on_piece = heard.put
        job.future.add_done_callback(heard.put)
        self._open_engine().submit(job)
        try:
            while isinstance(piece := heard.get(), str):
                yield piece
            yield piece.result()
        finally:
            job.future.cancel()

    async def astream(self, request: Request) -> AsyncIterator[str | Completion]:
        heard: asyncio.Queue[str | Future[Completion]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def hear(piece: str | Future[Completion]) -> None:
            loop.call_soon_threadsafe(heard.put_nowait, piece)

        def end(future: Future[Completion]) -> None:
            with suppress(RuntimeError):  # the loop is closed, nobody listens
                hear(future)

        job = self._job(request)
        job.on_piece = hear
        job.future.add_done_callback(end)
        self._open_engine().submit(job)
        try:
            while isinstance(piece := await heard.get(), str):
                yield piece
            yield piece.result()
        finally:
            job.future.cancel()

    def close(self) -> None:
        """Release the model; the last backend that shares it frees it. Idempotent.

        Requests that still run on it then raise `ClosedError`.
        """
        self._release()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop while the running step ends."""
        await asyncio.to_thread(self.close)

    def _job(self, request: Request) -> Job:
        adapter = self._adapters.get(request.expert)
        return Job(request, model=adapter.name if adapter else self.model)

    def _submit(self, request: Request) -> Job:
        job = self._job(request)
        self._open_engine().submit(job)
        return job

    def _open_engine(self) -> Engine:
        if not self._release.alive:
            raise ClosedError(f"The backend of {self.model} was closed; open a new one.")
        return self._engine


class _Shared:
    """Engines by what they run, each with the number of backends that hold it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must: it has no thread to run its parent's engines."""
        self._lock = threading.RLock()  # a backend may be garbage collected, and released, while it is held
        self._engines: dict[tuple[Source, int, int], Engine] = {}
        self._holders: dict[Engine, int] = {}

    def take(self, key: tuple[Source, int, int]) -> Engine:
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:
                engine = self._engines[key] = Engine(*key)
            self._holders[engine] = self._holders.get(engine, 0) + 1
            return engine

    def release(self, engine: Engine) -> None:
        with self._lock:
            if engine not in self._holders:  # its holders are in the process that forked
                return
            self._holders[engine] -= 1
            if self._holders[engine]:
                return
            del self._holders[engine]
            self._engines = {key: held for key, held in self._engines.items() if held is not engine}
        engine.close()


_SHARED = _Shared()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SHARED.forget)


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Running a model in process needs {', '.join(missing)}. Install with: pip install 'memlora-plugins[local]'"
        )


def model_folder(model: str | Path, allow_download: bool) -> Path:
    """The folder of `model`, from the Hugging Face cache or the hub if it is a name."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    advice = (
        "Pass the folder of a downloaded model, or its name after `hf download NAME`, which "
        "LocalBackend(…, allow_download=True) does for you."
    )
    if isinstance(model, Path) or not is_hub_name(model):
        raise SettingsError(f"There is no model folder {model}. {advice}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(model, allow_patterns=list(_MODEL_FILES), local_files_only=not allow_download)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise SettingsError(f"The model {model} is not in the cache: {type(error).__name__}. {advice}") from error
    return Path(found)


def _adapter_folder(expert: str, path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise AdapterInvalidError(f"There is no folder {path} with the adapter of the {expert} expert.")
    return folder
