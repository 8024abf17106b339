"""A fake model server on loopback: the part of vLLM's HTTP interface that backends use, with faults on demand.

It stands in for the failures a real server cannot be made to have at will. What it says about adapters, unknown
models and streams is what vLLM 0.32 was seen to say.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

EXPERTS = ("extraction", "update", "generation", "vision", "memory", "executive", "judge")
DEFAULT_REPLIES = {
    "extraction": '{"facts":[]}',
    "update": '{"memory":[]}',
    "generation": "I do not know.",
    "vision": '{"answer":"yes","reason":"it is there"}',
    "memory": "Porto",
    "executive": "{}",
    "judge": '{"reason":"it says the same","label":"CORRECT"}',
}


@dataclass(frozen=True)
class Reply:
    """What the fake model says. `pieces` splits a stream; by default it is cut every four characters.

    `logprobs`, where they are asked for, are told as vLLM does; `odd_logprobs` in their place, as they are.
    """

    text: str
    finish_reason: str | None = "stop"
    model: str | None = None
    pieces: tuple[str, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    odd_logprobs: Any = None


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request, in this order: wait `delay`, `drop` the connection, answer `status`.

    `cut` breaks a streamed reply off after its first piece, and a plain one in the middle of its body.
    `raw` is sent as the body, as it is.
    """

    status: int = 200
    message: str = "something broke"
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False
    cut: bool = False
    raw: str | None = None


Script = str | Reply | Callable[[dict[str, Any]], "str | Reply"]


class FakeModelServer:
    """A fake server that is listening as soon as it exists; a context manager.

    `adapters` are the names it knows, with the folder each was loaded from. `requests` are the bodies of all chat
    requests. `latency` is seconds per chat request. `headers` are those of the last request. `health` is the status of
    `/health`; 0 drops the connection.
    """

    def __init__(self, *, model: str = "base", adapters: Mapping[str, str] | None = None) -> None:
        self.model = model
        self.adapters: dict[str, str] = dict(adapters or {})
        self.latency = 0.0
        self.health = 200
        self.runtime_loading = True
        self.load_answer: tuple[int, str] | None = None
        self.lists_models: Any = True
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: dict[str, str] = {}
        self.most_concurrent = 0
        self._concurrent = 0
        self._faults: list[Fault | None] = []
        self._scripts: defaultdict[str, list[Script]] = defaultdict(list)
        self._guard = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def restart(self) -> None:
        """Forget every adapter, as a restarted vLLM does."""
        self.adapters.clear()

    def reply(self, expert: str, *scripts: Script) -> None:
        """Say these, one per request; the last one again and again."""
        self._scripts[expert] = list(scripts)

    def fail(self, *faults: Fault | None) -> None:
        """Have the next chat requests fail like this, in order; None lets one through."""
        self._faults += faults

    def asked(self, expert: str) -> list[dict[str, Any]]:
        """The chat requests that reached one expert."""
        return [body for body in self.requests if expert_of(body) == expert]

    def next_fault(self) -> Fault | None:
        with self._guard:
            return self._faults.pop(0) if self._faults else None

    def next_reply(self, body: dict[str, Any]) -> Reply:
        expert = expert_of(body)
        with self._guard:
            scripts = self._scripts[expert]
            script = scripts.pop(0) if len(scripts) > 1 else (scripts or [DEFAULT_REPLIES[expert]])[0]
        said = script(body) if callable(script) else script
        return said if isinstance(said, Reply) else Reply(said)

    def enter(self, body: dict[str, Any]) -> None:
        with self._guard:
            self.requests.append(body)
            self._concurrent += 1
            self.most_concurrent = max(self.most_concurrent, self._concurrent)

    def leave(self) -> None:
        with self._guard:
            self._concurrent -= 1


def expert_of(body: Mapping[str, Any]) -> str:
    """The expert a chat request is for, by its adapter's name, else by its schema's."""
    name = str(body["model"]).partition("@")[0]
    if name not in EXPERTS:
        name = ((body.get("response_format") or {}).get("json_schema") or {}).get("name", "generation")
    return name if name in EXPERTS or name.startswith("memo_") else "generation"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


