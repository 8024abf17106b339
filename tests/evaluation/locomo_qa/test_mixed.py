"""A backend of two: who is asked as which expert, and that both are closed."""

from __future__ import annotations

import pytest
from scripted import FakeBackend

from memlora_plugins.evaluation.locomo_qa.mixed import MixedBackend
from memlora_plugins.serving.base import Backend, Completion, Request

STAGES = ("extraction", "update", "generation")


class Named(FakeBackend):
    """Says its name as every expert, and has it as its prompt style; `failing` when it is closed."""

    def __init__(self, name: str, *, failing: bool = False) -> None:
        super().__init__(**{stage: lambda _: name for stage in STAGES})
        self.name, self.failing, self.times = name, failing, 0

    def prompt_style(self, expert: str) -> str:
        return self.name

    def describe(self) -> str:
        return self.name

    def close(self) -> None:
        self.times += 1
        if self.failing:
            raise OSError(f"{self.name} cannot be closed")

    async def aclose(self) -> None:
        self.close()


def mixed(*, failing: bool = False) -> tuple[MixedBackend, Named, Named]:
    small, large = Named("small"), Named("large", failing=failing)
    return MixedBackend(small, dict.fromkeys(STAGES[:2], large)), small, large  # type: ignore[arg-type]


async def test_each_expert_is_asked_of_its_own_backend() -> None:
    backend, small, large = mixed()
    assert isinstance(backend, Backend)
    for stage, name in zip(STAGES, ("large", "large", "small"), strict=True):
        request = Request(stage, [{"role": "user", "content": "?"}])
        assert backend.prompt_style(stage) == name  # type: ignore[arg-type,comparison-overlap]
        assert backend.complete(request).text == name
        assert (await backend.acomplete(request)).text == name
        *_, last = backend.stream(request)
        assert isinstance(last, Completion)
        pieces = [piece async for piece in backend.astream(request)]
        assert (pieces[0], last.text) == (name, name)
    assert (len(small.requests), len(large.requests)) == (4, 8)
    assert backend.describe() == "small; extraction by large; update by large"


async def test_both_are_closed_once_also_where_one_cannot_be() -> None:
    backend, small, large = mixed()
    backend.close()
    await backend.aclose()
    assert (small.times, large.times) == (2, 2)
    backend, small, large = mixed(failing=True)
    with pytest.raises(OSError, match="large cannot be closed"):
        backend.close()
    with pytest.raises(OSError, match="large cannot be closed"):
        await backend.aclose()
    assert (small.times, large.times) == (2, 2)
