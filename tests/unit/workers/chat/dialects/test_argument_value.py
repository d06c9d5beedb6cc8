"""Of which types a schema lets a value be."""

from __future__ import annotations

from typing import Any

import pytest

from batch.workers.chat.dialects.derived.argument_value import ANY_TYPE, possible_types

LIST: dict[str, Any] = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Node"}]}
ROOT = {"$defs": {"Node": {"type": "object", "properties": {"next": LIST}}, "Self": {"anyOf": [{"$ref": "#/$defs/Self"}]}}}


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        (LIST, {"null", "object"}),
        ({"$ref": "#/$defs/Self"}, ANY_TYPE),
        ({"allOf": [LIST, {"type": ["object", "string"]}]}, {"object"}),
        ({"anyOf": [{"const": 1}, {"enum": ["a", None]}]}, {"number", "string", "null"}),
        ({"type": "integer", "$ref": "#/$defs/Node"}, set()),
        (None, ANY_TYPE),
    ],
)
def test_a_schema_says_of_which_types_a_value_may_be(schema: Any, types: set[str]) -> None:
    assert possible_types(schema, ROOT) == types


def test_alternatives_of_alternatives_are_each_looked_at_once() -> None:
    root = {"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"} for _ in range(500)]}}}
    assert possible_types({"$ref": "#/$defs/A"}, root) == ANY_TYPE
