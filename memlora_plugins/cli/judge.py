"""The judge on the command line: the large model that says whether an answer is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from .large_model import LargeModelOptions, model_option, url_option

if TYPE_CHECKING:
    from ..evaluation.harness.endpoints import JudgeEndpoint

_JUDGE = "The judge"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions(LargeModelOptions):
    """Where it is."""

    who: ClassVar[str] = "judge"

    judge_url: Annotated[str | None, url_option("judge", _JUDGE)] = None
    judge_model: Annotated[str | None, model_option("judge", _JUDGE)] = None

    def _kind(self) -> type[JudgeEndpoint]:
        from ..evaluation.harness.endpoints import JudgeEndpoint

        return JudgeEndpoint
