"""The validator on the command line: the small vision model that says which questions about images are hard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from .large_model import LargeModelOptions, model_option, url_option

if TYPE_CHECKING:
    from ..evaluation.harness.endpoints import ValidatorEndpoint

_VALIDATOR = "The small model that says what is hard"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorOptions(LargeModelOptions):
    """Where it is."""

    who: ClassVar[str] = "validator"

    validator_url: Annotated[str | None, url_option("validator", _VALIDATOR)] = None
    validator_model: Annotated[str | None, model_option("validator", _VALIDATOR)] = None

    def _kind(self) -> type[ValidatorEndpoint]:
        from ..evaluation.harness.endpoints import ValidatorEndpoint

        return ValidatorEndpoint
