"""Constraints against llama.cpp's own grammar engine: what is allowed passes, what is not is stopped."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from batch.errors import BadRequest, NotSupported
from batch.workers.chat.dialects.dialect import Dialect, for_template
from batch.workers.chat.grammar import constraint
from batch.workers.chat.grammar.matcher import DATA, Grammar
from batch.workers.llama.library import lib
from batch.workers.llama.model import Model
from paths import TINY_GEMMA4V

TINY = TINY_GEMMA4V / "tiny-gemma4v-text-f16.gguf"

# What marks the dialects; real templates are longer.
GEMMA = "<|turn> <|channel> <channel|> '<|tool_call>call:' {#- OpenAI Chat Completions: -#}"
THINK = '<think></think> <tool_call>{"name": n, "arguments": a}</tool_call>'

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = Model(TINY)
    yield model
    model.close()


def takes(model: Model, made: constraint.Constraint | None, text: str, *, whole: bool = True) -> bool:
    """Whether the grammar lets the text through, and (whole) lets it end there."""
    assert made is not None
    grammar = Grammar(model, made.grammar, made.root)
    try:
        for token in model.tokenize(text, parse_special=True):
            if not grammar.allows(token):
                return False
            grammar.accept(token)
        return not whole or grammar.allows(min(model.end_tokens))
    finally:
        grammar.close()


def build(
    generation: Any = None,
    tools: Any = None,
    choice: Any = None,
    *,
    dialect: Dialect | None = None,
    parallel: bool = True,
    thinking: bool = False,
    tail: str = "",
) -> constraint.Constraint | None:
    return constraint.build(generation, tools, choice, parallel, dialect or for_template(""), thinking, tail)


def schema(value: Any) -> constraint.Constraint | None:
    return build({"json_schema": value})


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
        [{"b": "x"}, {"b": "x", "a": 1}, {"b": "x", "a": 1, "c": [1]}, {"b": "x", "c": None}],
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
        [[1, "a"]],
        [[1], ["a", 1], [1, "a", 2]],
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
]


@pytest.mark.parametrize(("value", "good", "bad"), [c[1:] for c in GOOD_AND_BAD], ids=[c[0] for c in GOOD_AND_BAD])
def test_a_schema_lets_through_what_satisfies_it_and_nothing_else(
    model: Model, value: Any, good: list[Any], bad: list[Any]
) -> None:
    made = schema(value)
    for one in good:
        assert takes(model, made, json.dumps(one, ensure_ascii=False)), one
        assert takes(model, made, json.dumps(one, ensure_ascii=False, separators=(",", ":"))), one
    for one in bad:
        assert not takes(model, made, json.dumps(one, ensure_ascii=False)), one


@pytest.mark.parametrize(
    ("least", "most"), [(0, 0), (0, 255), (7, 7), (1, 1000), (-20, -3), (-100, 99), (98, 1203), (None, 42), (-7, None)]
)
def test_integer_bounds_hold_for_every_number(model: Model, least: int | None, most: int | None) -> None:
    bounds = {k: v for k, v in (("minimum", least), ("maximum", most)) if v is not None}
    made = schema({"type": "integer", **bounds})
    for n in [*range(-130, 131), 254, 255, 256, 999, 1000, 1001, 1202, 1203, 1204, -1000, 10**9]:
        inside = (least is None or n >= least) and (most is None or n <= most)
        assert takes(model, made, str(n)) == inside, n


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
        {"type": "string", "pattern": "(a"},
        {"type": "string", "pattern": "[z-a]"},
        {"type": "string", "pattern": 3},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "array", "items": False, "minItems": "x"},
        {"properties": {"a": False}},
        {"properties": []},
        {"type": "string", "pattern": "(a*)*"},
        {"type": "string", "pattern": "(a?|b){3}"},
        {"type": "string", "pattern": "(" * 100 + ")" * 100},
        "string",
        [1],
        7,
    ],
)
def test_a_schema_that_makes_no_sense_is_a_bad_request_that_names_the_field(model: Model, value: Any) -> None:
    start = time.process_time()
    with pytest.raises(BadRequest, match="json_schema"):
        made = schema(value)
        assert made is not None
        Grammar(model, made.grammar, made.root).close()  # an engine that refuses would not name the field
        raise AssertionError(made.grammar[:500])
    assert time.process_time() - start < 5


def test_hostile_schemas_end_quickly(model: Model) -> None:
    deep: Any = {"type": "integer"}
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": i} for i in range(20_000)}}
    square = {"allOf": [{"anyOf": [{"const": i + 100 * j} for i in range(100)]} for j in range(8)]}
    doubling: Any = {"type": "integer"}
    for _ in range(40):
        doubling = {"anyOf": [doubling, {"type": "array", "items": doubling}]}
    for value in (deep, wide, square, doubling):
        start = time.process_time()
        with pytest.raises(BadRequest, match="json_schema"):
            schema(value)
        assert time.process_time() - start < 10


def test_a_pattern_with_huge_counts_stays_a_small_grammar(model: Model) -> None:
    made = schema({"type": "string", "pattern": "((((a{100}){100}){100}){100}){100}"})
    assert made is not None and len(made.grammar) < 2000
    assert takes(model, made, '"aaa', whole=False)


def test_nothing_asked_is_no_constraint() -> None:
    assert build() is None
    assert build({"max_tokens": 3, "json_schema": None, "grammar": ""}, [WEATHER], "none", dialect=for_template(GEMMA)) is None
    assert build({"json_schema": False}) is None


def test_gemma_json_stands_in_its_fence_behind_an_optional_thought(model: Model) -> None:
    gemma = for_template(GEMMA)
    made = build({"json_schema": {"type": "integer"}}, dialect=gemma, thinking=True)
    assert made is not None and made.fenced and not made.lazy
    assert takes(model, made, "```json\n7\n```")
    assert takes(model, made, "<|channel>thought\nA number < 8, I <channel think.\n<channel|>```json\n7\n```")
    assert takes(model, made, "<|channel><|channel>thought\n<channel|>```json 7 ```")
    assert not takes(model, made, "7")
    assert not takes(model, made, "<|channel>thought\nx<channel|>Well, ```json\n7\n```")
    off = build({"json_schema": {"type": "integer"}}, dialect=gemma, thinking=False)
    assert takes(model, off, "```json\n7\n```")
    assert not takes(model, off, "<|channel>thought\n<channel|>```json\n7\n```")
    opened = build({"json_schema": {"type": "integer"}}, dialect=gemma, thinking=True, tail="<|turn>model\n<|channel>thought\n")
    assert takes(model, opened, "hm<channel|>```json\n7\n```")
    assert not takes(model, opened, "```json\n7\n```")


def test_a_gemma_model_that_never_learned_fences_gets_none(model: Model) -> None:
    made = build({"json_schema": {}}, dialect=for_template("<|turn><|channel><channel|>"), thinking=True)
    assert made is not None and not made.fenced
    assert takes(model, made, '{"a": 1}')
    assert takes(model, made, '<|channel>thought\nhm<channel|>{"a": 1}')


def test_think_models_may_think_before_json(model: Model) -> None:
    think = for_template(THINK)
    made = build({"json_schema": {"type": "boolean"}}, dialect=think, thinking=True)
    assert takes(model, made, "<think>\n1 < 2, so </ yes\n</think>\n\ntrue")
    assert takes(model, made, "false")
    opened = build({"json_schema": {"type": "boolean"}}, dialect=think, thinking=True, tail="<|assistant|><think>\n")
    assert takes(model, opened, "so</think>\ntrue")
    assert not takes(model, opened, "true")


def test_a_callers_grammar_binds_the_answer_and_leaves_the_thinking_free(model: Model) -> None:
    made = build({"grammar": 'root ::= r0 "!"\nr0 ::= "yes" | "no"'}, dialect=for_template(GEMMA), thinking=True)
    assert takes(model, made, "no!")
    assert takes(model, made, "<|channel>thought\nperhaps\n<channel|>yes!")
    assert not takes(model, made, "maybe")


def test_a_call_by_choice_is_bound_once_it_has_begun(model: Model) -> None:
    made = build(None, [WEATHER, CLOCK], "auto", dialect=for_template(GEMMA), thinking=True)
    assert made is not None and made.lazy and made.trigger == "<|tool_call>"
    assert takes(model, made, 'call:weather{city:<|"|>Bad "Tölz", {<| or <|"<|"|>,days:14,unit:<|"|>C<|"|>}<tool_call|>')
    assert takes(model, made, 'call:clock{}<tool_call|><|tool_call>call:weather{city:<|"|><|"|>}<tool_call|>')
    assert not takes(model, made, "call:moon{}<tool_call|>")
    assert not takes(model, made, "call:weather{}<tool_call|>")
    assert not takes(model, made, 'call:weather{city:<|"|>x<|"|>,days:15}<tool_call|>')
    assert not takes(model, made, 'call:weather{city:<|"|>x<|"|>,unit:<|"|>K<|"|>}<tool_call|>')
    assert not takes(model, made, "call:clock{}<tool_call|>and so")
    one = build(None, [WEATHER, CLOCK], None, dialect=for_template(GEMMA), parallel=False)
    assert not takes(model, one, "call:clock{}<tool_call|><|tool_call>call:clock{}<tool_call|>")


def test_a_required_call_comes_after_an_optional_thought_and_nothing_else(model: Model) -> None:
    made = build(None, [WEATHER, CLOCK], "required", dialect=for_template(GEMMA), thinking=True)
    assert made is not None and not made.lazy
    assert takes(model, made, "<|tool_call>call:clock{}<tool_call|>")
    assert takes(model, made, "<|channel>thought\nlet me\n<channel|><|tool_call>call:clock{}<tool_call|>")
    assert not takes(model, made, "Sure! <|tool_call>call:clock{}<tool_call|>")


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "clock"}},
        {"type": "function", "name": "clock"},
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]},
        },
    ],
)
def test_a_named_function_is_the_only_one_that_can_be_called(model: Model, choice: Any) -> None:
    made = build(None, [WEATHER, CLOCK], choice, dialect=for_template(GEMMA))
    assert takes(model, made, "<|tool_call>call:clock{}<tool_call|>")
    assert not takes(model, made, '<|tool_call>call:weather{city:<|"|>x<|"|>}<tool_call|>')


def test_a_schema_and_tools_leave_the_choice_between_both(model: Model) -> None:
    made = build({"json_schema": {"type": "integer"}}, [CLOCK], "auto", dialect=for_template(GEMMA))
    assert takes(model, made, "```json\n3\n```")
    assert takes(model, made, "<|tool_call>call:clock{}<tool_call|>")
    assert not takes(model, made, "text")


def test_calls_in_json_are_bound_too(model: Model) -> None:
    made = build(None, [WEATHER], "required", dialect=for_template(THINK))
    assert takes(model, made, '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>')
    assert not takes(model, made, '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>')


def test_arguments_of_every_type_are_written_as_gemma_writes_them(model: Model) -> None:
    parameters = {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            "deep": {
                "type": "object",
                "properties": {"n": {"type": "number"}, "x": {"type": "null"}},
                "required": ["n"],
            },
            "flag": {"type": "boolean"},
            "free": {"type": "object"},
            "code": {"type": "string", "pattern": "^[A-Z]<?$"},
            "short": {"type": "string", "maxLength": 3},
            "odd key": {"const": [1, "a"]},
        },
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    made = build(None, [tool], "required", dialect=for_template(GEMMA))

    def call(arguments: str) -> bool:
        return takes(model, made, f"<|tool_call>call:f{{{arguments}}}<tool_call|>")

    q = '<|"|>'
    assert call(f"list:[{q}a{q},{q}{q}],deep:{{n:-1.5,x:null}},flag:true")
    assert call(f"free:{{a:{{b:[1,{q}x{q},{{}}]}},c:null}},code:{q}A<{q},short:{q}äöü{q}")
    assert call(f"odd key:[1,{q}a{q}]")
    assert not call(f"list:[{q}a{q},{q}b{q},{q}c{q}]")
    assert not call("deep:{}")
    assert not call('flag:"true"')
    assert not call(f"short:{q}abcd{q}")
    assert not call(f"list: [{q}a{q}]")
    assert not call(f"more:{q}a{q}")


def test_a_tool_whose_pattern_no_grammar_can_follow_still_works(model: Model) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?!x).*$"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    made = build(None, [tool], "required", dialect=for_template(GEMMA))
    assert takes(model, made, '<|tool_call>call:f{a:<|"|>anything<|"|>}<tool_call|>')


@pytest.mark.parametrize(
    ("generation", "tools", "choice", "said"),
    [
        (None, [WEATHER], "sometimes", "tool_choice"),
        (None, [], "required", "tool_choice"),
        (None, [WEATHER], {"type": "function", "function": {"name": "moon"}}, "moon"),
        (None, [WEATHER], {}, "tool_choice"),
        (None, "x", None, "tools"),
        (None, [{"type": "web_search"}], None, r"tools\[0\]"),
        (None, [{"type": "function", "function": {"name": "a b"}}], None, r"tools\[0\].function.name"),
        (None, [{"type": "function", "function": {}}], None, r"tools\[0\].function.name"),
        (None, [WEATHER, WEATHER], None, "twice"),
        (
            None,
            [{"type": "function", "function": {"name": "f", "parameters": []}}],
            None,
            r"tools\[0\].function.parameters",
        ),
        (
            None,
            [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}],
            None,
            "parameters.type",
        ),
        (
            None,
            [
                CLOCK,
                {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "x"}}}}},
            ],
            None,
            r"tools\[1\].function.parameters.properties.a",
        ),
        ({"grammar": 'root ::= "a"'}, [WEATHER], "auto", "grammar"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, None, None, "grammar"),
        ({"grammar": 3}, None, None, "grammar"),
        ({"json_schema": {"type": "x"}}, None, None, "json_schema"),
    ],
)
def test_what_contradicts_itself_is_a_bad_request(generation: Any, tools: Any, choice: Any, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        build(generation, tools, choice, dialect=for_template(GEMMA))


def test_a_model_without_tool_calls_answers_in_text_unless_a_call_is_required() -> None:
    plain = for_template("{{ messages }}")
    assert build(None, [WEATHER], "auto", dialect=plain) is None
    with pytest.raises(NotSupported):
        build(None, [WEATHER], "required", dialect=plain)


def test_a_completions_json_has_neither_fence_nor_thought(model: Model) -> None:
    made = constraint.json_answer({"type": "object", "properties": {"a": {"type": "integer"}}})
    assert takes(model, made, '{"a": 1}')
    assert not takes(model, made, "```json")


@pytest.mark.parametrize(
    ("gbnf", "text"),
    [
        ('root ::= "{\\"name\\":" [a-z]+ ", " [0-9]* "}"', '{"name":abc, 12}'),
        ('root ::= [^"a]* "\\"" [α-ω一-龥]+ [ \\t\\n]', '!? b"αω龥\n'),
        ('root ::= <[{token}]> "x" !<[{token}]> "y"', None),
        ("root ::= .* #<", "a<ä龥"),
    ],
)
def test_asking_for_first_characters_hides_no_token_that_may_come(model: Model, gbnf: str, text: str | None) -> None:
    named = model.tokenize("a", parse_special=False)[0]
    grammar = Grammar(model, gbnf.replace("{token}", str(named)))
    every = np.zeros(model.n_vocab, DATA)
    every["id"] = np.arange(model.n_vocab)
    table = lib.llama_token_data_array(every.ctypes.data_as(ctypes.POINTER(lib.llama_token_data)), model.n_vocab, -1, False)
    hidden = 0
    try:
        for token in [*([named] if text is None else model.tokenize(text, parse_special=False)), None]:
            every["logit"] = 0.0
            grammar.filter(table)
            may = set(np.flatnonzero(every["logit"] == 0.0).tolist())
            shown = set(grammar.possible(np.arange(model.n_vocab)).tolist())
            assert may <= shown
            hidden += model.n_vocab - len(shown)
            if token is not None and token in may:
                grammar.accept(token)
        assert bool(hidden) == (text is not None), "where tokens are named by id, nothing is hidden"
    finally:
        grammar.close()
