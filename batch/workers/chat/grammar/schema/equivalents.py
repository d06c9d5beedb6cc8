"""Schemas that say with other keywords what a schema says."""

from __future__ import annotations

from typing import Any


def equivalent_of_nullable(schema: dict[str, Any]) -> list[Any]:
    """OpenAPI's way to allow null."""
    return [{k: v for k, v in schema.items() if k != "nullable"}, {"type": "null"}]


def equivalent_of_const(value: dict[str, Any] | list[Any]) -> dict[str, Any]:
    """The schema of exactly this object or array."""
    if isinstance(value, list):
        return {
            "type": "array",
            "prefixItems": [{"const": v} for v in value],
            "items": False,
            "minItems": len(value),
        }
    return {
        "type": "object",
        "properties": {k: {"const": v} for k, v in value.items()},
        "required": list(value),
        "additionalProperties": False,
    }
