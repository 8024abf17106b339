"""The harness that puts memory libraries side by side, run on this one alone with few of everything."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.sentence_model import find

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"
MEASURES = ("exit", "tokens", "malformed", "duplicates", "erase", "concurrent", "size-40")


def module(name: str) -> ModuleType:
    """One of the harness, which is no package: its workers run in environments without this one."""
    spec = importlib.util.spec_from_file_location(f"peers_{name}", PEERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


bench, replies = module("bench"), module("replies")


def start(results: Path, *more: str, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
    """A run of the harness, however busy this machine is."""
    command = [sys.executable, PEERS / "run.py", "--results", results, "--library", "memlora", "--small"]
    command += ["--interpreter", f"memlora={python}", "--sizes", "40", "--max-load", "1000", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def run(results: Path, *more: str, python: str | Path = sys.executable) -> str:
    done = start(results, *more, python=python)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    run(folder, *(f"--measure={name}" for name in MEASURES))
    return folder


def values(results: Path) -> dict[str, Any]:
    kept = json.loads((results / "results.json").read_text())
    return {name: measure["memlora"]["value"] for name, measure in kept.items()}


class TestOnThisLibrary:
    def test_every_measure_has_a_value(self, results: Path) -> None:
        assert tuple(values(results)) == MEASURES

    def test_latencies_leave_the_server_out(self, results: Path) -> None:
        add = values(results)["size-40"]["add"]
        assert add["calls_per_add"] >= 1
        assert add["p50_ms"] >= 200 * add["calls_per_add"]  # the fake model takes 0.2 s
        assert 0 < add["own_p50_ms"] < add["p50_ms"] - 150 * add["calls_per_add"]
        search = values(results)["size-40"]["search"]
        assert 0 < search["own_p50_ms"] <= search["p50_ms"] <= search["p95_ms"]
        assert search["number"] == 5

    def test_what_was_said_survives_every_malformed_reply(self, results: Path) -> None:
        ways = values(results)["malformed"]["ways"]
        assert list(ways) == list(replies.WAYS)
        assert all(way["found"] and way["raised"] is None for way in ways.values())
        assert not ways["prose"]["distilled"]
        assert all(way["distilled_after"] and way["again_by"] == "flush" for way in ways.values())
        assert ways["unknown id"]["old_found"]

    def test_equal_adds_make_one_fact(self, results: Path) -> None:
        found = values(results)["duplicates"]
        assert found["new"]["facts"] == 1
        assert found["errors"] == []

    def test_erase_leaves_nothing_of_one_person_only(self, results: Path) -> None:
        found = values(results)["erase"]
        assert sum(found["before"].values()) >= found["said"] == found["readable_before"]
        assert sum(found["after_one_call"].values()) == 0
        assert sum(found["after"].values()) == found["readable"] == 0
        assert found["others_untouched"]
        assert not found["found_after"]

    def test_concurrent_adds_are_all_found(self, results: Path) -> None:
        found = values(results)["concurrent"]
        assert found["found"] == found["adds"] == found["most_at_once"]
        assert found["errors"] == []
        assert found["seconds"] >= 0.5

    def test_tokens_are_counted(self, results: Path) -> None:
        found = values(results)["tokens"]
        assert found["adds"] == len(found["each"]) == 10
        assert all(tokens > 100 for tokens in found["each"])
        assert 100 < found["text_per_add"] < found["per_add"]
        add = values(results)["size-40"]["add"]
        assert 100 < add["text_tokens_per_add"] < add["tokens_per_add"]

    def test_nobody_else_was_asked_for(self, results: Path) -> None:
        found = values(results)["exit"]
        assert found["hosts"] == {}
        assert {"closed", "left open"} <= set(found)

    def test_the_report_names_its_commands(self, results: Path) -> None:
        report = (results / "report.md").read_text()
        assert "make bench-peers" in report
        for name in MEASURES[:-1]:
            assert f"run.py --small --again {name}`" in report
        assert "run.py --small --sizes 40 --again size-40`" in report
        assert "size-N" not in report
        assert "| memlora |" in report
        assert (results / "peers.png").read_bytes().startswith(b"\x89PNG")

    def test_it_goes_on_where_it_was(self, results: Path) -> None:
        before = json.loads((results / "results.json").read_text())
        told = run(results, *(f"--measure={name}" for name in MEASURES), "--again", "concurrent").splitlines()
        assert [line.split()[0] for line in told if " memlora " in line and " s " in line and "|" not in line] == [
            "concurrent"
        ]
        assert "## At a glance" in told
        after = json.loads((results / "results.json").read_text())
        assert {name for name in MEASURES if after[name] != before[name]} == {"concurrent"}


class TestWhatIsNotMixed:
    def test_another_scale_is_refused_until_it_is_replaced(self, results: Path, tmp_path: Path) -> None:
        shutil.copytree(results, tmp_path / "copy")
        before = (tmp_path / "copy" / "results.json").read_text()
        done = start(tmp_path / "copy", "--measure", "erase", "--limit", "300")
        assert done.returncode == 2
        assert "memlora: another scale (exit, tokens," in done.stderr
        assert "--replace" in done.stderr
        assert (tmp_path / "copy" / "results.json").read_text() == before
        run(tmp_path / "copy", "--measure", "erase", "--limit", "300", "--replace")
        assert list(values(tmp_path / "copy")) == ["erase"]

    @pytest.mark.parametrize("what", ["machine", "installed"])
    def test_another_machine_or_package_is_refused(self, results: Path, tmp_path: Path, what: str) -> None:
        kept = json.loads((results / "results.json").read_text())
        kept["erase"]["memlora"][what] = "another"
        (tmp_path / "results.json").write_text(json.dumps(kept))
        done = start(tmp_path, "--measure", "erase")
        assert done.returncode == 2
        named = "machine" if what == "machine" else "installed package"
        assert f"memlora: another {named} (erase)" in done.stderr

    def test_every_outcome_tells_what_it_was_measured_on(self, results: Path) -> None:
        kept = json.loads((results / "results.json").read_text())
        for measure in kept.values():
            assert measure["memlora"]["scale"] == {"small": True, "limit": 600.0}
            assert len(measure["memlora"]["installed"]["code"]) == 12
            assert measure["memlora"]["load"] >= 0 <= measure["memlora"]["load_after"]

    def test_a_part_is_not_published(self, results: Path) -> None:
        done = start(results, "--measure", "erase", "--publish")
        assert done.returncode == 2
        assert "Not published, not measured: install of memlora" in done.stderr

    def test_results_go_where_git_does_not_look(self) -> None:
        program = "import run; print(run._asked([]).results.relative_to(run.ROOT))"
        done = subprocess.run([sys.executable, "-c", program], cwd=PEERS, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["build/peers"]
        assert "build/" in (PEERS.parents[2] / ".gitignore").read_text().split()

    def test_two_runs_do_not_write_one_file(self, tmp_path: Path) -> None:
        with (tmp_path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = start(tmp_path, "--measure", "erase")
        assert done.returncode == 2
        assert "Another run" in done.stderr
        assert not (tmp_path / "results.json").exists()


class TestWhatGoesWrong:
    @pytest.mark.parametrize(("option", "name"), [("--again", "size-N"), ("--measure", "size-41")])
    def test_an_unknown_measure(self, tmp_path: Path, option: str, name: str) -> None:
        done = start(tmp_path, option, name)
        assert done.returncode == 2
        assert f"no measure is called {name}; there are install," in done.stderr
        assert "size-40" in done.stderr

    def test_a_busy_machine(self, tmp_path: Path) -> None:
        done = start(tmp_path, "--measure", "erase", "--max-load", "-1", "--patience", "0")
        assert done.returncode == 2
        assert "The load average is" in done.stderr
        assert not (tmp_path / "results.json").exists()

    def test_over_the_limit(self, tmp_path: Path) -> None:
        run(tmp_path, "--measure", "duplicates", "--limit", "0.01")
        kept = json.loads((tmp_path / "results.json").read_text())
        assert kept["duplicates"]["memlora"]["over_seconds"] == 0.01
        assert "over 0.01 s" in (tmp_path / "report.md").read_text()

    def test_a_library_that_breaks(self, tmp_path: Path) -> None:
        broken = tmp_path / "python"
        broken.write_text("#!/bin/sh\necho 'ImportError: no such library' >&2\nexit 1\n")
        broken.chmod(0o755)
        run(tmp_path, "--measure", "erase", python=broken)
        kept = json.loads((tmp_path / "results.json").read_text())
        assert kept["erase"]["memlora"]["error"] == "ImportError: no such library"
        assert "failed: ImportError: no such library" in (tmp_path / "report.md").read_text()

    def test_no_environment(self, tmp_path: Path) -> None:
        command = [sys.executable, PEERS / "run.py", "--library", "mem0", "--results", tmp_path]
        command += ["--interpreter", f"mem0={tmp_path / 'none'}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert "make bench-peers" in done.stderr

    def test_foreign_hosts_are_refused_and_written_down(self, tmp_path: Path) -> None:
        program = (
            "import socket, sys, guard\nguard.cut(sys.argv[1])\n"
            "for attempt in (lambda: socket.create_connection(('example.org', 80)),\n"
            "                lambda: socket.socket().connect(('192.0.2.1', 80))):\n"
            "    try:\n        attempt()\n    except OSError:\n        print('refused')\n"
            "server = socket.create_server(('127.0.0.1', 0))\n"
            "socket.create_connection(server.getsockname()).close()\n"
            "print('reached')\n"
        )
        told = tmp_path / "foreign.txt"
        done = subprocess.run(
            [sys.executable, "-c", program, told], cwd=PEERS, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["refused", "refused", "reached"]
        assert told.read_text().split() == ["example.org", "192.0.2.1"]


SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda pair: (min(pair), max(pair))), max_size=6)


class TestTimeApart:
    @given(span=SPANS.filter(bool).map(lambda spans: spans[0]), busy=SPANS)
    def test_a_second_counts_where_nothing_is_busy(self, span: tuple[int, int], busy: list[tuple[int, int]]) -> None:
        free = sum(not any(first <= at < last for first, last in busy) for at in range(*span))
        assert bench.apart([span], busy) == [free]


@cache
def tokenizer() -> Any:
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(f"{find(bench.MINILM).place}/tokenizer.json")
    made.no_truncation()
    made.no_padding()
    return made


def tokens(text: str) -> int:
    return len(tokenizer().encode(text, add_special_tokens=False).ids)


def asked(*messages: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in messages], **more}


def tools(*names: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name}} for name in names]


SAID = "I live in Porto."
LANGMEM = asked(("user", f"=== Human Message ===\n\n{SAID}\n\n=== Ai Message ===\n\nNice."), tools=tools("Memory"))
MEM0 = asked(("user", f"## Existing Memories\n[]\n\n## New Messages\nuser: {SAID}\nassistant: Nice.\n\n## Date\ntoday"))
LLAMA_INDEX = asked(("user", SAID), ("assistant", "Nice."), ("user", "Known: none. Reply as <facts></facts>"))


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    with bench.Model() as model:
        yield model


class TestTokens:
    def count(self, model: Any, body: dict[str, Any]) -> tuple[int, int]:
        """All that is sent, and without tools and schemas."""
        model.set()
        raw = json.dumps({"model": "fake", **body}).encode()
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{model.url}/v1/chat/completions", data=raw) as answer:
            sent = json.load(answer)["usage"]["prompt_tokens"]
        stats = model.stats()
        assert stats["tokens"] == [sent]
        return sent, stats["text_tokens"][0]

    def test_lines_and_quotes_count_as_they_are(self, model: Any) -> None:
        prompt = f'## Existing Memories\n[]\n\n## New Messages\nuser: {SAID} "Yes", I said.\n\n## Date\ntoday'
        assert self.count(model, asked(("user", prompt))) == (tokens(prompt), tokens(prompt))
        assert tokens(prompt) < tokens(json.dumps(prompt))
        parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": prompt}]}]}
        assert self.count(model, parts) == (tokens(prompt), tokens(prompt))

    def test_tools_and_schemas_are_told_apart(self, model: Any) -> None:
        for body, more in ((MEM0, {"response_format": {"type": "json_object"}}), (LANGMEM, {})):
            text = tokens(body["messages"][0]["content"])
            sent = [*body.get("tools", ()), *more.values()]
            assert self.count(model, body | more) == (text + sum(tokens(json.dumps(one)) for one in sent), text)


class TestReplies:
    def test_each_library_gets_its_own_format(self) -> None:
        assert replies.reply(LANGMEM, None).calls == [("Memory", json.dumps({"content": SAID}))]
        assert json.loads(replies.reply(MEM0, None).text) == {"memory": [{"id": "0", "text": SAID}]}
        assert replies.reply(LLAMA_INDEX, None).text == f"<facts><fact>{SAID}</fact></facts>"

    @pytest.mark.parametrize("body", [LANGMEM, MEM0, LLAMA_INDEX])
    @pytest.mark.parametrize("way", set(replies.WAYS) - {"fenced", "unknown id", "500"})
    def test_malformed_is_not_the_right_reply(self, body: dict[str, Any], way: str) -> None:
        right, wrong = replies.reply(body, None), replies.reply(body, way)
        assert (wrong.text, wrong.calls) != (right.text, right.calls)

    def test_a_known_fact_is_not_told_again(self) -> None:
        body = asked(("user", f"## Existing Memories\n[{SAID}]\n\n## New Messages\nuser: {SAID}\n\n## Date\ntoday"))
        assert json.loads(replies.reply(body, None).text) == {"memory": []}

    def test_a_prompt_of_nobody_is_an_error(self) -> None:
        with pytest.raises(replies.NotUnderstoodError, match="Hello"):
            replies.reply(asked(("user", "Hello")), None)
