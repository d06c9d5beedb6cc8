"""Parameters of functions as Gemma 4's template can write them: it knows one plain type at each place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batch.workers.chat.dialects.template_values import TemplateObject, TemplateValue

MAX_DEPTH = 16
_TYPES: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def plain_tools(tools: Sequence[TemplateValue]) -> list[TemplateValue]:
    """The same tools, each place of their parameters with a plain type: references followed, null as `nullable`."""
    plain: list[TemplateValue] = []
    for tool in tools:
        function = dict(tool.get("function") or {})
        if isinstance(parameters := function.get("parameters"), dict):
            function["parameters"] = _plain(parameters, parameters, 0)
        plain.append({**tool, "function": function})
    return plain


def _plain(schema: Any, root: TemplateObject, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return schema
    place = {k: v for k, v in schema.items() if k not in ("$ref", "anyOf", "oneOf", "allOf")}
    ways = [_target(schema["$ref"], root)] if "$ref" in schema else []
    for keyword in ("anyOf", "oneOf"):
        options = schema.get(keyword) if isinstance(schema.get(keyword), list) else []
        values = [option for option in options or () if option != {"type": "null"}]
        if len(values) < len(options or ()):
            place["nullable"] = True
        ways += values[:1]
    ways += schema["allOf"] if isinstance(schema.get("allOf"), list) else []
    for way in ways:
        place = {**_plain(way, root, depth + 1), **place} if isinstance(way, dict) else place
    _set_type(place)
    if isinstance(properties := place.get("properties"), dict):
        place["properties"] = {name: _plain(part, root, depth + 1) for name, part in properties.items()}
    if "items" in place:
        place["items"] = _plain(place["items"], root, depth + 1)
    return place


def _set_type(place: TemplateObject) -> None:
    """One type, read from a list of types, a const or an enum where there is none."""
    if "const" in place:
        place.setdefault("enum", [place.pop("const")])
    kind = place.get("type")
    if isinstance(kind, list):
        kinds = [name for name in kind if name != "null"]
        place["type"] = kinds[0] if kinds else "null"
        if len(kinds) < len(kind):
            place["nullable"] = True
    elif kind is None and isinstance(values := place.get("enum"), list):
        types = [_TYPES[type(value)] for value in values if type(value) in _TYPES]
        if types:
            place["type"] = types[0]


def _target(reference: Any, root: TemplateObject) -> Any:
    node: Any = root
    for step in str(reference).removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        node = node.get(step) if isinstance(node, dict) else None
    return node if node is not root else None
