"""A JSON Schema as a grammar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeGuard
from urllib.parse import unquote

from batch.errors import BadRequest
from batch.workers.chat.grammar.gbnf import Rules
from batch.workers.chat.grammar.integer_range import integers
from batch.workers.chat.grammar.regex import Pattern
from batch.workers.chat.grammar.value_syntax import Syntax

_DEEPEST = 64
_MOST_WORK = 50_000
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_HINTS = {
    "object": ("properties", "additionalProperties", "required", "patternProperties", "propertyNames"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


class SchemaGrammar:
    """Adds a schema's rules to a grammar.

    What a grammar cannot follow and a value can still satisfy (uniqueItems, multipleOf, not, if) is not enforced; what
    cannot be understood (an unknown type, a $ref that leads nowhere) is BadRequest, as is a pattern with look-around,
    unless `lenient`, which takes any string there.
    """

    def __init__(self, root: Any, syntax: Syntax, *, lenient: bool = False) -> None:
        self._root = root
        self._syntax = syntax
        self._rules: Rules = syntax.rules
        self._lenient = lenient
        self._refs: dict[str, str] = {}
        self._active: list[str] = []
        """References on the way to here that no bracket lies between: meeting one again would never end."""
        self._depth = 0
        self._work = 0
        self.rule = self._visit(root, "")

    def _visit(self, schema: Any, where: str) -> str:
        """The name of the rule for a schema; `where` is its path, for errors."""
        self._spend(1 + (len(schema) if isinstance(schema, Mapping) else 0))
        with self._deeper(where):
            return self._rule(schema, where)

    @contextmanager
    def _deeper(self, where: str) -> Iterator[None]:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._refuse(where, "is nested too deeply")
        try:
            yield
        finally:
            self._depth -= 1

    def _rule(self, schema: Any, where: str) -> str:
        if schema is True or schema == {}:
            return self._syntax.value
        if not isinstance(schema, Mapping):
            self._refuse(where, "must be an object" if schema is not False else "allows no value")
        if "$ref" in schema:
            return self._reference(schema["$ref"], where)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._union([self._with(schema, key, one) for one in self._listed(schema, key, where)], where)
        if "allOf" in schema:
            return self._visit(self._all(schema, where), where)
        if "const" in schema:
            return self._rules.add(self._syntax.constant(schema["const"]))
        if "enum" in schema:
            values = self._listed(schema, "enum", where)
            return self._rules.add(" | ".join(dict.fromkeys(self._syntax.constant(v) for v in values)))
        kind = schema.get("type")
        if schema.get("nullable") is True:  # OpenAPI's way
            return self._union([{k: v for k, v in schema.items() if k != "nullable"}, {"type": "null"}], where)
        if isinstance(kind, list):
            if not kind:
                self._refuse(where, "has an empty type list")
            return self._union([{**schema, "type": k} for k in kind], where)
        if kind is None:
            kind = next((k for k, hints in _HINTS.items() if any(h in schema for h in hints)), None)
        return self._typed(kind, schema, where)

    def _typed(self, kind: Any, schema: Mapping[str, Any], where: str) -> str:
        syntax = self._syntax
        match kind:
            case None:
                return syntax.value
            case "object":
                return self._bracketed(lambda: self._object(schema, where))
            case "array":
                return self._bracketed(lambda: self._array(schema, where))
            case "string":
                return self._rules.add(self._string(schema, where))
            case "integer":
                return self._integer(schema, where)
            case "number":
                least = schema.get("minimum", schema.get("exclusiveMinimum"))
                return syntax.number(signed=not (_is_number(least) and least >= 0))
            case "boolean":
                return self._rules.add('"true" | "false"')
            case "null":
                return self._rules.add('"null"')
        self._refuse(where, f"has an unknown type, it must be one of {', '.join(_TYPES)}")

    def _bracketed(self, make: Any) -> str:
        active, self._active = self._active, []
        try:
            return self._rules.add(make())
        finally:
            self._active = active

    def _object(self, schema: Mapping[str, Any], where: str) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        more = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
        patterns = schema.get("patternProperties", {})
        if not isinstance(properties, Mapping) or not isinstance(patterns, Mapping):
            self._refuse(where, "has properties that are not an object")
        if not isinstance(required, list) or not all(isinstance(r, str) for r in required):
            required = []
        if not properties and not patterns and not required and more in (None, True, {}) and not _counted(schema):
            return self._syntax.any_object
        if more is None:
            more = not properties and not patterns
        syntax = self._syntax
        names = [*properties, *(r for r in dict.fromkeys(required) if r not in properties)]
        members = {
            name: self._rules.add(
                syntax.pair(syntax.key(name), self._visit(properties.get(name, True), f"{where}.properties.{name}"))
            )
            for name in names
        }
        must = [members[n] for n in names if n in required]
        may = [members[n] for n in names if n not in required]
        others = []
        for pattern, value in patterns.items():
            name = self._rules.add(self._pattern(pattern, syntax.text(), where))
            others.append(syntax.other_pair(name, self._visit(value, f"{where}.patternProperties")))
        if more is not False:
            key = self._other_key(schema.get("propertyNames"), names, where)
            others.append(syntax.other_pair(key, self._visit(more, f"{where}.additionalProperties")))
        other = self._rules.add(" | ".join(others)) if others else None
        if not names and other:
            least, most = self._counts(schema, "minProperties", "maxProperties", where)
            return syntax.object(self._rules.listed(other, syntax.comma, least, most))
        return syntax.object(self._members(must, may, other))

    def _members(self, must: list[str], may: list[str], other: str | None) -> str:
        """Required members in order, then any of the optional ones in order, then others."""
        comma = self._syntax.comma
        tail = f"({comma} {other})*" if other else ""
        # tails[i]: what may follow once something stands before, from the i-th optional member on
        tails = [""] * len(may) + [tail]
        for at in range(len(may) - 1, -1, -1):
            behind = self._rules.add(tails[at + 1]) if tails[at + 1] else ""
            tails[at] = f"({comma} {may[at]})? {behind}".rstrip()
        if must:
            return f" {comma} ".join(must) + (f" {tails[0]}" if tails[0] else "")
        ways = [f"{m} {tails[at + 1]}".rstrip() for at, m in enumerate(may)]
        if other:
            ways.append(f"{other} {tail}")
        return f"({' | '.join(ways)})?" if ways else ""

    def _other_key(self, names_schema: Any, names: list[str], where: str) -> str:
        if isinstance(names_schema, Mapping) and ("pattern" in names_schema or "enum" in names_schema):
            if "enum" in names_schema:
                values = self._listed(names_schema, "enum", where)
                return self._rules.add(" | ".join(self._syntax.key(str(v)) for v in values))
            return self._rules.add(self._pattern(names_schema["pattern"], self._syntax.text(), where))
        return self._syntax.other_key(names)

    def _array(self, schema: Mapping[str, Any], where: str) -> str:
        items = schema.get("items", True)
        first = schema.get("prefixItems", [])
        if isinstance(items, list):
            first, items = items, schema.get("additionalItems", True)
        if not isinstance(first, list):
            self._refuse(f"{where}.prefixItems", "must be a list")
        least, most = self._counts(schema, "minItems", "maxItems", where)
        syntax = self._syntax
        if not first:
            if items is False:
                return syntax.array("")
            return syntax.array(self._rules.listed(self._visit(items, f"{where}.items"), syntax.comma, least, most))
        heads = [self._visit(s, f"{where}.prefixItems[{i}]") for i, s in enumerate(first)]
        body = f" {syntax.comma} ".join(heads)
        if items is not False and ("items" in schema or "additionalItems" in schema) and items is not True:
            more = f"{syntax.comma} {self._visit(items, f'{where}.items')}"
            left = None if most is None else max(most - len(heads), 0)
            body += " " + self._rules.repeat(more, max(least - len(heads), 0), left)
        return syntax.array(body)

    def _string(self, schema: Mapping[str, Any], where: str) -> str:
        syntax = self._syntax
        if "pattern" in schema:
            return self._pattern(schema["pattern"], syntax.text(), where)
        made = syntax.format(str(schema.get("format")))
        if made:
            return made
        least, most = self._counts(schema, "minLength", "maxLength", where)
        if least == 0 and most is None:
            return syntax.text()
        return syntax.string(self._rules.repeat(syntax.char([(0, 0x10FFFF)]), least, most))

    def _pattern(self, pattern: Any, fallback: str, where: str) -> str:
        if not isinstance(pattern, str):
            self._refuse(where, "has a pattern that is not a string")
        try:
            return self._syntax.string(Pattern(pattern, self._rules, self._syntax.char).body)
        except BadRequest:
            if not self._lenient:
                raise
            return fallback

    def _integer(self, schema: Mapping[str, Any], where: str) -> str:
        low, high, above, under = (schema.get(k) for k in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
        # In old drafts the exclusive ones are booleans about the others.
        lows = [math.ceil(low) + (above is True)] if _is_number(low) else []
        lows += [math.floor(above) + 1] if _is_number(above) else []
        highs = [math.floor(high) - (under is True)] if _is_number(high) else []
        highs += [math.ceil(under) - 1] if _is_number(under) else []
        least, most = max(lows, default=None), min(highs, default=None)
        if least is None and most is None:
            return self._syntax.integer
        made = integers(least, most)
        if not made:
            self._refuse(where, "allows no integer")
        return self._rules.add(made)

    def _union(self, schemas: list[Any], where: str) -> str:
        rules = [self._visit(s, where) for s in schemas if s is not False]
        if not rules:
            self._refuse(where, "allows no value")
        return self._rules.add(" | ".join(dict.fromkeys(rules)))

    def _reference(self, reference: Any, where: str) -> str:
        if reference in self._active:
            self._refuse(where, f"refers to itself through {reference!r} without an end")
        if reference not in self._refs:
            target = self._target(reference, where)
            self._refs[reference] = name = self._rules.reserve()
            self._active.append(reference)
            try:
                self._rules.define(name, self._visit(target, reference))
            finally:
                self._active.pop()
        return self._refs[reference]

    def _target(self, reference: Any, where: str) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            self._refuse(where, f"has a $ref ({str(reference)[:80]!r}) that does not begin with #")
        node: Any = self._root
        for step in reference[1:].split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(node, Mapping) and step in node:
                node = node[step]
            elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
            else:
                self._refuse(where, f"has a $ref ({reference[:80]!r}) that leads nowhere")
        return node

    def _with(self, schema: Mapping[str, Any], key: str, one: Any) -> Any:
        """An alternative together with what stands beside the anyOf."""
        base = {k: v for k, v in schema.items() if k != key and k not in _BESIDE}
        return {"allOf": [base, one]} if base and one is not False else one

    def _all(self, schema: Mapping[str, Any], where: str) -> Any:
        """One schema for an allOf and what stands beside it."""
        made: Any = {k: v for k, v in schema.items() if k != "allOf"}
        for part in self._listed(schema, "allOf", where):
            seen: set[str] = set()
            while isinstance(part, Mapping) and "$ref" in part:
                reference = part["$ref"]
                if reference in seen or reference in self._active:
                    self._refuse(where, f"refers to itself through {reference!r} without an end")
                seen.add(str(reference))
                part = {**self._deref(reference, where), **{k: v for k, v in part.items() if k != "$ref"}}
            if isinstance(part, Mapping) and "allOf" in part:
                with self._deeper(where):
                    part = self._all(part, where)
            made = self._merge(made, part, where)
        return made

    def _deref(self, reference: Any, where: str) -> dict[str, Any]:
        target = self._target(reference, where)
        return dict(target) if isinstance(target, Mapping) else {}

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > _MOST_WORK:
            self._rules.too_large()

    def _merge(self, a: Any, b: Any, where: str) -> Any:
        if b is True or b == {}:
            return a
        if not isinstance(b, Mapping):
            self._refuse(where, "allows no value" if b is False else "has a part that is no schema")
        made = {**a, **b}
        self._spend(len(made))
        if "properties" in a and "properties" in b:
            made["properties"] = {**a["properties"]}
            for name, value in b["properties"].items():
                old = made["properties"].get(name)
                made["properties"][name] = value if old is None or old == value else {"allOf": [old, value]}
        if "required" in a and "required" in b:
            made["required"] = [*a["required"], *b["required"]]
        if a.get("additionalProperties") is False or b.get("additionalProperties") is False:
            made["additionalProperties"] = False
        if "enum" in a and "enum" in b:
            made["enum"] = [v for v in a["enum"] if v in b["enum"]]
        for key in ("anyOf", "oneOf"):
            if key in a and key in b and a[key] != b[key]:
                # Both must hold: one alternative of each, in every combination.
                self._spend(len(a[key]) * len(b[key]))
                made[key] = [{"allOf": [x, y]} for x in a[key] for y in b[key]]
        return made

    def _listed(self, schema: Mapping[str, Any], key: str, where: str) -> list[Any]:
        value = schema[key]
        if not isinstance(value, list) or not value:
            self._refuse(f"{where}.{key}", "must be a list that is not empty")
        return list(value)

    def _counts(self, schema: Mapping[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
        least, most = schema.get(low, 0), schema.get(high)
        for key, value in ((low, least), (high, most)):
            if value is not None and (not _is_number(value) or value != int(value) or value < 0):
                self._refuse(f"{where}.{key}", "must be a whole number, 0 or more")
        least = int(least or 0)
        if most is not None and int(most) < least:
            self._refuse(where, f"has a {high} below its {low}")
        return least, None if most is None else int(most)

    def _refuse(self, where: str, why: str) -> NoReturn:
        raise BadRequest(f"{self._rules.field}{where} {why}."[:400])


_BESIDE = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "$defs",
        "definitions",
        "$schema",
        "$id",
        "$comment",
        "discriminator",
        "deprecated",
        "readOnly",
        "writeOnly",
        "nullable",
        "example",
    }
)


def _counted(schema: Mapping[str, Any]) -> bool:
    return any(k in schema for k in ("minProperties", "maxProperties", "propertyNames"))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
