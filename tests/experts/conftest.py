"""What the tests of the experts share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def grammars(tiny_model: Any) -> Any:
    """Compiles grammars for the tiny model's tokenizer, as the backend in process does."""
    from transformers import AutoTokenizer

    from memlora_plugins.serving.grammar import Grammars

    tokenizer = AutoTokenizer.from_pretrained(tiny_model.path)
    return Grammars(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
