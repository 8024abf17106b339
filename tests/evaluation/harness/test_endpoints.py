"""Large models that an evaluation asks: what an address may hold."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from memlora_plugins.evaluation.harness.endpoints import (
    Endpoint,
    ExecutiveEndpoint,
    JudgeEndpoint,
    ValidatorEndpoint,
)


@pytest.mark.parametrize("kind", [ExecutiveEndpoint, JudgeEndpoint, ValidatorEndpoint])
def test_an_address_with_a_password_is_refused_and_not_shown(kind: type[Endpoint]) -> None:
    with pytest.raises(ValidationError, match="api_key_env names the variable with the key") as error:
        kind(base_url="https://somebody:SECRET@models.example/v1", model="large")
    assert "SECRET" not in str(error.value)
    at = "https://models.example/v1?for=a@b"
    assert kind(base_url=at, model="large").base_url == at
