"""A fake Generator on loopback: it makes pairs of sentences like "Ada lives in Porto.", by rules.

"She plays chess." makes a question that has to be rewritten, "It rains in Porto." one that has to be discarded.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fake_server import FakeModelServer

from memlora_plugins.memo.corpus import Chunk, Corpus, Document

_SENTENCE = re.compile(r"(\w+) (lives in|works at|plays|rains in) (\w+)\.")
Pair = dict[str, Any]


class FakeGenerator(FakeModelServer):
    """`timeline` has the time of every change of the number of chat requests under way, and that number."""

    def __init__(self) -> None:
        super().__init__()
        self.timeline: list[tuple[float, int]] = []
        for name, answer in _RULES.items():
            self.reply(name, answer)

    def enter(self, body: dict[str, Any]) -> None:
        super().enter(body)
        self.timeline.append((time.perf_counter(), self._concurrent))

    def leave(self) -> None:
        super().leave()
        self.timeline.append((time.perf_counter(), self._concurrent))

    def asked_of(self, name: str) -> list[str]:
        """The data of the requests of one step."""
        return [data_of(body) for body in self.asked(name)]


def data_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def pairs_of(data: str) -> list[Pair]:
    """The numbered pairs in a request's data."""
    return [json.loads(line) for line in data.split("\n") if line.startswith('{"n": ')]


def makes(*pairs: tuple[str, str] | tuple[str, str, Sequence[int]], **more: Any) -> str:
    """A reply with pairs, and what they were made from."""
    told = [{"question": one[0], "answer": one[1], **({"from": list(one[2])} if len(one) > 2 else {})} for one in pairs]
    return json.dumps({"pairs": [{**pair, **more} for pair in told]})


def judges(*verdicts: tuple[Any, ...]) -> str:
    """A reply with verdicts: a number and a word, for "rewrite" also the question and the answer."""
    names = ("n", "verdict", "question", "answer", "reason")
    return json.dumps({"verdicts": [dict(zip(names, (*one, "", "", "so"), strict=False)) for one in verdicts]})


def direct(body: dict[str, Any]) -> str:
    return makes(*((f"{who} {does} what?", what) for who, does, what in _SENTENCE.findall(data_of(body))))


def indirect(body: dict[str, Any]) -> str:
    return makes(*((f"How many things are told of {who}?", str(n)) for who, n in _counted(data_of(body))))


def consolidate(body: dict[str, Any]) -> str:
    """Joins the pairs about the same person."""
    about: dict[str, list[Pair]] = {}
    for pair in pairs_of(data_of(body)):
        if pair["question"].endswith("what?"):
            about.setdefault(pair["question"].split()[0], []).append(pair)
    joined = [(who, pairs) for who, pairs in about.items() if len(pairs) > 1]
    return makes(
        *(
            (f"What is {who} about?", ", ".join(one["answer"] for one in pairs), [one["n"] for one in pairs])
            for who, pairs in joined
        )
    )


def verify(body: dict[str, Any]) -> str:
    text, _, _ = data_of(body).partition("\n---\n")
    who = text.split()[0]
    verdicts: list[tuple[Any, ...]] = []
    for pair in pairs_of(data_of(body)):
        question = pair["question"]
        if "It " in question:
            verdicts.append((pair["n"], "discard"))
        elif "She" in question:
            verdicts.append((pair["n"], "rewrite", question.replace("She", who), pair["answer"]))
        else:
            verdicts.append((pair["n"], "keep"))
    return judges(*verdicts)


def entities(body: dict[str, Any]) -> str:
    """Asks who it is, of every fact."""
    facts = [pair for pair in pairs_of(data_of(body)) if pair["question"].endswith("what?")]
    made = []
    for pair in facts:
        who, _, does = pair["question"].removesuffix(" what?").partition(" ")
        made.append((f"Who {does} {pair['answer']}?", who, [pair["n"]]))
    return makes(*made)


def cross(body: dict[str, Any]) -> str:
    """Asks what two persons share."""
    one, _, other = data_of(body).partition("\n---\n")
    shared = [
        (f"What do {a['answer']} and {b['answer']} share?", a["question"].removeprefix("Who "), [a["n"], b["n"]])
        for a in pairs_of(one)
        for b in pairs_of(other)
        if a["question"] == b["question"] and a["question"].startswith("Who ")
    ]
    return makes(*shared, kind="parallel")


_RULES: dict[str, Callable[[dict[str, Any]], str]] = {
    "memo_direct": direct,
    "memo_indirect": indirect,
    "memo_consolidate": consolidate,
    "memo_verify": verify,
    "memo_entities": entities,
    "memo_cross": cross,
}


def a_corpus(*texts: str, groups: dict[str, Iterable[int]] | None = None) -> Corpus:
    """Documents d0, d1, … of one chunk each; groups name them by number."""
    documents = tuple(Document(f"d{n}", text, title=f"Title {n}") for n, text in enumerate(texts))
    chunks = tuple(Chunk(f"{one.id}#1", one.id, one.text) for one in documents)
    named = {name: tuple(f"d{n}#1" for n in numbers) for name, numbers in (groups or {}).items()}
    return Corpus(documents, chunks, named)


def wide_corpus(documents: int, group: int) -> Corpus:
    """People who all play chess, in groups of so many."""
    texts = [f"Ada{n} lives in Town{n}. Ada{n} plays chess. She works at Firm{n}." for n in range(documents)]
    return a_corpus(*texts, groups={f"g{at}": range(at, at + group) for at in range(0, documents, group)})


def _counted(text: str) -> list[tuple[str, int]]:
    told = [who for who, _, _ in _SENTENCE.findall(text) if who not in ("She", "It")]
    return [(who, told.count(who)) for who in dict.fromkeys(told)]
