"""Whatever a grammar lets a model write satisfies the schema it was made from: shown by random walks through grammars."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batch.workers.chat.dialects.dialect import for_template
from batch.workers.chat.grammar import constraint
from batch.workers.chat.grammar.matcher import Grammar
from batch.workers.llama.library import lib
from batch.workers.llama.model import Model
from paths import TINY_GEMMA4V

TINY = TINY_GEMMA4V / "tiny-gemma4v-text-f16.gguf"
GEMMA = for_template("<|turn> <|channel> <channel|>")
_LONGEST = 400


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = Model(TINY)
    yield model
    model.close()


@lru_cache
def vocabulary(model: Model) -> tuple[frozenset[int], list[bytes]]:
    """Tokens that end a text; every other token's text."""
    ends = frozenset(t for t in range(model.n_vocab) if t in model.end_tokens)
    return ends, [b"" if t in ends else model.piece(t, special=True) for t in range(model.n_vocab)]


def walk(model: Model, made: constraint.Constraint, seed: int) -> str | None:
    """Text of random tokens that the grammar allows; None when it finds no end."""
    grammar = Grammar(model, made.grammar, made.root)
    chance = random.Random(seed)
    table = (lib.llama_token_data * model.n_vocab)()
    view = np.frombuffer(table, np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")]))
    ending, texts = vocabulary(model)
    written = b""
    try:
        for step in range(_LONGEST):
            view["id"], view["logit"] = np.arange(model.n_vocab), 0.0
            grammar.filter(lib.llama_token_data_array(table, model.n_vocab, -1, False))
            allowed = view["id"][view["logit"] > -1e30].tolist()
            ends = [t for t in allowed if t in ending]
            pieces = [t for t in allowed if texts[t]]
            if ends and (not pieces or chance.random() < 0.5):
                return written.decode("utf-8", "replace")
            assert pieces, f"a dead end after {written!r}"
            # Late in the walk what closes goes first, so that it ends.
            closing = [t for t in pieces if texts[t][:1] in b'"]}<']
            token = chance.choice(closing if closing and chance.random() < step / 60 else pieces)
            grammar.accept(token)
            written += texts[token]
        return None
    finally:
        grammar.close()


def satisfies(value: Any, schema: Any) -> bool:
    """A validator for the schemas below, nothing more."""
    if schema is True:
        return True
    if "anyOf" in schema:
        return any(satisfies(value, s) for s in schema["anyOf"])
    if "enum" in schema:
        return any(value == v and type(value) is type(v) for v in schema["enum"])
    match schema["type"]:
        case "integer":
            low, high = schema.get("minimum", value), schema.get("maximum", value)
            return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "string":
            low, high = schema.get("minLength", 0), schema.get("maxLength", 10**6)
            return isinstance(value, str) and low <= len(value) <= high
        case "array":
            low, high = schema.get("minItems", 0), schema.get("maxItems", 10**6)
            return isinstance(value, list) and low <= len(value) <= high and all(satisfies(v, schema["items"]) for v in value)
    known = schema["properties"]
    return (
        isinstance(value, dict)
        and set(schema["required"]) <= set(value)
        and all(satisfies(v, known.get(k, schema["additionalProperties"])) for k, v in value.items())
    )


def bounds(least: str, most: str, low: int, high: int) -> st.SearchStrategy[dict[str, int]]:
    both = st.tuples(st.integers(low, high), st.integers(0, 40)).map(lambda t: {least: t[0], most: t[0] + t[1]})
    return st.one_of(st.just({}), both, both.map(lambda d: {least: d[least]}), both.map(lambda d: {most: d[most]}))


def typed(kind: str, rest: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return rest.map(lambda d: {"type": kind, **d})


NAMES = st.sampled_from(["a", "ab", "b", "colour", "a b", 'q"q', "x:y", "é"])
LEAVES = st.one_of(
    typed("integer", bounds("minimum", "maximum", -150, 150)),
    typed("string", bounds("minLength", "maxLength", 0, 12)),
    st.sampled_from(["number", "boolean", "null"]).map(lambda k: {"type": k}),
    st.lists(st.sampled_from(["red", 'a"\\\n', 3, -1, True, None, ""]), min_size=1, max_size=3).map(lambda v: {"enum": v}),
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def assemble(parts: tuple[dict[str, Any], set[str], Any]) -> dict[str, Any]:
        properties, required, more = parts
        must = sorted(required & set(properties))
        return {"type": "object", "properties": properties, "required": must, "additionalProperties": more}

    made = st.tuples(st.dictionaries(NAMES, inner, min_size=1, max_size=4), st.sets(NAMES), st.just(False) | LEAVES)
    return made.map(assemble)


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner),
        st.tuples(inner, bounds("minItems", "maxItems", 0, 3)).map(lambda t: {"type": "array", "items": t[0], **t[1]}),
        st.lists(inner, min_size=1, max_size=3).map(lambda v: {"anyOf": v}),
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(SCHEMAS, st.integers(0, 10**6))
def test_json_that_the_grammar_allows_satisfies_its_schema(model: Model, schema: Any, seed: int) -> None:
    made = constraint.build({"json_schema": schema}, None, None, True, GEMMA, False)
    assert made is not None
    text = walk(model, made, seed)
    assume(text is not None and "\ufffd" not in text)
    assert text is not None
    assert satisfies(json.loads(text), schema), text


@settings(max_examples=100, deadline=None)
@given(objects(SCHEMAS), st.integers(0, 10**6))
def test_calls_that_the_grammar_allows_parse_into_arguments_that_satisfy_the_schema(
    model: Model, schema: Any, seed: int
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    made = constraint.build(None, tools, "required", False, GEMMA, False)
    assert made is not None
    text = walk(model, made, seed)
    assume(text is not None and "\ufffd" not in text)
    assert text is not None
    parser = GEMMA.parser(tools=tools)
    parser.feed(text)
    parser.finish()
    [call] = parser.message()["tool_calls"]
    assert satisfies(json.loads(call["function"]["arguments"]), schema), text
