"""Whatever a grammar lets a model write satisfies the schema it was made from: shown by random walks through grammars."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator

from batch.errors import BadRequest
from batch.workers.chat.dialects.dialect import for_template
from grammar_setup import build, schema, walk

GEMMA = for_template("<|turn> <|channel> <channel|>")


def satisfies(value: Any, document: Any) -> bool:
    return bool(Draft202012Validator(document, validate_formats=True).is_valid(value))


def bounds(least: str, most: str, low: int, high: int) -> st.SearchStrategy[dict[str, int]]:
    both = st.tuples(st.integers(low, high), st.integers(0, 40)).map(lambda t: {least: t[0], most: t[0] + t[1]})
    return st.one_of(st.just({}), both, both.map(lambda d: {least: d[least]}), both.map(lambda d: {most: d[most]}))


def typed(kind: str, rest: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return rest.map(lambda d: {"type": kind, **d})


def joined(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda ds: {k: v for d in ds for k, v in d.items()})


NAMES = st.sampled_from(["a", "ab", "b", "colour", "a b", 'q"q', "x:y", "é"])
STEPS = st.sampled_from([{}, {}, {"multipleOf": 3}, {"multipleOf": 0.5}, {"multipleOf": 10}])
EXCLUSIVE = bounds("exclusiveMinimum", "exclusiveMaximum", -20, 20)
PATTERNS = st.sampled_from(
    [{}, {}, {"pattern": "^[a-c]+$"}, {"pattern": "a|^b$"}, {"pattern": "^(?!a).*d$"}, {"pattern": "\\d"}]
)
FORMATS = st.sampled_from(["date", "time", "date-time", "ipv4", "uuid", "email"])
LEAVES = st.one_of(
    typed("integer", joined(bounds("minimum", "maximum", -150, 150), EXCLUSIVE, STEPS)),
    typed("number", joined(bounds("minimum", "maximum", -150, 150), EXCLUSIVE, STEPS)),
    typed("string", joined(bounds("minLength", "maxLength", 0, 12), PATTERNS)),
    FORMATS.map(lambda name: {"type": "string", "format": name}),
    st.sampled_from(["boolean", "null", ["string", "null"], ["integer", "boolean"]]).map(lambda k: {"type": k}),
    st.lists(st.sampled_from(["red", 'a"\\\n', 3, -1, True, None, "", [1, "x"], {"k": None}]), min_size=1, max_size=3).map(
        lambda v: {"enum": v}
    ),
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def assemble(parts: tuple[dict[str, Any], set[str], Any, dict[str, int], dict[str, Any]]) -> dict[str, Any]:
        properties, required, more, sizes, others = parts
        must = sorted(required & set(properties))
        return {"type": "object", "properties": properties, "required": must, "additionalProperties": more, **sizes, **others}

    others = st.sampled_from(
        [
            {},
            {"patternProperties": {"^n": {"type": "integer"}}},
            {"propertyNames": {"maxLength": 3}},
            {"dependentRequired": {"a": ["b"]}},
        ]
    )
    made = st.tuples(
        st.dictionaries(NAMES, inner, min_size=1, max_size=4),
        st.sets(NAMES),
        st.just(False) | LEAVES,
        bounds("minProperties", "maxProperties", 0, 3),
        others,
    )
    return made.map(assemble)


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner),
        st.tuples(inner, bounds("minItems", "maxItems", 0, 3)).map(lambda t: {"type": "array", "items": t[0], **t[1]}),
        st.tuples(st.lists(inner, min_size=1, max_size=3), bounds("minItems", "maxItems", 0, 3)).map(
            lambda t: {"type": "array", "prefixItems": t[0], **t[1]}
        ),
        st.tuples(LEAVES, st.integers(1, 2)).map(lambda t: {"type": "array", "contains": t[0], "minContains": t[1]}),
        st.lists(inner, min_size=1, max_size=3).map(lambda v: {"anyOf": v}),
        st.lists(inner, min_size=2, max_size=3).map(lambda v: {"oneOf": v}),
        st.lists(inner, min_size=2, max_size=2).map(lambda v: {"allOf": v}),
        st.tuples(inner, inner).map(lambda v: {**v[0], "not": v[1]}),
        st.tuples(LEAVES, LEAVES, LEAVES).map(lambda v: {"if": v[0], "then": v[1], "else": v[2]}),
    ),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=300)
@given(SCHEMAS, st.integers(0, 10**6))
def test_json_that_the_grammar_allows_satisfies_its_schema(document: Any, seed: int) -> None:
    walk_through_json(document, seed)


@settings(max_examples=25)
@given(SCHEMAS, st.integers(0, 10**6))
def test_json_that_the_grammar_allows_satisfies_its_schema_in_a_few_examples(document: Any, seed: int) -> None:
    walk_through_json(document, seed)


def walk_through_json(document: Any, seed: int) -> None:
    try:
        made = schema(document)
    except BadRequest:
        assume(False)
    text = walk(made, seed)
    assume(text is not None and "\ufffd" not in text)
    assert text is not None
    assert satisfies(json.loads(text), document), text


@pytest.mark.slow
@settings(max_examples=200)
@given(objects(SCHEMAS), st.integers(0, 10**6))
def test_calls_that_the_grammar_allows_parse_into_arguments_that_satisfy_the_schema(document: Any, seed: int) -> None:
    walk_through_a_call(document, seed)


@settings(max_examples=20)
@given(objects(SCHEMAS), st.integers(0, 10**6))
def test_calls_that_the_grammar_allows_satisfy_the_schema_in_a_few_examples(document: Any, seed: int) -> None:
    walk_through_a_call(document, seed)


def walk_through_a_call(document: Any, seed: int) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": document, "strict": True}}]
    try:
        made = build(None, tools, "required", dialect=GEMMA, parallel=False)
    except BadRequest:
        assume(False)
    text = walk(made, seed)
    assume(text is not None and "\ufffd" not in text)
    assert text is not None
    parser = GEMMA.parser(functions=frozenset({"f"}))
    parser.feed(text)
    parser.finish()
    [call] = parser.message()["tool_calls"]
    assert satisfies(json.loads(call["function"]["arguments"]), document), text


def test_any_json_object_is_valid_json() -> None:
    texts = [text for seed in range(5) if (text := walk(schema({}), seed)) is not None]
    assert texts and all(isinstance(json.loads(text), dict) for text in texts)
