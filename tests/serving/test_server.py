"""Starting and stopping a server process, with a fake in vLLM's place (tests/e2e starts the real one)."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import fake_vllm
import pytest
from adapter_files import write_adapter
from pydantic import SecretStr

from memlora_plugins.errors import AdapterInvalidError, MissingDependencyError, ServerStartError, SettingsError
from memlora_plugins.serving import server as server_module
from memlora_plugins.serving.server import VLLMServer, vllm_python


@pytest.fixture
def python(tmp_path, monkeypatch) -> Path:
    """An "interpreter with vLLM" that is a fake."""
    monkeypatch.setenv("FAKE_VLLM_RECORD", str(tmp_path / "record.json"))
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {fake_vllm.__file__} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    config = {"hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def record(tmp_path):
    return lambda: json.loads((tmp_path / "record.json").read_text())


def make(model: Path, python: Path, **options) -> VLLMServer:
    return VLLMServer(model, python=python, log_file=model.parent / "server.log", **options)


def gone(pid: int) -> bool:
    """Whether a process has ended; in a container without an init it may stay as a zombie."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_starts_waits_and_stops_everything(model, python, record):
    seen: list[tuple[float, str]] = []
    server = make(model, python)
    assert not server.running
    assert server.pid is None
    assert server.start(progress=lambda seconds, line: seen.append((seconds, line))) is server
    assert server.running
    assert server.start() is server  # again: nothing happens
    assert seen[0][0] < 1
    assert {line for _, line in seen} <= {"", "loading weights"}
    pid, child = server.pid, record()["child"]
    server.stop()
    server.stop()
    assert not server.running
    assert gone(pid)
    assert gone(child)
    assert "loading weights" in server.log_file.read_text()
    assert "stopped" in repr(server)