def _handler(fake: FakeModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            fake.paths.append(self.path)
            if self.path == "/health" and not fake.health:
                self.close_connection = True
            elif self.path == "/health":
                self._send(fake.health, "")
            elif self.path == "/v1/models":
                self._models()
            else:
                self._not_found()

        def do_POST(self) -> None:
            fake.paths.append(self.path)
            fake.headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
            if self.path == "/v1/chat/completions":
                fake.enter(body)
                try:
                    self._chat(body)
                finally:
                    fake.leave()
            elif self.path == "/v1/load_lora_adapter" and fake.runtime_loading:
                self._load(body["lora_name"], body["lora_path"])
            elif self.path == "/v1/unload_lora_adapter" and fake.runtime_loading:
                known = fake.adapters.pop(body["lora_name"], None)
                self._send(200, "Success: removed.") if known else self._error(404, "cannot be found")
            else:
                self._not_found()

        def _models(self) -> None:
            if fake.lists_models is not True:
                self._send_json(200, fake.lists_models)
                return
            cards: list[dict[str, Any]] = [{"id": fake.model, "root": fake.model, "parent": None}]
            cards += [{"id": name, "root": path, "parent": fake.model} for name, path in fake.adapters.items()]
            self._send_json(200, {"object": "list", "data": cards})

        def _load(self, name: str, path: str) -> None:
            if fake.load_answer:
                self._error(*fake.load_answer)
            elif name in fake.adapters:
                self._error(400, f"The lora adapter '{name}' has already been loaded.")
            elif not Path(path).is_dir():
                self._error(404, f"Loading lora {name} failed: No adapter found for {path}")
            else:
                fake.adapters[name] = path
                self._send(200, f"Success: LoRA adapter '{name}' added successfully.")

        def _chat(self, body: dict[str, Any]) -> None:
            fault = fake.next_fault() or Fault()
            time.sleep(fake.latency + fault.delay)
            if fault.drop:
                self.close_connection = True
            elif fault.raw is not None:
                self._send(fault.status, fault.raw)
            elif fault.status != 200:
                self._error(fault.status, fault.message, fault.param, fault.headers)
            elif body["model"] != fake.model and body["model"] not in fake.adapters:
                self._error(404, f"The model `{body['model']}` does not exist.", "model")
            elif body.get("stream"):
                self._stream(body, fake.next_reply(body), cut=fault.cut)
            else:
                self._whole(body, fake.next_reply(body), cut=fault.cut)

        def _whole(self, body: dict[str, Any], reply: Reply, *, cut: bool) -> None:
            message = {"role": "assistant", "content": reply.text}
            payload = {
                "model": reply.model or body["model"],
                "choices": [
                    {"index": 0, "message": message, "finish_reason": reply.finish_reason} | _sureness(body, reply)
                ],
                "usage": _usage(body, reply),
            }
            content = json.dumps(payload).encode()
            self._head(200, "application/json", {"Content-Length": str(len(content))})
            self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = cut

        def _stream(self, body: dict[str, Any], reply: Reply, *, cut: bool) -> None:
            self._head(200, "text/event-stream", {"Transfer-Encoding": "chunked"})
            model = reply.model or body["model"]
            pieces = reply.pieces or [reply.text[at : at + 4] for at in range(0, len(reply.text), 4)]
            for place, piece in enumerate(pieces):
                sure = {} if place else _sureness(body, reply)
                self._event({"model": model, "choices": [{"index": 0, "delta": {"content": piece}} | sure]})
                if cut:
                    self.close_connection = True
                    return
            if reply.finish_reason:
                end = {"index": 0, "delta": {}, "finish_reason": reply.finish_reason}
                self._event({"model": model, "choices": [end]})
            self._event({"model": model, "choices": [], "usage": _usage(body, reply)})
            self._chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

        def _event(self, data: dict[str, Any]) -> None:
            self._chunk(b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n")

        def _chunk(self, content: bytes) -> None:
            self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

        def _error(
            self, status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
        ) -> None:
            error = {"message": message, "type": "Error", "param": param, "code": status}
            self._send_json(status, {"error": error}, headers)

        def _not_found(self) -> None:
            self._send_json(404, {"detail": "Not Found"})

        def _send_json(self, status: int, payload: Any, headers: Mapping[str, str] | None = None) -> None:
            self._send(status, json.dumps(payload), headers)

        def _send(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
            content = text.encode()
            self._head(status, "application/json", {"Content-Length": str(len(content)), **(headers or {})})
            self.wfile.write(content)

        def _head(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    return Handler


def _sureness(body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """The `logprobs` of a choice, if they are asked for and there are any."""
    if not body.get("logprobs"):
        return {}
    if reply.logprobs is None:
        return {"logprobs": reply.odd_logprobs}
    return {"logprobs": {"content": [{"token": "x", "logprob": one, "top_logprobs": []} for one in reply.logprobs]}}


def _usage(body: Mapping[str, Any], reply: Reply) -> dict[str, int]:
    """Words instead of tokens."""
    asked = sum(len(str(message["content"]).split()) for message in body["messages"])
    return {"prompt_tokens": asked, "completion_tokens": len(reply.text.split())}
