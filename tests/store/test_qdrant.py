"""The server store: its clients and errors, and commits that are interrupted or interleaved between any two calls."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient, QdrantClient
from store_data import ANA, DIMENSION, EMBEDDER, arun, distil, fact, put, replace_fact, retirement, run, turn, vector

from memlora_plugins.errors import (
    ClosedError,
    ConflictError,
    ForkedError,
    SettingsError,
    StoreError,
    StoreUnavailableError,
)
from memlora_plugins.flows.effects import Call, Flow
from memlora_plugins.store import steps
from memlora_plugins.store.base import Change, FactStore, NewSources
from memlora_plugins.store.qdrant import QdrantFactStore
from memlora_plugins.types import Fact, Turn


def opened(client: QdrantClient) -> QdrantFactStore:
    store = QdrantFactStore(client=client)
    run(store.open(EMBEDDER, DIMENSION))
    return store


class Stepper:
    """Runs a flow one call at a time."""

    def __init__(self, flow: Flow[Any]) -> None:
        self._flow = flow
        self._result: Any = None
        self.outcome = ""

    def step(self) -> None:
        if self.outcome:
            return
        try:
            effect = self._flow.send(self._result)
            assert isinstance(effect, Call)
            self._result = effect.sync()
        except StopIteration:
            self.outcome = "done"
        except ConflictError:
            self.outcome = "conflict"

    def finish(self) -> str:
        while not self.outcome:
            self.step()
        return self.outcome


class TestInterrupted:
    """A writer dies after any number of calls; the turn is distilled again, as the flows do it."""

    @pytest.mark.parametrize("after_reopening", [True, False])
    def test_a_replacement_is_carried_out_by_whoever_comes_next(
        self, after_reopening: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(steps, "_ABANDONED_AFTER", timedelta(0))
        for calls in range(1, 30):
            client = QdrantClient(":memory:")
            store = opened(client)
            (old,) = distil(store, turn("I live in Lisbon"), "Lives in Lisbon")
            said = turn("I moved to Porto", at=5)
            put(store, said)
            new = fact("Lives in Porto", said, version=2, operation="UPDATE")
            change = Change(add=((new, vector(new.text)),), retire=(retirement(old, new),), done=(said.id,))
            stepper = Stepper(store.commit(ANA, change))
            for _ in range(calls):
                stepper.step()
            if after_reopening:
                store = opened(client)
            self.distil_again(store, said, new, change)
            assert run(store.facts(ANA)) == [new]
            gone = [f for f in run(store.facts(ANA, retired=True)) if f.retired]
            assert [(f.id, f.superseded_by) for f in gone] == [(old.id, new.id)]
            assert run(store.pending()) == []
            if stepper.outcome == "done":
                return
        raise AssertionError("the commit did not end")

    def distil_again(self, store: FactStore, said: Turn, new: Fact, change: Change) -> None:
        if not run(store.turns(ANA, ids=[said.id]))[0].pending:
            return
        (known,) = run(store.same_text(ANA, [new.text]))
        if known is not None:
            change = Change(sources=(NewSources(known.id, known.version, (said.message_id,)),), done=(said.id,))
        run(store.commit(ANA, change))


class TestInterleaved:
    """Two writers, their calls in any order."""

    @given(st.lists(st.booleans(), max_size=24))
    @settings(max_examples=40, deadline=None)
    def test_of_one_turn_one_wins_and_its_fact_stays(self, order: list[bool]) -> None:
        store = opened(QdrantClient(":memory:"))
        said = turn("said")
        put(store, said)
        change = Change(add=((fact("Likes tea", said), vector("Likes tea")),), done=(said.id,))
        outcomes = self.interleave(store, order, change, change)
        assert sorted(outcomes) == ["conflict", "done"]
        assert [f.text for f in run(store.facts(ANA, retired=True))] == ["Likes tea"]
        assert run(store.pending()) == []

    @given(st.lists(st.booleans(), max_size=30))
    @settings(max_examples=40, deadline=None)
    def test_replacing_one_fact_one_wins_and_the_other_leaves_nothing(self, order: list[bool]) -> None:
        store = opened(QdrantClient(":memory:"))
        (old,) = distil(store, turn("I live in Lisbon"), "Lives in Lisbon")
        moves = [turn("to Porto", at=1), turn("to Faro", at=2)]
        put(store, *moves)
        changes = []
        for said in moves:
            new = fact(f"Moved {said.text}", said, version=2)
            changes.append(Change(add=((new, None),), retire=(retirement(old, new),), done=(said.id,)))
        outcomes = self.interleave(store, order, *changes)
        assert sorted(outcomes) == ["conflict", "done"]
        winner, loser = sorted(moves, key=lambda said: outcomes[moves.index(said)], reverse=True)
        (left,) = run(store.facts(ANA))
        assert left.text == f"Moved {winner.text}"
        assert run(store.pending()) == [loser]
        assert len(run(store.facts(ANA, retired=True))) == 2
        assert run(store.superseded(ANA, [left.id]))[0].id == old.id

    @given(st.lists(st.booleans(), max_size=30))
    @settings(max_examples=40, deadline=None)
    def test_saying_the_same_they_leave_one_fact_with_both_sources(self, order: list[bool]) -> None:
        store = opened(QdrantClient(":memory:"))
        turns = [turn("one", at=1), turn("two", at=2)]
        put(store, *turns)
        changes = [Change(add=((fact("Likes tea", said), None),), done=(said.id,)) for said in turns]
        assert self.interleave(store, order, *changes) == ["done", "done"]
        (left,) = run(store.facts(ANA))
        assert set(left.sources) == {"one", "two"}

    def interleave(self, store: FactStore, order: list[bool], *changes: Change) -> list[str]:
        steppers = [Stepper(store.commit(ANA, change)) for change in changes]
        for second in order:
            steppers[second].step()
        return [stepper.finish() for stepper in steppers]


class TestSources:
    def test_of_a_fact_that_is_gone_are_a_conflict(self) -> None:
        store = opened(QdrantClient(":memory:"))
        with pytest.raises(ConflictError, match="gone"):
            run(steps.add_origins(store._engine, "00000000-0000-0000-0000-000000000000", [["a", "b"]]))

    def test_that_cannot_be_written_for_the_crowd_are_a_conflict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = opened(QdrantClient(":memory:"))
        (known,) = distil(store, turn("one"), "Likes tea")
        monkeypatch.setattr(steps, "_ATTEMPTS", 0)
        with pytest.raises(ConflictError, match="many"):
            run(store.commit(ANA, Change(sources=(NewSources(known.id, 1, ("two",)),))))

    def test_are_added_again_when_another_came_first(self) -> None:
        store = opened(QdrantClient(":memory:"))
        (known,) = distil(store, turn("one"), "Likes tea")
        writers = [
            Stepper(store.commit(ANA, Change(sources=(NewSources(known.id, 1, (name,)),)))) for name in ("two", "three")
        ]
        while not all(writer.outcome for writer in writers):
            for writer in writers:
                writer.step()
        assert set(run(store.facts(ANA))[0].sources) == {"one", "two", "three"}


class FakeQdrant(BaseHTTPRequestHandler):
    """A fake Qdrant server that answers everything with one status."""

    status: ClassVar[int] = 500

    def answer(self) -> None:
        body = b'{"status": {"error": "because"}}'
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def fake_url(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (FakeQdrant,), {"status": request.param})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class TestServer:
    @pytest.mark.parametrize(
        ("fake_url", "error", "words"),
        [
            (500, StoreUnavailableError, "Check that it runs"),
            (401, StoreUnavailableError, "API key"),
            (422, StoreError, "refused"),
        ],
        indirect=["fake_url"],
    )
    async def test_that_refuses_is_a_typed_error(self, fake_url: str, error: type[StoreError], words: str) -> None:
        store = QdrantFactStore(url=fake_url)
        with pytest.raises(error, match=words):
            run(store.open(EMBEDDER, DIMENSION))
        with pytest.raises(error, match=words):
            await arun(store.open(EMBEDDER, DIMENSION))
        await store.aclose()
        await store.aclose()

    async def test_that_is_not_there_is_unavailable(self) -> None:
        store = QdrantFactStore(url="http://127.0.0.1:9")
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9"):
            run(store.open(EMBEDDER, DIMENSION))
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9"):
            await arun(store.open(EMBEDDER, DIMENSION))
        with pytest.raises(StoreError, match="not open yet"):
            run(store.turns(ANA))
        await store.aclose()

    def test_collections_of_others_are_left_alone(self) -> None:
        client = QdrantClient(":memory:")
        client.create_collection("memlora", vectors_config={})
        with pytest.raises(StoreError, match="another collection"):
            run(QdrantFactStore(client=client).open(EMBEDDER, DIMENSION))

    async def test_given_clients_are_used_and_left_open(self) -> None:
        client, aclient = QdrantClient(":memory:"), AsyncQdrantClient(":memory:")
        store = QdrantFactStore(client=client, aclient=aclient)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # local mode has no payload indexes
            run(store.open(EMBEDDER, DIMENSION))
            await arun(store.open(EMBEDDER, DIMENSION))
        said = turn("hello")
        await arun(store.put_turns([(said, vector("hello"))]))
        assert await arun(store.turns(ANA)) == [said]
        assert run(store.turns(ANA)) == []  # two memories in this test, one per client
        assert "http" in store.describe()
        await store.aclose()
        with pytest.raises(ClosedError):
            run(store.turns(ANA))
        assert client.collection_exists("memlora")
        assert await aclient.collection_exists("memlora")

    def test_each_event_loop_has_its_client(self) -> None:
        engine: Any = QdrantFactStore()._engine
        clients = engine._clients

        async def twice() -> tuple[AsyncQdrantClient, AsyncQdrantClient]:
            pair = clients.asynchronous(), clients.asynchronous()
            await clients.aclose()
            return pair

        one, two = asyncio.run(twice()), asyncio.run(twice())
        assert one[0] is one[1]
        assert one[0] is not two[0]
        assert clients.sync() is clients.sync()
        clients.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    def test_use_in_a_forked_child_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = opened(QdrantClient(":memory:"))
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(ForkedError, match="fork"):
            run(store.turns(ANA))
        store.close()
        monkeypatch.undo()
        assert run(store.turns(ANA)) == []


def test_versions_chain_on_a_server_as_anywhere() -> None:
    store = opened(QdrantClient(":memory:"))
    (old,) = distil(store, turn("one"), "a")
    for n in range(3):
        old = replace_fact(store, old, f"version {n}", turn(f"turn {n}", at=n + 1))
    assert [f.text for f in run(store.facts(ANA))] == ["version 2"]
    assert run(store.count(ANA))["retired"] == 3


@pytest.mark.parametrize("url", ["127.0.0.1:6333", "ftp://host", "http://", "http://ana:s3cret@host", "http://[::1"])
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="url") as refused:
        QdrantFactStore(url=url)
    assert "s3cret" not in str(refused.value)
