"""What it takes to be invalid under a schema, written as schemas again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from batch.workers.chat.grammar.schema.facts import KINDS
from batch.workers.chat.grammar.schema.shapes import as_count, as_number

EXCLUDED = "\0excluded"
"""A keyword of our own: strings that the value must not be."""
UNFIT = "\0unfit"
"""A keyword of our own: [pattern or format, expression or name] that a string must not fit."""
FRACTIONAL = "\0fractional"
"""A keyword of our own: a number is not whole."""
UNENFORCED = "\0unenforced"
"""A keyword of our own: the name of the one that no grammar can follow here."""

Schema = Any
Option = list[Schema]

_OPPOSITE = {
    "minLength": ("string", "maxLength"),
    "minItems": ("array", "maxItems"),
    "minProperties": ("object", "maxProperties"),
    "maxLength": ("string", "minLength"),
    "maxItems": ("array", "minItems"),
    "maxProperties": ("object", "minProperties"),
}
_UNENFORCED = {
    "multipleOf": "number",
    "uniqueItems": "array",
    "unevaluatedItems": "array",
    "additionalProperties": "object",
    "patternProperties": "object",
    "propertyNames": "object",
    "unevaluatedProperties": "object",
}


def violations(schema: Mapping[str, Any]) -> list[Option]:
    """Alternatives of which at least one holds exactly for the values that the schema does not allow: each is a list of
    schemas that hold at once. None: everything is allowed."""
    options: list[Option] = []
    for keyword, value in schema.items():
        options += _violations(schema, keyword, value)
    return options


def _violations(schema: Mapping[str, Any], keyword: str, value: Any) -> Iterable[Option]:
    match keyword:
        case "$ref" | "$dynamicRef" | "$recursiveRef":
            return [[{"not": {keyword: value}}]]
        case "not":
            return [[value]]
        case "allOf" if isinstance(value, list):
            return [[{"not": part}] for part in value]
        case "anyOf" if isinstance(value, list):
            return [[{"not": part} for part in value]]
        case "oneOf" if isinstance(value, list):
            return [[{"not": part} for part in value], *(list(pair) for pair in combinations(value, 2))]
        case "if":
            return [
                *([[value, {"not": schema["then"]}]] if "then" in schema else []),
                *([[{"not": value}, {"not": schema["else"]}]] if "else" in schema else []),
            ]
        case "type":
            return _other_types(value if isinstance(value, list) else [value])
        case "const":
            return _other_values([value])
        case "enum" if isinstance(value, list):
            return _other_values(value)
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            return _outside(schema, keyword, value)
        case "pattern" | "format" if isinstance(value, str):
            return [[{"type": "string", UNFIT: [keyword, value]}]]
        case "required" if isinstance(value, list):
            return [[_without(name)] for name in value]
        case "properties" if isinstance(value, dict):
            return [[_with(name, {"not": part})] for name, part in value.items()]
        case "prefixItems" if isinstance(value, list):
            return [_failing_item(at, part) for at, part in enumerate(value)]
        case "contains" if not {"minContains", "maxContains"} & set(schema):
            return [[{"type": "array", "items": {"not": value}}]]
        case "dependentRequired" if isinstance(value, dict):
            return [[_with(name, True), _without(other)] for name, others in value.items() for other in others]
    return _countable(schema, keyword, value)


def _countable(schema: Mapping[str, Any], keyword: str, value: Any) -> Iterable[Option]:
    if keyword in _OPPOSITE:
        kind, opposite = _OPPOSITE[keyword]
        count = (as_count(value) or 0) + (1 if keyword.startswith("max") else -1)
        return [[{"type": kind, opposite: count}]] if count >= 0 else []
    if keyword in ("items", "additionalItems", "contains"):
        return [] if value is True or value == {} else [[{"type": "array", UNENFORCED: keyword}]]
    if keyword in ("dependentSchemas", "dependencies") and isinstance(value, dict):
        return [
            [_with(name, True), *([{"not": part}] if not isinstance(part, list) else [{"not": {"required": part}}])]
            for name, part in value.items()
        ]
    says_nothing = value is not True if keyword == "uniqueItems" else value is True or value == {}
    if keyword not in _UNENFORCED or says_nothing:
        return []
    return [[{"type": _UNENFORCED[keyword], UNENFORCED: keyword}]]


def _other_types(types: list[Any]) -> list[Option]:
    excluded = {"number" if t == "integer" else t for t in types}
    options: list[Option] = [[{"type": [k for k in KINDS if k not in excluded]}]] if len(excluded) < len(KINDS) else []
    if "integer" in types and "number" not in types:
        options.append([{"type": "number", FRACTIONAL: True}])
    return options


def _other_values(values: list[Any]) -> list[Option]:
    by_kind: dict[str, list[Any]] = {}
    for value in values:
        by_kind.setdefault(kind_of(value), []).append(value)
    options = _other_types(list(by_kind))
    for kind, listed in by_kind.items():
        if kind == "string":
            options.append([{"type": "string", EXCLUDED: listed}])
        elif kind == "boolean":
            options += [[{"const": other}] for other in (True, False) if not any(other is v for v in listed)]
        elif kind == "number":
            options += _between(sorted(set(listed)))
        elif kind != "null":
            options.append([{"type": kind, UNENFORCED: "const"}])
    return options


def _between(numbers: list[Any]) -> list[Option]:
    """The stretches beside and between the numbers."""
    low: dict[str, Any] = {"type": "number"}
    options: list[Option] = []
    for number in numbers:
        options.append([{**low, "exclusiveMaximum": number}])
        low = {"type": "number", "exclusiveMinimum": number}
    return [*options, [low]]


def _outside(schema: Mapping[str, Any], keyword: str, value: Any) -> list[Option]:
    lower = keyword.endswith("inimum")
    if isinstance(value, bool) or as_number(value) is None:
        return []  # in old drafts a mark on the bound beside it
    excluded = keyword.startswith("exclusive") or schema.get("exclusiveMinimum" if lower else "exclusiveMaximum") is True
    opposite = ("maximum" if lower else "minimum") if excluded else ("exclusiveMaximum" if lower else "exclusiveMinimum")
    return [[{"type": "number", opposite: value}]]


def _failing_item(at: int, part: Schema) -> Option:
    return [{"type": "array", "minItems": at + 1, "prefixItems": [*[True] * at, {"not": part}]}]


def _with(name: str, part: Schema) -> Schema:
    return {"type": "object", "required": [name], "properties": {name: part}}


def _without(name: str) -> Schema:
    return {"type": "object", "properties": {name: False}}


def kind_of(value: Any) -> str:
    """The type of a JSON value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
    return "object"
