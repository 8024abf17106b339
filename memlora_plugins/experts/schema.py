"""JSON schemas as strict servers want them: every key required, no others allowed."""

from __future__ import annotations

from typing import Any


def strict_object(**properties: Any) -> dict[str, Any]:
    """The schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
