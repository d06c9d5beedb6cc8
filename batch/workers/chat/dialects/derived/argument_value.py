"""The value of an argument that stands between tags: text as it is, anything else as JSON."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

_TYPES: dict[type, str] = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}
_MAX_LITERAL_CHARS = 65_536
"""Of a list or object in Python's notation, which some templates show: a longer one stays text."""
_MAX_DEPTH = 8
ANY_TYPE = frozenset((*_TYPES.values(), "null"))


def possible_types(
    schema: Any, root: Any, depth: int = 0, types_by_part: dict[int, frozenset[str]] | None = None
) -> frozenset[str]:
    """The types that a schema allows, "integer" among "number".

    `types_by_part`: those of parts that were looked at already, by their identity, as alternatives may refer to one another.
    """
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return ANY_TYPE
    types_by_part = {} if types_by_part is None else types_by_part
    if id(schema) in types_by_part:
        return types_by_part[id(schema)]
    types_by_part[id(schema)] = types = ANY_TYPE  # what a part says of itself by a reference to itself
    if (kind := schema.get("type")) is not None:
        kinds = kind if isinstance(kind, list) else [kind]
        types &= frozenset("number" if name == "integer" else str(name) for name in kinds)
    values = schema.get("enum") if isinstance(schema.get("enum"), list) else [schema["const"]] if "const" in schema else None
    if values is not None:
        types &= frozenset(_TYPES.get(type(value), "null") for value in values)
    if isinstance(reference := schema.get("$ref"), str):
        types &= possible_types(_target(reference, root), root, depth + 1, types_by_part)
    for keyword in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(keyword), list):
            types &= frozenset().union(*(possible_types(option, root, depth + 1, types_by_part) for option in options))
    if isinstance(parts := schema.get("allOf"), list):
        for part in parts:
            types &= possible_types(part, root, depth + 1, types_by_part)
    types_by_part[id(schema)] = types
    return types


def read_value(text: str, types: frozenset[str]) -> str:
    """The JSON of a value that was written as `text`."""
    value: Any = text
    word = text.strip()
    if types != {"string"}:
        parsed = _parsed(word, text)
        is_fit = _TYPES.get(type(parsed), "null") in types
        if is_fit and not (isinstance(parsed, str) and "string" in types):
            value = parsed
    return json_text(value)


def json_text(value: Any) -> str:
    """A value as JSON that is text: halves of characters, which escapes may write, are joined or replaced."""
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parsed(word: str, text: str) -> Any:
    try:
        return json.loads(word)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(word) if len(word) <= _MAX_LITERAL_CHARS else text
        json.dumps(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
    return value


def _target(reference: str, root: Any) -> Any:
    node = root
    for step in reference.removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        node = node.get(step) if isinstance(node, Mapping) else None
    return node
