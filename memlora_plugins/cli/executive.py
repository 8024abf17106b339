"""The Executive on the command line: the large model that asks a Memory model, or reads what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from .large_model import LargeModelOptions, model_option, url_option

if TYPE_CHECKING:
    from ..evaluation.harness.endpoints import ExecutiveEndpoint

_EXECUTIVE = "The large model that reasons"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutiveOptions(LargeModelOptions):
    """Where it is."""

    who: ClassVar[str] = "executive"

    executive_url: Annotated[str | None, url_option("executive", _EXECUTIVE)] = None
    executive_model: Annotated[str | None, model_option("executive", _EXECUTIVE)] = None

    def _kind(self) -> type[ExecutiveEndpoint]:
        from ..evaluation.harness.endpoints import ExecutiveEndpoint

        return ExecutiveEndpoint
