"""What a JSON Schema says is what its grammar lets through."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any

import pytest

from batch.errors import BadRequest, Unavailable
from batch.workers.chat.grammar import matcher as grammar_matcher
from grammar_setup import matcher, schema, takes, tiny_model, tiny_vocabulary

GOOD_AND_BAD: list[tuple[str, Any, list[Any], list[Any]]] = [
    ("any object", {}, [{}, {"a": [1, {"b": None}]}], [[1], 3, "x"]),
    ("any object, as true", True, [{}, {"a": 1}], [[]]),
    ("types", {"type": "string"}, ["", 'a "quoted" \\ text\n', "é漢🙂"], [1, None, []]),
    ("type list", {"type": ["integer", "null"]}, [0, -12, None], [1.5, "1"]),
    ("nullable", {"type": "integer", "nullable": True}, [3, None], ["x"]),
    ("number", {"type": "number"}, [0, -1.25, 1e30], ["1"]),
    ("number from 0", {"type": "number", "minimum": 0}, [0, 2.5], [-1]),
    ("boolean", {"type": "boolean"}, [True, False], [0, None]),
    ("enum", {"enum": ["red", 3, None, {"a": [1]}]}, ["red", 3, None], ["green", 4]),
    ("const", {"const": "x\ny"}, ["x\ny"], ["x"]),
    ("integer range", {"type": "integer", "minimum": -5, "maximum": 17}, [-5, -1, 0, 9, 10, 17], [-6, 18, 100, 1.5]),
    ("integer above", {"type": "integer", "exclusiveMinimum": 99}, [100, 12345], [99, 0, -5]),
    ("integer below", {"type": "integer", "maximum": -10}, [-10, -99, -100000], [-9, 0, 5]),
    ("old exclusive bound", {"type": "integer", "minimum": 3, "exclusiveMinimum": True, "maximum": 9}, [4, 9], [3, 10]),
    ("length", {"type": "string", "minLength": 2, "maxLength": 4}, ["ab", "äöü", "abcd"], ["a", "abcde"]),
    ("long length", {"type": "string", "maxLength": 2500}, ["", "x" * 2499, "x" * 2500], ["x" * 2501]),
    ("long least length", {"type": "string", "minLength": 305}, ["x" * 305, "x" * 400], ["x" * 304]),
    (
        "pattern",
        {"type": "string", "pattern": r"^[A-Z]{2}-\d+(\.(a|b))?$"},
        ["AB-1", "XY-12.b"],
        ["ab-1", "AB-", "AB-1.c"],
    ),
    ("pattern without anchors", {"type": "string", "pattern": "b+"}, ["b", "abba"], ["aaa"]),
    ("pattern with escapes", {"type": "string", "pattern": r'^"\\[^"]*"$'}, ['"\\x"'], ['"x"']),
    ("format", {"type": "string", "format": "date"}, ["2024-02-29"], ["2024-13-01", "x"]),
    (
        "date-time",
        {"type": "string", "format": "date-time"},
        ["2024-02-29T10:00:00Z", "2024-02-29T10:00:00+01:00"],
        ["2024"],
    ),
    ("uuid", {"format": "uuid", "type": "string"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    (
        "required and optional",
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {}},
            "required": ["b"],
        },
        [{"b": "x"}, {"a": 1, "b": "x"}, {"a": 1, "b": "x", "c": [1]}, {"b": "x", "c": None}],
        [{}, {"a": 1}, {"b": 1}, {"b": "x", "d": 1}],
    ),
    (
        "only optional",
        {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
        [{}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}],
        [{"c": 1}, {"b": 2, "a": 1}],
    ),
    (
        "additional properties",
        {"type": "object", "properties": {"ab": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
        [{}, {"ab": 1}, {"ab": 1, "x": "y", "abc": "z", "a": "q"}, {"": "empty"}],
        [{"ab": "s"}, {"x": 1}],
    ),
    (
        "map",
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 2},
        [{"a": 1}, {"a": 1, "b": 2}],
        [{}, {"a": 1, "b": 2, "c": 3}, {"a": "x"}],
    ),
    (
        "pattern properties",
        {"type": "object", "patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False},
        [{}, {"n_a": 1, "n_b": 2}],
        [{"a": 1}, {"n_a": "x"}],
    ),
    (
        "items",
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
        [[1], [1, 2, 3]],
        [[], [1] * 4, ["x"]],
    ),
    (
        "tuple",
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        [[1, "a"], [1], []],
        [["a", 1], [1, "a", 2]],
    ),
    (
        "anyOf",
        {"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"k": {"const": 1}}, "required": ["k"]}]},
        [3, {"k": 1}],
        ["x", {}],
    ),
    (
        "anyOf beside properties",
        {"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": 1}, {"b": 1}],
        [{}],
    ),
    (
        "allOf",
        {
            "allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": {"type": "integer"}}, "required": ["b"]}],
            "$defs": {"A": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}},
        },
        [{"a": "x", "b": 1}],
        [{"a": "x"}, {"b": 1}],
    ),
    (
        "recursion",
        {
            "$ref": "#/$defs/Node",
            "$defs": {
                "Node": {
                    "type": "object",
                    "properties": {
                        "value": {"type": "integer"},
                        "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
                    },
                    "required": ["value", "children"],
                }
            },
        },
        [
            {"value": 1, "children": []},
            {"value": 1, "children": [{"value": 2, "children": [{"value": 3, "children": []}]}]},
        ],
        [{"value": 1}, {"value": 1, "children": [2]}],
    ),
    (
        "recursion of the root",
        {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]},
        [{"next": {"next": None}}],
        [{"next": 1}],
    ),
    ("no type", {"properties": {"a": {"type": "integer"}}, "required": ["a"]}, [{"a": 1}], [{}, 1]),
    ("anything inside", {"type": "object", "properties": {"x": True}, "required": ["x"]}, [{"x": [1, "a", {}]}], [{}]),
    (
        "odd names",
        {"type": "object", "properties": {'a"b\\c\n': {"type": "integer"}}, "required": ['a"b\\c\n']},
        [{'a"b\\c\n': 1}],
        [{"abc": 1}],
    ),
    # each of these was silently wrong, or refused, with grammars of our own
    ("anchor", {"$ref": "#b", "$defs": {"B": {"$anchor": "b", "type": "integer"}}}, [3], ["x", None, {}]),
    ("two bounds", {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, [3, 5], [2, 6]),
    ("two lower bounds", {"type": "integer", "allOf": [{"minimum": 3}, {"minimum": 5}]}, [5, 9], [3, 4]),
    ("tuple cut", {"type": "array", "prefixItems": [{"type": "integer"}] * 3, "maxItems": 2}, [[], [1], [1, 2]], [[1, 2, 3]]),
    ("enum beside type", {"type": "string", "enum": ["a", 1, None]}, ["a"], [1, None]),
    ("pattern and length", {"type": "string", "pattern": "^a+$", "maxLength": 3, "minLength": 2}, ["aa", "aaa"], ["a", "aaaa"]),
    (
        "$ref with siblings",
        {"$ref": "#/$defs/N", "maximum": 5, "$defs": {"N": {"type": "integer", "minimum": 3}}},
        [3, 4, 5],
        [2, 6],
    ),
    (
        "minProperties",
        {"type": "object", "properties": {n: {"type": "integer"} for n in "abc"}, "minProperties": 2},
        [{"a": 1, "c": 2}, {"a": 1, "b": 1, "c": 1}],
        [{}, {"b": 1}],
    ),
    (
        "maxProperties",
        {"type": "object", "properties": {n: {"type": "integer"} for n in "abc"}, "required": ["c"], "maxProperties": 2},
        [{"c": 1}, {"a": 1, "c": 2}],
        [{"a": 1, "b": 1, "c": 1}, {"a": 1}],
    ),
    ("nullable enum", {"type": "string", "enum": ["a", "b"], "nullable": True}, ["a", None], ["c", 1]),
    ("number bounds", {"type": "number", "minimum": 0, "maximum": 1}, [0, 0.25, 1], [-0.1, 1.1, 2, 10]),
    ("exclusive bounds", {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5], [0, 1]),
    ("multipleOf", {"type": "integer", "multipleOf": 7}, [0, 7, -14, 700], [1, 8]),
    ("multipleOf a fraction", {"type": "number", "multipleOf": 0.25, "minimum": 0}, [3, 1.75], [0.3, -0.25]),
    (
        "if and then",
        {
            "type": "object",
            "properties": {"kind": {"enum": ["card", "cash"]}, "number": {"type": "string"}},
            "required": ["kind"],
            "if": {"properties": {"kind": {"const": "card"}}},
            "then": {"required": ["number"]},
        },
        [{"kind": "cash"}, {"kind": "card", "number": "1"}],
        [{"kind": "card"}],
    ),
    (
        "if and else",
        {"type": "integer", "if": {"minimum": 10}, "then": {"multipleOf": 10}, "else": {"maximum": 3}},
        [2, 20],
        [5, 15],
    ),
    (
        "dependentRequired",
        {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
        [{}, {"b": 1}, {"a": 1, "b": 2}],
        [{"a": 1}],
    ),
    (
        "dependentSchemas",
        {
            "type": "object",
            "properties": {"a": {}, "b": {"type": "integer"}},
            "dependentSchemas": {"a": {"properties": {"b": {"minimum": 5}}, "required": ["b"]}},
        },
        [{"b": 1}, {"a": 1, "b": 5}],
        [{"a": 1, "b": 1}],
    ),
    ("either anchor", {"type": "string", "pattern": r"^\d{3}$|^x$"}, ["123", "x"], ["12", "x1", "1234"]),
    ("letters of any script", {"type": "string", "pattern": r"^\p{L}+$"}, ["aäж漢"], ["a1", ""]),
    (
        "pydantic's Decimal",
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]},
        [1.5, "1.50", "-.5", "+007."],
        ["", ".", "-", "1e5", "a"],
    ),
    (
        "pydantic's bounded Decimal",
        {
            "type": "string",
            "pattern": r"^(?!^[-+.]*$)[+-]?0*(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*$)$",
        },
        ["123", "1.25", "12.500"],
        ["1234", "1.257", "."],
    ),
    (
        "a password",
        {"type": "string", "pattern": r"^(?=.*[A-Z])(?=.*\d).{4,8}$"},
        ["aB1c", "12345678Z"[1:]],
        ["abcd", "aB1", "AAAAA"],
    ),
    (
        "$ref by $id",
        {
            "$id": "https://example.org/a",
            "$ref": "b",
            "$defs": {"x": {"$id": "https://example.org/b", "type": "boolean"}},
        },
        [True],
        [1],
    ),
    ("oneOf of two", {"oneOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 5}]}, [2, 6], [3, 4, 5]),
    (
        "oneOf of references told apart by a const",
        {
            "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
            "$defs": {
                kind: {"properties": {"kind": {"const": kind}, "age": {"type": "integer"}}, "required": ["kind"]}
                for kind in ("Cat", "Dog")
            },
        },
        [{"kind": "Cat"}, {"kind": "Dog", "age": 3}],
        [{"kind": "Cow"}, {}],
    ),
    ("oneOf of a number and an integer", {"oneOf": [{"type": "number"}, {"type": "integer"}]}, [0.5, -1.25], [1, 0, -3]),
    ("not", {"type": "string", "not": {"enum": ["a", "b"]}}, ["", "ab", "c"], ["a", "b"]),
    ("not a range", {"type": "integer", "not": {"minimum": 0, "maximum": 9}}, [-1, 10], [0, 5, 9]),
    ("not a pattern", {"type": "string", "not": {"pattern": "x"}}, ["", "abc"], ["x", "axb"]),
    ("not there", {"type": "object", "additionalProperties": {}, "not": {"required": ["a"]}}, [{}, {"b": 1}], [{"a": 1}]),
    ("contains", {"type": "array", "items": {"type": "integer"}, "contains": {"minimum": 5}}, [[5], [1, 7, 2]], [[], [1, 2]]),
    (
        "contains so many",
        {"type": "array", "items": {"type": "integer"}, "contains": {"const": 1}, "minContains": 2, "maxContains": 2},
        [[1, 1], [0, 1, 2, 1]],
        [[1], [1, 1, 1]],
    ),
    (
        "unique values of an enum",
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 1},
        [["b"], ["c", "a"], ["a", "c", "b"]],
        [[], ["a", "a"], ["a", "b", "a"]],
    ),
    (
        "names",
        {"type": "object", "propertyNames": {"pattern": "^x"}, "additionalProperties": {"type": "integer"}},
        [{}, {"x": 1, "xy": 2}],
        [{"y": 1}, {"x": "s"}],
    ),
    (
        "overlapping patterns",
        {
            "type": "object",
            "patternProperties": {"^a": {"minimum": 3}, "b$": {"maximum": 5}},
            "additionalProperties": {"type": "boolean"},
        },
        [{"ab": 4}, {"a": 9}, {"b": 1}, {"c": True}],
        [{"ab": 9}, {"ab": 1}, {"c": 4}],
    ),
    (
        "unevaluated",
        {
            "type": "object",
            "allOf": [{"properties": {"a": {"type": "integer"}}}],
            "properties": {"b": {}},
            "unevaluatedProperties": False,
        },
        [{"a": 1, "b": 2}],
        [{"c": 1}, {"a": "x"}],
    ),
    ("a leap day", {"type": "string", "format": "date"}, ["2024-02-29", "2000-02-29"], ["2023-02-29", "1900-02-29"]),
    ("time", {"type": "string", "format": "time"}, ["10:00:00Z", "23:59:59.123+01:00"], ["24:00:00Z", "10:00"]),
    ("email", {"type": "string", "format": "email"}, ["a.b+c@example.org"], ["a", "a@", "@b", "a b@c"]),
    ("hostname", {"type": "string", "format": "hostname"}, ["a-b.example"], ["-a", "a..b", "a_b"]),
    ("ipv4", {"type": "string", "format": "ipv4"}, ["127.0.0.1"], ["256.1.1.1", "1.2.3"]),
    ("ipv6", {"type": "string", "format": "ipv6"}, ["::1", "1:2::3.4.5.6"], ["1::2::3", ":1"]),
    ("uri", {"type": "string", "format": "uri"}, ["https://a.b/c?d#e", "urn:x:y"], ["/a", "a b"]),
    ("duration", {"type": "string", "format": "duration"}, ["P1DT2H", "PT0.5S".replace("0.5", "5")], ["P", "1D"]),
    ("json-pointer", {"type": "string", "format": "json-pointer"}, ["", "/a~1b/0"], ["a", "/~"]),
    ("an integer of 8 bits", {"type": "integer", "format": "uint8"}, [0, 255], [-1, 256]),
    ("a format that nobody knows", {"type": "string", "format": "phone"}, ["x", ""], [1]),
]


@pytest.mark.parametrize(("value", "good", "bad"), [c[1:] for c in GOOD_AND_BAD], ids=[c[0] for c in GOOD_AND_BAD])
def test_a_schema_lets_through_what_satisfies_it_and_nothing_else(value: Any, good: list[Any], bad: list[Any]) -> None:
    made = schema(value)
    for one in good:
        assert takes(made, json.dumps(one, ensure_ascii=False)), one
        assert takes(made, json.dumps(one, ensure_ascii=False, separators=(",", ":"))), one
    for one in bad:
        assert not takes(made, json.dumps(one, ensure_ascii=False)), one


@pytest.mark.parametrize(
    ("least", "most"), [(0, 0), (0, 255), (7, 7), (1, 1000), (-20, -3), (-100, 99), (98, 1203), (None, 42), (-7, None)]
)
def test_integer_bounds_hold_for_every_number(least: int | None, most: int | None) -> None:
    bounds = {k: v for k, v in (("minimum", least), ("maximum", most)) if v is not None}
    made = schema({"type": "integer", **bounds})
    for n in [*range(-130, 131), 254, 255, 256, 999, 1000, 1001, 1202, 1203, 1204, -1000, 10**9]:
        inside = (least is None or n >= least) and (most is None or n <= most)
        assert takes(made, str(n)) == inside, n


@pytest.mark.parametrize(
    "value",
    [
        {"type": "strange"},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        {"allOf": [{"$ref": "#"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"anyOf": []},
        {"enum": []},
        {"enum": "abc"},
        {"type": []},
        {"type": "string", "minLength": -1},
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "string", "minLength": 10**9},
        {"type": "string", "pattern": "^(?=a)b$"},
        {"type": "string", "pattern": "(?<=a)b"},
        {"type": "string", "pattern": r"(a)\1"},
        {"type": "string", "pattern": r"\p{Nonsense}"},
        {"type": "string", "pattern": "(a"},
        {"type": "string", "pattern": "[z-a]"},
        {"type": "string", "pattern": 3},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "number", "multipleOf": 0},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}},
        {"type": "array", "items": False, "minItems": "x"},
        {"properties": {"a": False}, "required": ["a"]},
        {"properties": []},
        {"type": "string", "pattern": "(" * 100 + ")" * 100},
        "string",
        [1],
        7,
    ],
)
def test_a_schema_that_makes_no_sense_is_a_bad_request_that_names_the_field(value: Any) -> None:
    start = time.process_time()
    with pytest.raises(BadRequest, match="json_schema"):
        matcher(schema(value))
    assert time.process_time() - start < 30


def _deep() -> Any:
    deep: Any = {"type": "integer"}
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    return deep


def _chain(length: int) -> Any:
    return {"$ref": "#/$defs/0", "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(length)} | {str(length): {}}}


HOSTILE: dict[str, Any] = {
    "deep": _deep(),
    "wide": {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": i} for i in range(20_000)}},
    "every value of a list against every other": {
        "allOf": [{"anyOf": [{"const": i + 100 * j} for i in range(100)]} for j in range(8)]
    },
    "every way to have some": {"type": "object", "dependentRequired": {f"a{i}": [f"b{i}"] for i in range(30)}},
    "one of many": {"oneOf": [{"type": "object", "properties": {f"a{i}": {}}} for i in range(200)]},
    "a chain of references": _chain(30_000),
    "many states": {"type": "string", "pattern": "^(a|b)*a(a|b){25}$"},
    "many states at once": {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{n}}}c"} for n in range(1, 12)]},
    "large counts": {"type": "string", "pattern": "^(((x{1,1000}y){1,1000}z){1,1000}){1,1000}$", "minLength": 100_000},
    "many items": {"type": "array", "items": {"type": "array", "minItems": 100_000, "items": {}}, "minItems": 100_000},
    "a long list": {"enum": [f"value {i}" * 5 for i in range(50_000)]},
    "a large divisor": {"type": "integer", "multipleOf": 123_456_789},
    "divisors together": {"allOf": [{"type": "integer", "multipleOf": n} for n in (9973, 9967, 9949)]},
    "patterns of names": {"type": "object", "patternProperties": {f"(a|b)*{i}": {"const": i} for i in range(25)}},
    "words": {"type": "string", "pattern": "^(" + "|".join(f"w{i}x*" for i in range(2000)) + ")+$", "maxLength": 4000},
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind == "patterns of names" else kind for kind in HOSTILE]
)
def test_a_hostile_schema_is_compiled_or_refused_within_a_bound(kind: str) -> None:
    start = time.process_time()
    with contextlib.suppress(BadRequest):
        follower = matcher(schema(HOSTILE[kind]))
        for text in ('"' + "ab" * 30, "[[[[", '{"a1'):
            with contextlib.suppress(BadRequest):
                follower.mask()
                for token in tiny_model().tokenize(text, parse_special=False):
                    if follower.allows(token):
                        follower.accept(token)
                        follower.mask()
    assert time.process_time() - start < 30


def test_a_pattern_with_huge_counts_stays_a_small_grammar() -> None:
    made = schema({"type": "string", "pattern": "((((a{100}){100}){100}){100}){100}"})
    assert len(made.grammar) < 2000
    assert takes(made, '"aaa', whole=False)


@pytest.mark.parametrize(
    ("value", "keyword"),
    [
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "prefixItems": [{}], "contains": {"const": 1}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "allOf": [{"contains": {"const": 1}}, {"contains": {"const": 2}}]}, "contains"),
        ({"type": "number", "not": {"multipleOf": 3}}, "multipleOf"),
        ({"type": "number", "multipleOf": 0.123456789}, "multipleOf"),
        ({"type": "object", "not": {"additionalProperties": False}}, "additionalProperties"),
        ({"type": "string", "format": "regex"}, "format"),
        ({"type": "string", "pattern": r"\bword\b"}, "pattern"),
        ({"type": "number", "minimum": 0, "not": {"type": "integer"}}, "type"),
    ],
)
def test_what_no_grammar_can_follow_is_refused_by_its_keyword(value: Any, keyword: str) -> None:
    with pytest.raises(BadRequest, match=rf"json_schema.*\b{keyword}\b"):
        matcher(schema({"type": "object", "properties": {"inner": value}, "required": ["inner"]}))


def test_numbers_without_bounds_end_after_a_while() -> None:
    made = schema({"type": "array", "items": {"type": "number"}})
    assert not takes(made, "[" + "1" * 17, whole=False)
    assert not takes(made, "[0." + "3" * 17, whole=False)


def test_space_without_an_end_is_not_allowed() -> None:
    made = schema({"type": "object", "properties": {"a": {"type": "integer"}}})
    assert takes(made, '{ "a" : 1 }') and takes(made, '{\n    "a": 1\n}')
    assert not takes(made, '{  "a": 1}')
    assert not takes(made, "{" + "\n" * 5, whole=False)


def test_a_name_cannot_be_written_another_way_to_come_twice() -> None:
    made = schema({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}})
    assert takes(made, '{"a": 1, "b": "x"}')
    assert not takes(made, '{"a": 1, "\\u0061": "x"}')


def test_a_grammar_that_takes_too_long_to_compile_is_refused_at_a_deadline_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_over = threading.Event()

    def compile_slowly(*_: object) -> threading.Thread:
        thread = threading.Thread(target=is_over.wait, args=(60,), daemon=True)
        thread.start()
        return thread

    monkeypatch.setattr(grammar_matcher, "COMPILE_LIMIT_S", 0.05)
    monkeypatch.setattr(grammar_matcher, "_start_compiling", compile_slowly)
    for number in range(2):
        with pytest.raises(BadRequest, match=r"^json_schema .*takes longer than"):
            matcher(schema({"type": "integer", "minimum": 70 + number}))
    with pytest.raises(Unavailable, match="still being compiled"):
        matcher(schema({"type": "integer", "minimum": 75}))
    monkeypatch.undo()
    abandoned = tiny_vocabulary()._abandoned
    assert len(abandoned) == 2
    is_over.set()
    for thread in abandoned:
        thread.join(60)
    assert matcher(schema({"type": "integer", "minimum": 75})).mask().any()
