"""A large Generator's replies, recorded once, on loopback. It is no model: it knows the requests of this corpus alone.

    python examples/memo/recorded_generator.py            # prints its address and serves until it is stopped

`recorded/replies.jsonl` has one reply a line, under the hash of what it replies to: the step and the data of the
request. The instructions that go with them may change. What was not recorded gets 404, and says so.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

REPLIES = Path(__file__).parent / "recorded" / "replies.jsonl"
MODEL = "recorded-generator"


def key(step: str, data: str) -> str:
    """What a reply is filed under."""
    return hashlib.sha256(f"{step}\n{data}".encode()).hexdigest()


def read_replies(file: Path = REPLIES) -> dict[str, str]:
    """The recorded replies, by key."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row["key"]: json.dumps(row["reply"], ensure_ascii=False) for row in rows}


class RecordedGenerator:
    """An OpenAI-compatible endpoint that replays `replies`; it listens while it is entered. `base_url` ends in /v1."""

    def __init__(self, replies: Mapping[str, str] | None = None, *, port: int = 0) -> None:
        self.replies = read_replies() if replies is None else replies
        self.calls = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reply(self, step: str, data: str) -> str | None:
        """The recorded reply to a step's data, or None."""
        return self.replies.get(key(step, data))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        generator = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                generator.calls += 1
                step = asked.get("response_format", {}).get("json_schema", {}).get("name", "")
                said = generator.reply(step, asked["messages"][-1]["content"])
                if said is None:
                    message = f"Nothing was recorded for this request ({step or 'no schema'}). It is no model."
                    self._send(404, {"error": {"message": message, "type": "not_recorded"}})
                    return
                choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
                usage = {"prompt_tokens": _words(asked["messages"]), "completion_tokens": len(said.split())}
                self._send(200, {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})

            def do_GET(self) -> None:
                self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

            def _send(self, status: int, said: object) -> None:
                body = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing: the synthesis reports its calls."""

        return Handler


def _words(messages: list[dict[str, Any]]) -> int:
    """Words in place of tokens, as this is no model."""
    return sum(len(str(message["content"]).split()) for message in messages)


if __name__ == "__main__":
    with RecordedGenerator(port=8123) as recorded:
        print(f"{len(recorded.replies)} recorded replies at {recorded.base_url} (model {MODEL}). Stop with Ctrl-C.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()
