"""nano: the small model that ships, a base and one LoRA adapter for each of extraction, update and generation.

It is what `Memory.open()` runs where no other model is configured and its weights are there. `CARD.md` beside them says
what it was made of, how well it does and what it cannot do; `recipe/` is what makes it (`make nano`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
BASE = FOLDER / "base"
ADAPTERS: dict[str, str] = {expert: str(FOLDER / expert) for expert in ("extraction", "update", "generation")}
"""Expert to the folder of its adapter."""


def shipped() -> bool:
    """Whether the weights are there."""
    return (BASE / "model.safetensors").is_file()


SETTINGS: dict[str, Any] = {
    "neighbours_per_fact": 1,
    "facts_per_update": 1,
    "memories_per_answer": 1,
    "exchange_chars": 400,
    "answer_budget": 240,
    "quoted_facts": True,
    "quoted_answers": True,
}
"""What so small a model can take at a time, and how it notes facts; the defaults of a memory that runs it."""
OF_GENERATION = frozenset(("answer_budget", "memories_per_answer", "quoted_answers"))
"""Those of its generation expert; the rest go with its extraction expert."""
