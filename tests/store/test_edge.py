"""The embedded store and its folder: crashes, other processes, forks, sharing, and erasing without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import qdrant_edge
from store_data import ANA, DIMENSION, EMBEDDER, distil, fact, put, replace_fact, run, turn, vector

from memlora_plugins.errors import (
    ClosedError,
    InvalidInputError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
)
from memlora_plugins.store import edge as edge_module
from memlora_plugins.store.base import Change
from memlora_plugins.store.edge import EdgeFactStore
from memlora_plugins.types import Scope

BOB = Scope("bob", None, "monday")
SUPPORT = str(Path(__file__).parent.parent / "support")


def opened(path: Path) -> EdgeFactStore:
    store = EdgeFactStore(path)
    run(store.open(EMBEDDER, DIMENSION))
    return store


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another Python process that knows the test data."""
    prelude = "import sys; from store_data import *; from memlora_plugins.store.edge import EdgeFactStore\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([SUPPORT, *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def traces(path: Path, text: str) -> list[Path]:
    """Files under `path` that contain `text`."""
    return [file for file in path.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


class TestKilled:
    WRITER = """
store = EdgeFactStore(sys.argv[1])
run(store.open(EMBEDDER, DIMENSION))
print("ready", flush=True)
for n in range(int(sys.argv[2]), 1000):
    put(store, turn(f"line {n}", at=n))
    print(n, flush=True)
"""

    def test_at_random_moments_no_acknowledged_turn_is_lost_or_doubled(self, tmp_path: Path) -> None:
        path, acknowledged = tmp_path / "memory", -1
        for kill_after in (1, 137, 138, 402, 600, 777, 1000):
            writer = python(self.WRITER, str(path), str(acknowledged + 1))
            assert writer.stdout is not None
            for line in writer.stdout:
                acknowledged = acknowledged if line == "ready\n" else int(line)
                if acknowledged >= kill_after:
                    break
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split()  # acknowledged before the signal came
            writer.wait()
            writer.stdout.close()
            acknowledged = max([acknowledged, *map(int, rest)])
            store = opened(path)
            numbers = [int(t.text.removeprefix("line ")) for t in run(store.turns(ANA))]
            assert numbers == list(range(len(numbers)))
            assert acknowledged < len(numbers) <= acknowledged + 2
            store.close()
        assert acknowledged == 999

    def test_between_noting_an_erase_and_doing_it_the_next_opening_does_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "memory"
        store = opened(path)
        distil(store, turn("the zebra password"), "The zebra password is kept")
        kept = distil(store, turn("bob's words", scope=BOB), "Bob's fact")

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(edge_module._Shard, "flush", die)
        with pytest.raises(KeyboardInterrupt):
            run(store.erase(Scope("ana")))
        monkeypatch.undo()
        assert traces(path, "zebra")
        assert not any("zebra" in file.read_text() for file in path.glob("*.json"))
        store.close()
        store = opened(path)
        assert run(store.facts(BOB)) == kept
        assert run(store.turns(Scope("ana"))) == []
        store.close()
        assert traces(path, "zebra") == []
        assert not (path / "erasing.json").exists()


class TestErase:
    def test_leaves_no_trace_in_any_file_and_others_intact(self, edge: EdgeFactStore) -> None:
        for n in range(30):
            distil(edge, turn(f"zebra line {n}", at=n, name="Zed", metadata={"note": "zebra"}), f"Fact {n} of a zebra")
            distil(edge, turn(f"bob line {n}", scope=BOB, at=n), f"Bob's fact {n}")
        (old, *_) = run(edge.facts(ANA))
        replace_fact(edge, old, "A zebra no more", turn("no zebra", at=99))
        run(edge.flush())
        assert traces(edge.path, "zebra")
        assert run(edge.erase(Scope("ana"))) == 62
        assert traces(edge.path, "zebra") == []
        assert run(edge.count(BOB)) == {"facts": 30, "retired": 0, "turns": 30, "pending": 0}
        assert len(run(edge.search(BOB, "bob line 3", vector("bob line 3"), limit=100))) == 60
        edge.close()
        assert traces(edge.path, "zebra") == []

    def test_of_one_point_among_many_leaves_no_trace(self, edge: EdgeFactStore) -> None:
        put(edge, *(turn(f"bob line {n}", scope=BOB, at=n, pending=False) for n in range(1200)))
        put(edge, turn("one zebra"))
        run(edge.erase(ANA))
        assert traces(edge.path, "zebra") == []
        assert run(edge.count(BOB))["turns"] == 1200

    def test_can_be_followed_by_changes_of_old_points(self, edge: EdgeFactStore) -> None:
        (old,) = distil(edge, turn("bob", scope=BOB), "Bob's fact")
        put(edge, *(turn(f"filler {n}", at=n) for n in range(20)))
        waiting = turn("still to do", scope=BOB, at=3)
        put(edge, waiting)
        run(edge.erase(ANA))
        replace_fact(edge, old, "Bob's new fact", turn("bob again", scope=BOB, at=5))
        run(edge.commit(BOB, Change(done=(waiting.id,))))
        edge.close()
        again = opened(edge.path)
        assert [f.text for f in run(again.facts(BOB))] == ["Bob's new fact"]
        assert run(again.pending()) == []
        assert run(again.erase(BOB)) == 5
        assert run(again.count(BOB))["turns"] == 0
        again.close()

    def test_that_cannot_renew_the_log_says_so(self, edge: EdgeFactStore, monkeypatch: pytest.MonkeyPatch) -> None:
        put(edge, turn("one zebra"))
        monkeypatch.setattr(edge_module, "_FILLERS", 0)
        for _ in range(2):
            with pytest.raises(StoreError, match="still holds"):
                run(edge.erase(ANA))
        monkeypatch.undo()
        put(edge, turn("one zebra"))
        edge.close()
        again = opened(edge.path)
        assert [t.text for t in run(again.turns(ANA))] == ["one zebra"]
        run(again.erase(ANA))
        assert traces(edge.path, "zebra") == []
        again.close()


class TestFolder:
    def test_in_another_process_is_locked_and_says_by_whom(self, tmp_path: Path) -> None:
        holder = python(TestKilled.WRITER + "\nimport time; time.sleep(60)", str(tmp_path), "1000")
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        try:
            with pytest.raises(StoreLockedError, match=rf"process {holder.pid} since .*Qdrant\s+server"):
                opened(tmp_path)
            (tmp_path / "owner.json").write_text("garbage")
            with pytest.raises(StoreLockedError, match="another process"):
                opened(tmp_path)
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()
        opened(tmp_path).close()

    def test_that_cannot_be_written_says_what_to_do(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_text("")
        for path in (file, file / "below"):
            with pytest.raises(StoreUnavailableError, match="Pass a path"):
                opened(path)
        (tmp_path / "memory" / "owner.json.draft").mkdir(parents=True)
        with pytest.raises(StoreUnavailableError):
            opened(tmp_path / "memory")

    def test_with_a_broken_shard_or_settings_is_unavailable(self, edge: EdgeFactStore) -> None:
        edge.close()
        (edge.path / "points" / "edge_config.json").write_text("{")
        with pytest.raises(StoreUnavailableError):
            opened(edge.path)
        (edge.path / "memlora.json").write_text("{")
        with pytest.raises(StoreUnavailableError):
            opened(edge.path)

    def test_of_an_earlier_format_is_refused(self, edge: EdgeFactStore) -> None:
        edge.close()
        notes = edge.path / "memlora.json"
        notes.write_text(notes.read_text().replace('"format": 2', '"format": 1'))
        with pytest.raises(StoreError, match="another version"):
            opened(edge.path)

    def test_left_half_made_is_made_again(self, edge: EdgeFactStore) -> None:
        edge.close()
        (edge.path / "points" / "edge_config.json").unlink()
        (edge.path / "points.draft").mkdir()
        opened(edge.path).close()

    def test_is_shared_in_one_process_until_the_last_one_closes(self, tmp_path: Path) -> None:
        first, second = opened(tmp_path / "memory"), opened(tmp_path / "x" / ".." / "memory")
        put(first, turn("hello"))
        assert len(run(second.turns(ANA))) == 1
        first.close()
        put(second, turn("again", at=1))
        with pytest.raises(ClosedError):
            run(first.turns(ANA))
        probe = """
try:
    run(EdgeFactStore(sys.argv[1]).open(EMBEDDER, DIMENSION))
except Exception as error:
    print(type(error).__name__)
"""
        assert python(probe, str(tmp_path / "memory")).communicate()[0] == "StoreLockedError\n"
        second.close()
        assert python(probe, str(tmp_path / "memory")).communicate()[0] == ""
        third = opened(tmp_path / "memory")
        assert len(run(third.turns(ANA))) == 2
        third.close()

    def test_must_be_opened_first(self, tmp_path: Path) -> None:
        store = EdgeFactStore(tmp_path)
        with pytest.raises(StoreError, match="open"):
            run(store.turns(ANA))
        store.close()

    def test_is_flushed_every_so_often(self, edge: EdgeFactStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(edge_module, "_FLUSH_EVERY", 2)
        put(edge, turn("one"))
        put(edge, turn("two", at=5))
        assert '"ack_index"' in (edge.path / "points" / "wal" / "first-index").read_text()

    def test_whose_engine_fails_is_unavailable(self, edge: EdgeFactStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(qdrant_edge.UpdateOperation, "upsert_points", lambda points: _broken_operation())
        with pytest.raises(StoreUnavailableError, match="cannot be used"):
            put(edge, turn("hello"))


def _broken_operation() -> qdrant_edge.UpdateOperation:
    """An operation that Edge refuses: of a point that is not there."""
    missing = "00000000-0000-0000-0000-000000000000"
    return qdrant_edge.UpdateOperation.set_payload([missing], {"a": 1})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
class TestFork:
    def test_in_the_child_every_use_raises_and_the_parent_goes_on(self, edge: EdgeFactStore) -> None:
        put(edge, turn("hello"))
        code = f"""
import os
store = EdgeFactStore({str(edge.path / "child")!r})
run(store.open(EMBEDDER, DIMENSION))
put(store, turn("hello"))
pid = os.fork()
if pid == 0:
    for flow in (store.turns(ANA), store.put_turns([]), store.erase(ANA), store.flush(), store.open(EMBEDDER, 16)):
        try:
            run(flow)
        except Exception as error:
            print(type(error).__name__, flush=True)
    store.close()
    try:
        run(EdgeFactStore({str(edge.path / "child")!r}).open(EMBEDDER, DIMENSION))
    except Exception as error:
        print(type(error).__name__, flush=True)
    own = EdgeFactStore({str(edge.path / "own")!r})
    run(own.open(EMBEDDER, DIMENSION))
    put(own, turn("of the child"))
    own.close()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
put(store, turn("again", at=1))
print(len(run(store.turns(ANA))))
store.close()
"""
        said, _ = python(code).communicate(timeout=60)
        assert said.split() == ["ForkedError"] * 5 + ["StoreLockedError", "2"]


def test_many_threads_read_and_write_at_once(edge: EdgeFactStore) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        scope = Scope(f"user{number}", None, "s")
        try:
            for n in range(15):
                distil(edge, turn(f"line {n}", scope=scope, at=n), f"Fact {n} of {number}")
                hits = run(edge.search(scope, f"Fact {n}", vector(f"Fact {n}"), limit=50))
                assert {hit.session_id for hit in hits} <= {"s", None}
                assert len(hits) == 2 * (n + 1)
            if number == 3:
                run(edge.erase(Scope("nobody")))
        except BaseException as error:  # noqa: BLE001 (told to the test)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert run(edge.count(Scope("user5")))["facts"] == 15


def test_a_value_that_edge_cannot_take_is_the_callers_mistake(edge: EdgeFactStore) -> None:
    said = turn("x")
    with pytest.raises(InvalidInputError):
        run(edge.commit(ANA, Change(add=((fact("x", said), vector("x")[:2]),))))