def test_the_command_line_is_the_one_that_works(model, python, record, tmp_path):
    adapters = {"extraction": write_adapter(tmp_path / "e"), "update": write_adapter(tmp_path / "u", r=20)}
    with make(model, python, adapters=adapters, extra_args=["--seed", "1"]) as server:
        given = record()["arguments"]
    assert given == [
        *("-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "tiny"),
        *("--host", "127.0.0.1", "--port", str(server.port)),
        *("--enable-lora", "--max-loras", "4", "--max-cpu-loras", "16", "--max-lora-rank", "32"),
        *("--lora-modules", f"extraction={tmp_path / 'e'}", f"update={tmp_path / 'u'}"),
        *("--max-model-len", "4096", "--enforce-eager", "--generation-config", "vllm"),
        *("--structured-outputs-config", '{"backend": "guidance", "disable_any_whitespace": true}'),
        *("--seed", "1"),
    ]
    assert server.adapters["update"].rank == 20
    assert server.base_url == f"http://127.0.0.1:{server.port}"


def test_the_environment_is_quiet_and_holds_the_key(model, python, record):
    with make(model, python, api_key=SecretStr("s3cret"), kv_cache_gb=2) as server:
        given = record()
    environment = given["environment"]
    assert environment["VLLM_TARGET_DEVICE"] == "cpu"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == "1"
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == environment["HF_HUB_OFFLINE"] == "1"
    assert environment["VLLM_API_KEY"] == "s3cret"
    assert "s3cret" not in repr(server) + " ".join(given["arguments"]) + server.log_file.read_text()


@pytest.mark.parametrize("how", ["build", "argument", "environment"])
def test_a_gpu_build_gets_no_cpu_flags(model, python, record, monkeypatch, how):
    if how == "build":
        monkeypatch.setenv("FAKE_VLLM_BUILD", "cuda")
    elif how == "environment":
        monkeypatch.setenv("VLLM_TARGET_DEVICE", "cuda")
    with make(model, python, device="gpu" if how == "argument" else "auto"):
        given = record()
    assert "--enforce-eager" not in given["arguments"]
    assert given["environment"].get("VLLM_TARGET_DEVICE") != "cpu"


def test_a_hub_name_may_use_the_network(python, record, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with VLLMServer("org/base", python=python, log_file=tmp_path / "log") as server:
        given = record()
    assert server.model == "org/base"
    assert "HF_HUB_OFFLINE" not in given["environment"]
    assert "--max-model-len" not in given["arguments"]


def test_a_server_that_dies(model, python, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "die")
    server = make(model, python)
    for _ in range(2):  # the second error must not quote the first log
        with pytest.raises(ServerStartError, match=rf"status 1.*the model is broken.*{server.log_file}") as caught:
            server.start()
        assert caught.value.log_tail.splitlines() == ["loading weights", "ValueError: the model is broken"]
        assert not server.running


def test_a_server_that_never_listens(model, python, record, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "hang")
    server = make(model, python)
    with pytest.raises(ServerStartError, match="not healthy after 1 s: loading weights"):
        server.start(timeout=1)
    assert gone(record()["child"])


def test_a_stubborn_server_is_killed(model, python, record, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "stubborn")
    monkeypatch.setattr(server_module, "_GRACE_SECONDS", 0.2)
    server = make(model, python).start()
    pid = server.pid
    server.stop()
    assert gone(pid)
    assert gone(record()["child"])


def test_a_killed_server_is_noticed_and_started_again(model, python, record):
    server = make(model, python).start()
    first, port = record()["child"], server.port
    os.kill(server.pid, signal.SIGKILL)
    assert gone(server.pid)
    assert not server.running
    server.start()
    assert gone(first)
    assert server.port == port
    assert server.running
    server.restart()
    assert server.running
    server.stop()


def test_a_forgotten_server_is_stopped(model, python, record):
    server = make(model, python).start()
    pid = server.pid
    del server
    gc.collect()
    assert gone(pid)
    assert gone(record()["child"])


def test_a_forked_childs_exit_leaves_the_server_alone(model, python):
    server = make(model, python).start()
    server_module._end(server._process, owner=-1)
    assert server.running
    server.stop()


def test_an_interrupted_start_stops_what_it_started(model, python, record, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "hang")
    server = make(model, python)

    def interrupt(seconds: float, line: str) -> None:
        if line:
            time.sleep(0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server.start(progress=interrupt)
    assert not server.running
    assert gone(record()["child"])


def test_bad_adapters_are_refused_before_anything_starts(model, python, tmp_path):
    with pytest.raises(AdapterInvalidError, match="hidden size"):
        make(model, python, adapters={"update": write_adapter(tmp_path / "a", hidden=32)})
    with pytest.raises(AdapterInvalidError, match="not usable"):
        make(model, python, adapters={"../x": tmp_path / "a"})
    with pytest.raises(SettingsError, match="model's name"):
        make(model, python, adapters={"tiny": write_adapter(tmp_path / "b")})


def test_an_adapter_of_another_base_is_refused_by_its_hash(model, python, tmp_path):
    adapter = write_adapter(tmp_path / "a")
    notes = adapter / "memlora.json"
    weights = model / "model.safetensors"
    weights.write_bytes(b"these")
    notes.write_text(json.dumps({"base_sha256": hashlib.sha256(b"these").hexdigest()}))
    make(model, python, adapters={"update": adapter})
    weights.write_bytes(b"others")
    with pytest.raises(AdapterInvalidError, match="trained on other weights"):
        make(model, python, adapters={"update": adapter})
    weights.unlink()
    with pytest.raises(SettingsError, match="no safetensors"):
        make(model, python, adapters={"update": adapter})
    notes.write_text("{")
    with pytest.raises(AdapterInvalidError, match="cannot be read"):
        make(model, python, adapters={"update": adapter})


def test_a_default_log_file_and_a_fixed_port(model, python):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = VLLMServer(model, python=python, port=port)
    assert server.port == port
    assert server.log_file.name == f"memlora-vllm-{port}.log"


def test_an_occupied_port_is_not_taken_for_ours(model, python, tmp_path, monkeypatch, fake_server):
    monkeypatch.setattr(server_module, "_PORT_SECONDS", 0.0)
    server = make(model, python, port=int(fake_server.base_url.rpartition(":")[2]))
    with pytest.raises(ServerStartError, match=r"cannot be listened on.*choose another port"):
        server.start()  # the other server answers /health
    assert not (tmp_path / "record.json").exists()


def test_a_port_that_comes_free_in_a_moment_is_waited_for(model, python, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: other.close() or sleep(seconds))
        with make(model, python, port=other.getsockname()[1]) as server:
            assert server.running


@pytest.mark.parametrize("name", ["./nope", "/nope", "nope", "a/b/c", Path("org/base")])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name, python):
    with pytest.raises(SettingsError, match="no model folder"):
        VLLMServer(name, python=python)


def test_addresses(model, python):
    assert make(model, python, host="::1", port=8000).base_url == "http://[::1]:8000"
    with pytest.raises(SettingsError, match="no address of this machine"):
        make(model, python, host="192.0.2.1")


def test_a_log_that_cannot_be_written(model, python, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerStartError, match="cannot be written"):
        VLLMServer(model, python=python, log_file=tmp_path / "file" / "log").start()


# Finding the interpreter --------------------------------------------------------------------------------------------


def test_the_interpreter_is_found(python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMLORA_VLLM_PYTHON", str(python))
    assert vllm_python() == python
    monkeypatch.delenv("MEMLORA_VLLM_PYTHON")
    local = tmp_path / ".venv-vllm" / "bin" / "python"
    local.parent.mkdir(parents=True)
    local.symlink_to(python)
    assert vllm_python() == local
    local.unlink()
    monkeypatch.setattr(server_module, "find_spec", lambda name: object())
    assert vllm_python() == Path(sys.executable)
    monkeypatch.setattr(server_module, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="MEMLORA_VLLM_PYTHON"):
        vllm_python()


def test_interpreters_without_vllm_are_told(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/false\n")
    broken.chmod(0o755)
    for path in (tmp_path / "nope", broken, sys.executable):
        with pytest.raises(MissingDependencyError, match="no Python with vLLM"):
            vllm_python(path)


def test_an_interpreter_that_vanished(model, python):
    server = make(model, python, device="cpu")
    python.unlink()
    with pytest.raises(ServerStartError, match="could not be started"):
        server.start()
