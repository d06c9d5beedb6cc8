"""The keywords of JSON Schema that say something about one type of value, as facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from batch.workers.chat.grammar.schema.facts import KINDS, Facts
from batch.workers.chat.grammar.schema.negation import EXCLUDED, FRACTIONAL, UNENFORCED, UNFIT, kind_of
from batch.workers.chat.grammar.schema.shapes import Part, StringRule, as_count, as_number
from batch.workers.chat.grammar.strings.string_formats import EXACT, EXPRESSIONS, INTEGER_BOUNDS, UNENFORCED_FORMATS

SCALARS = "\0scalars"
"""A keyword of our own: the value is one of these, none of which has parts."""
MAX_COUNT = 1 << 20
"""Items, members or characters: no answer is that long, so a larger limit is none."""

MAX_STEP = 20_000
"""Of multipleOf, without the point and the zeros behind: the engine counts remainders, one state for each."""

Assertion = Callable[[Facts, Part, Any], bool | None]
"""Adds what a keyword says to the facts; False when no value is left. Raises ValueError for a keyword that says what
no schema can, NotEnforced for one that no grammar can follow."""


class NotEnforced(Exception):
    """No grammar can follow this keyword."""


def _type(facts: Facts, part: Part, value: Any) -> None:
    types = value if isinstance(value, list) else [value]
    for name in types:
        if name not in (*KINDS, "integer"):
            raise ValueError(f"must be one of {', '.join(KINDS)}, integer or a list of them")
    if "integer" in types and "number" not in types:
        facts.number.as_integers()
    facts.restrict(frozenset("number" if t == "integer" else t for t in types))


def _scalars(facts: Facts, part: Part, value: list[Any]) -> None:
    facts.restrict(frozenset(map(kind_of, value)))
    facts.booleans &= {v for v in value if isinstance(v, bool)}
    facts.string.allow([v for v in value if isinstance(v, str)])
    facts.number.allow([v for v in value if as_number(v) is not None])


def _excluded(facts: Facts, part: Part, value: list[str]) -> None:
    facts.string.excluded += value


def _bound(lower: bool, excluded: bool) -> Assertion:
    def add(facts: Facts, part: Part, value: Any) -> None:
        facts.hint("number")
        if isinstance(value, bool):
            return  # in old drafts a mark on the bound beside it
        mark = "exclusiveMinimum" if lower else "exclusiveMaximum"
        facts.number.bound(_number(value), lower=lower, excluded=excluded or part.schema.get(mark) is True)

    return add


def _fractional(facts: Facts, part: Part, value: bool) -> None:
    facts.number.as_fractions()


def _multiple_of(facts: Facts, part: Part, value: Any) -> None:
    step = abs(_number(value))
    if step == 0:
        raise ValueError("must be greater than 0")
    facts.hint("number")
    facts.number.step(step)
    combined = facts.number.shape.multiple_of
    assert combined is not None
    if _coefficient(combined) > MAX_STEP:
        raise NotEnforced


def _length(lower: bool, kind: str) -> Assertion:
    def add(facts: Facts, part: Part, value: Any) -> None:
        facts.hint(kind)
        sized = facts.sized(kind)
        count = _count(value)
        if not lower:
            sized.most = count if sized.most is None else min(sized.most, count)
            sized.most = None if sized.most > MAX_COUNT else sized.most
        elif count > MAX_COUNT:
            raise NotEnforced
        else:
            sized.least = max(sized.least, count)

    return add


def _pattern(facts: Facts, part: Part, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    facts.hint("string")
    facts.string.rules.append(StringRule("pattern", value, f"{part.where}.pattern"))


def _format(facts: Facts, part: Part, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    if value in INTEGER_BOUNDS:
        low, high = INTEGER_BOUNDS[value]
        facts.number.bound(Fraction(low), lower=True, excluded=False)
        facts.number.bound(Fraction(high), lower=False, excluded=False)
    elif value in UNENFORCED_FORMATS:
        facts.blocked.setdefault("string", (part.where, "format"))
    elif value in EXPRESSIONS:
        facts.hint("string")
        facts.string.rules.append(StringRule("format", value, f"{part.where}.format"))


def _unfit(facts: Facts, part: Part, value: list[str]) -> bool:
    keyword, what = value
    if keyword == "format" and what not in EXACT:
        if what not in EXPRESSIONS and what not in UNENFORCED_FORMATS:
            return False  # every string is of a format that nobody knows
        facts.blocked.setdefault("string", (part.where, "format"))
        return True
    facts.string.rules.append(StringRule(keyword, what, f"{part.where}.{keyword}", negated=True))
    return True


def _items(facts: Facts, part: Part, value: Any) -> None:
    facts.hint("array")
    if isinstance(value, list):
        _first_items(facts, part, value)
        return
    first = part.schema.get("prefixItems")
    start = len(first) if isinstance(first, list) else 0
    facts.array.items.append((start, part.child(value, ".items"), part.evaluates))


def _first_items(facts: Facts, part: Part, value: Any) -> None:
    if not isinstance(value, list):
        raise ValueError("must be a list")
    facts.hint("array")
    facts.array.is_silent |= not part.evaluates
    for at, schema in enumerate(value):
        facts.array.first.setdefault(at, []).append(part.child(schema, f".prefixItems[{at}]"))


def _additional_items(facts: Facts, part: Part, value: Any) -> None:
    first = part.schema.get("items")
    if isinstance(first, list):
        facts.array.items.append((len(first), part.child(value, ".additionalItems"), part.evaluates))


def _unique_items(facts: Facts, part: Part, value: Any) -> None:
    if value is True:
        facts.hint("array")
        facts.array.unique = f"{part.where}.uniqueItems"


def _contains(facts: Facts, part: Part, value: Any) -> bool | None:
    schema = part.schema
    least = _count(schema.get("minContains", 1))
    most = _count(schema["maxContains"]) if "maxContains" in schema else None
    facts.hint("array")
    if least == 0 and most is None:
        return None
    facts.array.contained.append((part.child(value, ".contains"), least, most))
    return None


def _unevaluated_items(facts: Facts, part: Part, value: Any) -> None:
    if value is True or value == {}:
        return
    if _has_applicators(part):
        if part.key != facts.alone:
            raise NotEnforced
        facts.array.unevaluated.append(part.child(value, ".unevaluatedItems"))
        return
    first = part.schema.get("prefixItems", part.schema.get("items"))
    if not isinstance(part.schema.get("items"), dict | bool):
        start = len(first) if isinstance(first, list) else 0
        facts.array.items.append((start, part.child(value, ".unevaluatedItems"), True))


def _properties(facts: Facts, part: Part, value: Any) -> None:
    facts.hint("object")
    for name, schema in _schemas(value).items():
        facts.object.members.setdefault(name, []).append(part.child(schema, f".properties.{name}"))
        if schema is not False and part.evaluates:
            facts.object.described.add(name)


def _pattern_properties(facts: Facts, part: Part, value: Any) -> None:
    facts.hint("object")
    for source, schema in _schemas(value).items():
        where = f"{part.where}.patternProperties"
        facts.object.patterns.append((source, where, part.child(schema, f".patternProperties.{source}")))


def _additional_properties(facts: Facts, part: Part, value: Any) -> None:
    facts.hint("object")
    names = part.schema.get("properties")
    patterns = part.schema.get("patternProperties")
    facts.object.additional.append(
        (
            frozenset(names if isinstance(names, dict) else ()),
            tuple(patterns if isinstance(patterns, dict) else ()),
            part.child(value, ".additionalProperties"),
        )
    )


def _unevaluated_properties(facts: Facts, part: Part, value: Any) -> None:
    if value is True or value == {}:
        return
    if "additionalProperties" in part.schema:
        return
    if not _has_applicators(part):
        _additional_properties(facts, part, value)
    elif part.key == facts.alone:
        facts.hint("object")
        facts.object.unevaluated.append(part.child(value, ".unevaluatedProperties"))
    else:
        raise NotEnforced


def _required(facts: Facts, part: Part, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        if not isinstance(value, bool):  # in draft 3 a mark on the property itself
            raise ValueError("must be a list of strings")
        return
    facts.hint("object")
    facts.object.required.update(dict.fromkeys(value))


def _property_names(facts: Facts, part: Part, value: Any) -> None:
    facts.hint("object")
    facts.object.names.append(part.child(value, ".propertyNames"))


def _unenforced(facts: Facts, part: Part, value: str) -> None:
    facts.blocked.setdefault(part.schema["type"], (part.where, value))


def _number(value: Any) -> Fraction:
    number = as_number(value)
    if number is None:
        raise ValueError("must be a number")
    return number


def _coefficient(step: Fraction) -> int:
    """The digits of a decimal number as a whole number."""
    digits = step.numerator
    for prime in (2, 5):
        other, rest = 7 - prime, step.denominator
        while rest % prime == 0:
            rest //= prime
            digits *= other
    while digits % 10 == 0:
        digits //= 10
    return digits


def _count(value: Any) -> int:
    count = as_count(value)
    if count is None:
        raise ValueError("must be a whole number, 0 or more")
    return count


def _schemas(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return value


def _has_applicators(part: Part) -> bool:
    """Whether schemas beside this one speak of the same value, so that they may evaluate its members too."""
    return not _APPLICATORS.isdisjoint(part.schema)


_APPLICATORS = frozenset(
    {
        "$ref",
        "$dynamicRef",
        "$recursiveRef",
        "allOf",
        "anyOf",
        "oneOf",
        "if",
        "dependentSchemas",
        "dependencies",
    }
)

ASSERTIONS: Mapping[str, Assertion] = {
    "type": _type,
    SCALARS: _scalars,
    EXCLUDED: _excluded,
    UNFIT: _unfit,
    FRACTIONAL: _fractional,
    UNENFORCED: _unenforced,
    "minimum": _bound(lower=True, excluded=False),
    "maximum": _bound(lower=False, excluded=False),
    "exclusiveMinimum": _bound(lower=True, excluded=True),
    "exclusiveMaximum": _bound(lower=False, excluded=True),
    "multipleOf": _multiple_of,
    "minLength": _length(True, "string"),
    "maxLength": _length(False, "string"),
    "pattern": _pattern,
    "format": _format,
    "items": _items,
    "prefixItems": _first_items,
    "additionalItems": _additional_items,
    "minItems": _length(True, "array"),
    "maxItems": _length(False, "array"),
    "uniqueItems": _unique_items,
    "contains": _contains,
    "unevaluatedItems": _unevaluated_items,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "unevaluatedProperties": _unevaluated_properties,
    "required": _required,
    "propertyNames": _property_names,
    "minProperties": _length(True, "object"),
    "maxProperties": _length(False, "object"),
}
"""By keyword."""
