"""nano on the real vLLM server and in process: the same experts say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest
from servers import real_vllm

from memlora_plugins import nano
from memlora_plugins.errors import ReplyError
from memlora_plugins.experts import clauses, extraction, generation, spans, update
from memlora_plugins.nano.recipe import memories
from memlora_plugins.nano.recipe.dialogue import Author
from memlora_plugins.nano.recipe.relations import RELATIONS, pools
from memlora_plugins.serving.base import Backend, Completion, Request
from memlora_plugins.serving.local import LocalBackend
from memlora_plugins.serving.server import VLLMServer
from memlora_plugins.serving.vllm import VLLMBackend

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not nano.shipped(), reason="nano's weights are not in the package yet: make nano"),
]

T = TypeVar("T")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    log = tmp_path_factory.mktemp("nano") / "server.log"
    with real_vllm(nano.BASE, nano.ADAPTERS, name="nano", log_file=log, exact=True) as server:
        yield server


@pytest.fixture
def author() -> Author:
    """Writes what nano never read: with names and nouns that were kept from its training."""
    return Author(RELATIONS, pools(), 50, "values")


def on_both_sides(server: VLLMServer, requests: Sequence[Request]) -> list[tuple[str, str]]:
    """The replies of the server and those in process, to all requests at once."""

    async def every(backend: Backend) -> list[Completion]:
        try:
            return await asyncio.gather(*(backend.acomplete(request) for request in requests))
        finally:
            await backend.aclose()

    served = asyncio.run(
        every(VLLMBackend(server.base_url, server.model, {expert: expert for expert in nano.ADAPTERS}))
    )
    in_process = asyncio.run(every(LocalBackend(nano.BASE, nano.ADAPTERS, dtype="float32")))
    assert {reply.model for reply in served} == {request.expert for request in requests}
    assert [reply.usage.input_tokens for reply in served] == [reply.usage.input_tokens for reply in in_process]
    return [(one.text, other.text) for one, other in zip(served, in_process, strict=True)]


def understood(read: Callable[..., T], *given: Any) -> T | None:
    """What a reply says; None for one that nothing can be read from."""
    try:
        return read(*given)
    except ReplyError:
        return None


def test_the_facts_of_50_turns(server: VLLMServer, author: Author) -> None:
    scenes = [author.scene() for _ in range(50)]
    replies = on_both_sides(
        server,
        [
            Request("extraction", extraction.messages(asked, "short"), clauses.schema(asked), extraction.MAX_TOKENS)
            for asked in (scene.exchange for scene in scenes)
        ],
    )
    read = [tuple(understood(extraction.read, text) for text in both) for both in replies]
    different = [pair for pair in read if pair[0] != pair[1]]
    assert len(different) <= 1, different
    right = sum(bool(served) and served.facts == scene.facts for (served, _), scene in zip(read, scenes, strict=True))
    assert right >= 25  # what they agree on is not nonsense; the card has the scores


def test_the_decisions_about_memories(server: VLLMServer, author: Author) -> None:
    pairs = [memories.pair(author) for _ in range(20)]
    replies = on_both_sides(
        server,
        [
            Request(
                "update",
                update.messages([str(pair.found)], [pair.new], "short"),
                update.schema([str(pair.found)], [pair.new], verbatim=True),
                update.MAX_TOKENS,
            )
            for pair in pairs
        ],
    )
    decided = [
        tuple(understood(update.read, text, [str(pair.found)], [pair.new]) for text in both)
        for both, pair in zip(replies, pairs, strict=True)
    ]
    different = [pair for pair in decided if pair[0] != pair[1]]
    assert len(different) <= 1, different


def test_the_answers(server: VLLMServer, author: Author) -> None:
    queries = [memories.recalled(author, lambda question, notes: notes[-1]) for _ in range(10)]
    replies = on_both_sides(
        server,
        [
            Request(
                "generation",
                generation.messages(query.question, query.memories, "short", now=query.now),
                max_tokens=generation.MAX_TOKENS,
                pattern=spans.pattern(query.memories),
            )
            for query in queries
        ],
    )
    different = [pair for pair in replies if pair[0] != pair[1]]
    assert len(different) <= 1, different
