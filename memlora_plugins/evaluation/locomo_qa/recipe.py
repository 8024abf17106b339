"""What the answers of a LoCoMo run are made with besides its models: prompts and ranking, machine and packages."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from ...experts import extraction, generation, update
from ...flows.asking import RETRY_TEMPERATURE
from ...serving.base import PromptStyle
from ...store import ranking
from ...training.identity import digest
from ...types import Hit
from ..harness.machine import Machine, this_machine, versions

_PACKAGES = ("memlora-plugins", "torch", "transformers", "peft", "qdrant-edge-py")
_STYLES: tuple[PromptStyle, ...] = ("short", "full")
_DAY = datetime(2024, 2, 29, 12, tzinfo=UTC)


class MadeOn(BaseModel):
    """Where and how a part of a run was made: `models` says where the model computed, `concurrency` how many calls were
    under way at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: Machine
    versions: str
    models: str
    concurrency: int

    def __str__(self) -> str:
        return f"{self.machine}; models {self.models}, {self.concurrency} calls at once; {self.versions}"


def made_here(models: str, concurrency: int) -> MadeOn:
    """On this machine, with the packages that are installed now."""
    return MadeOn(machine=this_machine(), versions=versions(*_PACKAGES), models=models, concurrency=concurrency)


def recipe() -> dict[str, str]:
    """What all rows have in common, by name: the version of this package, and digests of what an expert is asked (in
    both styles, about invented lines), of the schemas, and of what is fixed in a ranking.
    """
    said = extraction.Exchange("I live in Porto.", "Ana", "Where do you live?", "Ben", _DAY)
    hits = [
        Hit(id="1", kind="turn", text="I live in Porto.", score=1.0, created_at=_DAY, role="user", name="Ana"),
        Hit(id="2", kind="fact", text="Ana lives in Porto", score=1.0, created_at=_DAY),
    ]
    old, new = ["Ana lives in Faro"], ["Ana lives in Porto"]
    asked = {
        "extraction": [
            [extraction.messages(said, style) for style in _STYLES],
            *(extraction.SCHEMA, extraction.MAX_TOKENS, RETRY_TEMPERATURE),
        ],
        "update": [
            [update.messages(old, new, style) for style in _STYLES],
            *(update.SCHEMA, update.MAX_TOKENS, RETRY_TEMPERATURE),
        ],
        "generation": [
            [generation.messages("Where?", hits, style, now=_DAY) for style in _STYLES],
            generation.MAX_TOKENS,
        ],
    }
    ranked = [ranking.WINDOW, ranking.COUNTING, ranking.SATURATION, ranking.RRF]
    return {
        "version of memlora-plugins": versions("memlora-plugins").removeprefix("memlora-plugins "),
        **{f"prompt of {expert}": digest(what) for expert, what in asked.items()},
        "ranking, what is fixed": digest(ranked),
    }
