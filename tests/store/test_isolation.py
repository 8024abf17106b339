"""Ten thousand random operations by twenty people: no id or text of one ever reaches another."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from store_data import distil, put, retirement, run, turn, vector

from memlora_plugins.errors import ConflictError
from memlora_plugins.store.base import Change, NewSources
from memlora_plugins.store.edge import EdgeFactStore
from memlora_plugins.store.rows import json_ready, text_key
from memlora_plugins.types import Fact, Hit, Scope, Turn, normalise

PEOPLE = [f"person{n}" for n in range(20)]
TOPICS = ("tea", "cats", "Lisbon", "running", "chess")


class Crowd:
    """People who use one store at the same time, and who check all that they are given."""

    def __init__(self, store: EdgeFactStore, seed: int) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.ids: list[tuple[str, str]] = []
        self.said = 0

    def check(self, person: str, items: Iterable[Turn | Fact | Hit | None]) -> None:
        for item in items:
            if item is not None:
                assert item.text.startswith(f"{person} "), f"{person} was given {item.text!r}"

    def scope(self, person: str) -> Scope:
        agent = self.random.choice([None, None, "bot"])
        return Scope(person, agent, self.random.choice([None, "a", "b"]))

    def step(self) -> None:
        person = self.random.choice(PEOPLE)
        action: Callable[[str, Scope], None] = self.random.choice(
            [self.say, self.say, self.say, self.search, self.look, self.meddle, self.near, self.list, self.list]
        )
        action(person, self.scope(person))

    def say(self, person: str, scope: Scope) -> None:
        self.said += 1
        text = f"{person} talks of {self.random.choice(TOPICS)}"
        said = turn(text, scope=scope, id=str(self.said % 50), at=self.said)
        if self.random.random() < 0.5:
            self.check(person, put(self.store, said))
            return
        try:
            facts = distil(self.store, said, f"{text} often", f"{text} {self.said}")
        except ConflictError:
            return
        self.ids += [(person, id) for id in (said.id, *(fact.id for fact in facts))]

    def search(self, person: str, scope: Scope) -> None:
        text = self.random.choice(TOPICS)
        hits = run(self.store.search(scope, text, vector(text), limit=20))
        self.check(person, hits)

    def near(self, person: str, scope: Scope) -> None:
        text = f"someone talks of {self.random.choice(TOPICS)} often"
        (near,) = run(self.store.neighbours(scope, [vector(text)], limit=10))
        self.check(person, [fact for fact, _ in near])

    def list(self, person: str, scope: Scope) -> None:
        self.check(person, run(self.store.turns(scope, limit=5)))
        self.check(person, run(self.store.facts(scope, retired=True)))

    def look(self, person: str, scope: Scope) -> None:
        if self.ids:
            owner, id = self.random.choice(self.ids)
            found = run(self.store.get(scope, id))
            assert owner == person or found is None
            self.check(person, [found])
            self.check(person, run(self.store.superseded(scope, [id])))
            self.check(person, run(self.store.turns(scope, ids=[id])))

    def meddle(self, person: str, scope: Scope) -> None:
        """Change a fact, maybe of somebody else: then it must not work."""
        if not self.ids:
            return
        owner, id = self.random.choice(self.ids)
        seen = run(self.store.get(Scope(owner), id))
        if not isinstance(seen, Fact):
            return
        change: dict[str, Any] = self.random.choice(
            [{"retire": (retirement(seen),)}, {"sources": (NewSources(id, seen.version, ("x",)),)}]
        )
        try:
            run(self.store.commit(scope, Change(**change)))
        except ConflictError:
            return
        assert owner == person


def test_ten_thousand_operations_by_twenty_people(edge: EdgeFactStore) -> None:
    crowd = Crowd(edge, seed=7)
    for number in range(10_000):
        crowd.step()
        if number % 2500 == 2499:
            gone = crowd.random.choice(PEOPLE)
            before = {person: run(edge.count(Scope(person))) for person in PEOPLE if person != gone}
            run(edge.erase(Scope(gone)))
            assert {person: run(edge.count(Scope(person))) for person in before} == before
            assert not any(run(edge.count(Scope(gone))).values())
    assert crowd.said > 2000


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_metadata_is_kept_as_it_is(metadata: dict[str, Any]) -> None:
    assert json_ready(metadata) == metadata


@given(st.text(), st.text())
@settings(max_examples=200)
def test_texts_have_one_key_exactly_when_they_say_the_same(one: str, other: str) -> None:
    assert (text_key(one) == text_key(other)) == (normalise(one) == normalise(other))
