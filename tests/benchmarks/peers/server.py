"""The one model server and embedder that every library talks to: OpenAI-compatible, on loopback, a process of its own.

    python server.py            # prints its address, serves until its standard input is closed

The chat model is a fake that takes a fixed time and says what `replies` makes of the prompt. There are two embedding
models: `all-MiniLM-L6-v2`, the real one, and `hashed-384`, words hashed into 384 numbers, which costs next to nothing.
`POST /control` sets `delay` (seconds) and `malformed`, and forgets what was counted; `GET /stats` tells it.
"""

from __future__ import annotations

import base64
import itertools
import json
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from bench import DIMENSION, HASHED, MINILM
from replies import NotUnderstoodError, reply

TOKENIZER = f"WordPiece of {MINILM}"


class Counted:
    """What was asked since the last reset."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.delay, self.malformed = 0.0, None
        self.at_once = 0
        self.reset()

    def reset(self) -> None:
        with self.guard:
            self.tokens: list[int] = []
            self.text_tokens: list[int] = []
            self.libraries: set[str] = set()
            self.not_understood: list[str] = []
            self.spans: list[tuple[str, float, float]] = []
            self.embedded = 0
            self.most_at_once = 0

    def enter(self) -> None:
        with self.guard:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)

    def leave(self, started: float) -> None:
        with self.guard:
            self.at_once -= 1
            self.spans.append(("chat", started, time.time()))

    def stats(self) -> dict[str, Any]:
        with self.guard:
            return {
                name: sorted(value) if isinstance(value, set) else value
                for name, value in vars(self).items()
                if name != "guard"
            }


class Models:
    """The embedders, and the tokenizer that counts for everybody; each is loaded when it is first needed."""

    def __init__(self) -> None:
        self._guard = threading.Lock()

    def embed(self, model: str, texts: Sequence[str]) -> Any:
        """Unit vectors, float32 [texts, 384]."""
        if model == HASHED:
            return hashed(texts)
        with self._guard:
            return self._minilm.embed(list(texts))

    def count(self, text: str) -> int:
        with self._guard:
            return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _minilm(self) -> Any:
        from memlora_plugins import SentenceTransformerEmbedder

        return SentenceTransformerEmbedder(MINILM)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        from memlora_plugins.sentence_model import find

        made = Tokenizer.from_file(f"{find(MINILM).place}/tokenizer.json")
        made.no_truncation()
        made.no_padding()
        return made


def hashed(texts: Sequence[str]) -> Any:
    """Each word, and each word with the next, adds to one of 384 numbers; deterministic, float32, unit length."""
    vectors = np.zeros((len(texts), DIMENSION), np.float32)
    for row, text in enumerate(texts):
        words = text.casefold().replace(".", " ").replace(",", " ").split() or [""]
        for term in (*words, *map(" ".join, itertools.pairwise(words))):
            code = zlib.crc32(term.encode())
            vectors[row, code % DIMENSION] += 1.0 if code & 0x10000 else -1.0
        vectors[row, 0] += 0.01  # never all zero
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _texts(message: dict[str, Any]) -> list[str]:
    """What a message says; calls of tools that it holds are JSON."""
    content = message.get("content") or ""
    parts = [content] if isinstance(content, str) else [part.get("text") or json.dumps(part) for part in content]
    return [*parts, *(json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ())]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.counted, self.models = Counted(), Models()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are cut off in the middle are part of it."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._send(200, self.server.counted.stats())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        started = time.time()
        if self.path == "/control":
            counted = self.server.counted
            counted.delay = float(body.get("delay", counted.delay))
            counted.malformed = body.get("malformed")
            counted.reset()
            self._send(200, {})
        elif self.path == "/v1/embeddings":
            self._embeddings(body, started)
        elif self.path == "/v1/chat/completions":
            self.server.counted.enter()
            try:
                self._chat(body)
            finally:
                self.server.counted.leave(started)
        else:
            self._error(404, f"nothing is at {self.path}")

    def _embeddings(self, body: dict[str, Any], started: float) -> None:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        counted = self.server.counted
        vectors = self.server.models.embed(body["model"], texts)
        if body.get("encoding_format") == "base64":
            rows: list[Any] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
        else:
            rows = np.round(vectors.astype(np.float64), 6).tolist()
        data = [{"object": "embedding", "index": number, "embedding": row} for number, row in enumerate(rows)]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        self._send(200, {"object": "list", "model": body["model"], "data": data, "usage": usage})
        with counted.guard:
            counted.embedded += len(texts)
            counted.spans.append(("embeddings", started, time.time()))

    def _chat(self, body: dict[str, Any]) -> None:
        counted = self.server.counted
        text = self._text_tokens(body)
        tokens = text + self._other_tokens(body)
        time.sleep(counted.delay)
        try:
            said = reply(body, counted.malformed)
        except NotUnderstoodError as error:
            with counted.guard:
                counted.not_understood.append(str(error))
            self._error(422, str(error))
            return
        with counted.guard:
            counted.libraries.add(said.library)
            counted.tokens.append(tokens)
            counted.text_tokens.append(text)
        if said.status != 200:
            self._error(said.status, "the fake model fails on request")
            return
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        if said.calls:
            message["tool_calls"] = [
                {"id": f"call-{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
                for number, (name, arguments) in enumerate(said.calls)
            ]
        choice = {"index": 0, "message": message, "finish_reason": said.finish}
        usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
        answer = {"id": "fake", "object": "chat.completion", "created": int(time.time()), "model": body["model"]}
        self._send(200, answer | {"choices": [choice], "usage": usage})

    def _text_tokens(self, body: dict[str, Any]) -> int:
        """Of the messages, each as the text it is: escaped as JSON it would have more tokens than a model reads."""
        return sum(self.server.models.count(text) for message in body["messages"] for text in _texts(message))

    def _other_tokens(self, body: dict[str, Any]) -> int:
        """Of the tools and of the schema of the reply, as JSON."""
        sent = [*(body.get("tools") or ()), *filter(None, [body.get("response_format")])]
        return sum(self.server.models.count(json.dumps(one, ensure_ascii=False)) for one in sent)

    def _send(self, status: int, answer: Any) -> None:
        raw = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _error(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "fake"}})


def main() -> None:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
