"""`memlora serve`: a vLLM server with the experts, in the foreground."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import BackendUnavailableError, ServerStartError
from .options import adapters, command
from .output import complain, console, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import SecretStr

    from ..serving.server import VLLMServer

_LOOK_SECONDS = 0.5
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a vLLM server is run."""

    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000
    max_model_len: Annotated[int | None, typer.Option(min=1, help="Longest prompt and reply, in tokens.")] = None
    kv_cache_gb: Annotated[int, typer.Option(min=1, help="Memory for the KV cache on a CPU, in GB.")] = 1
    log_file: Annotated[Path | None, typer.Option(help="Where vLLM's own log goes.")] = None
    timeout: Annotated[float, typer.Option(min=1, help="Seconds it may take to become healthy.")] = 600.0
    vllm_arg: Annotated[
        list[str] | None, typer.Option(help="An argument for vLLM as it is: --vllm-arg=--dtype=bfloat16. Repeatable.")
    ] = None

    def server(
        self,
        model: str | Path,
        adapters: Mapping[str, str | Path],
        served_model_name: str | None,
        api_key: str | SecretStr | None,
    ) -> VLLMServer:
        """The server, not started yet. Raises what `VLLMServer` raises."""
        from ..serving.server import VLLMServer

        return VLLMServer(
            model,
            adapters,
            host=self.host,
            port=self.port,
            served_model_name=served_model_name,
            max_model_len=self.max_model_len,
            kv_cache_gb=self.kv_cache_gb,
            api_key=api_key,
            log_file=self.log_file,
            extra_args=self.vllm_arg or (),
        )


@command
def serve(
    *,
    model: Annotated[str, typer.Option(envvar="MEMLORA_MODEL", help="The base model: a folder, or a hub name.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPERT=PATH", help="A LoRA expert, served under that name. Repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The name the base model is served under.")] = None,
    options: ServerOptions,
) -> None:
    """Start a vLLM server with the experts; Ctrl-C stops it. Its API key, if any, is read from MEMLORA_API_KEY."""
    from ..settings import load_settings

    settings = load_settings(model=model, adapters=adapters(adapter))
    server = options.server(model, settings.adapters, name, settings.api_key)
    names = "".join(f" --adapter {name}={name}" for name in settings.adapters)
    run_in_foreground(
        server, options.timeout, f"memlora chat --user YOU --base-url {server.base_url} --model {server.model}{names}"
    )


def run_in_foreground(server: VLLMServer, timeout: float, usage: str) -> None:
    """Start the server, say where it is and what to type next (`usage`), and stop it in the end, however that comes.

    Raises:
        ServerStartError: it was not healthy within `timeout` seconds. BackendUnavailableError: it ended by itself.
    """
    if server.host not in _LOOPBACK:
        complain(
            f"warning: {server.host} can be reached from elsewhere. vLLM guards only /v1 with a key; /metrics, "
            "/tokenize and others stay open. Put a proxy in front, or stay on 127.0.0.1."
        )
    with suppress(KeyboardInterrupt), running(server, timeout):
        console().print(f"{server.model} at {server.base_url}; log in {server.log_file}\n{usage}", soft_wrap=True)
        while server.running:
            time.sleep(_LOOK_SECONDS)
        raise BackendUnavailableError(f"The vLLM server ended by itself. Its log is {server.log_file}.")


@contextmanager
def running(server: VLLMServer, timeout: float = 600.0) -> Iterator[None]:
    """The server, started and in the end stopped, whether that is an error, Ctrl-C, a closed terminal or a signal.

    Raises:
        ServerStartError: it was not healthy within `timeout` seconds. KeyboardInterrupt: for the signals, too.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in _ENDING}
    try:
        _start(server, timeout)
        yield
    except KeyboardInterrupt:
        complain("stopping the server")
        raise
    finally:
        server.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(server: VLLMServer, timeout: float) -> None:
    err = console(stderr=True)
    with err.status("starting vLLM") as status:

        def tell(seconds: float, line: str) -> None:
            status.update(f"starting vLLM, {seconds:.0f} s (usually one or two minutes)  {visible(line)[-60:]}")

        try:
            server.start(timeout=timeout, progress=tell)
        except ServerStartError as error:
            if error.log_tail:
                err.print(visible(error.log_tail))
            raise
