"""The short prompts are the shorter ones; `tests/benchmarks/test_prompt_lengths.py` counts how short."""

from __future__ import annotations

from memlora_plugins.experts import generation, vision
from memlora_plugins.types import ImagePart


def test_short_prompts_are_the_shorter_ones() -> None:
    image = ImagePart("https://example.org/a.png")
    for ask in (generation.messages("q", [], "short"), generation.messages("q", [], "full")):
        assert ask[0]["content"]
    assert len(str(generation.messages("q", [], "short"))) < len(str(generation.messages("q", [], "full"))) / 2
    assert len(str(vision.messages("q", image, "short"))) < len(str(vision.messages("q", image, "full"))) / 2
