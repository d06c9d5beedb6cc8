"""Bodies are bounded before anything is built of them, and errors name the client's own field."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Annotated

import pytest
from msgspec import Meta

from batch.api.json_body import MAX_CONTAINERS, MAX_DEPTH, MAX_VALUES, Body, parse_json, read_body
from batch.errors import BadRequest, TooLarge


class Nested(Body, frozen=True, kw_only=True):
    depth: int


class Example(Body, frozen=True, kw_only=True):
    name: str
    count: Annotated[int, Meta(ge=0, le=5)] | None = None
    share: Annotated[float, Meta(ge=0, le=1)] | None = None
    switch: bool | None = None
    text_or_texts: str | list[str] | None = None
    nested: Nested | None = None


@pytest.mark.parametrize(
    ("begin", "values", "end"),
    [
        (b'{"input":[', b"[],", b"[]]}"),
        (b'{"input":[', b"{},", b"{}]}"),
        (b'{"input":[', b"1,", b"1]}"),
        (b'{"input":[', b'"",', b'""]}'),
        (b'{"a":{"b":[', b'["x"],', b"[]]}}"),
    ],
    ids=["arrays", "objects", "numbers", "texts", "nested"],
)
def test_millions_of_values_are_refused_before_they_take_memory(begin: bytes, values: bytes, end: bytes) -> None:
    document = begin + values * 10_000_000 + end
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(TooLarge, match="holds more than"):
        parse_json(document)
    taken, spent = tracemalloc.get_traced_memory()[1], time.monotonic() - started
    tracemalloc.stop()
    assert taken < 3 * len(document) and spent < 30


def test_brackets_and_commas_inside_texts_are_text() -> None:
    code = "f([1, 2], {3: 4}); " * 200_000
    document = json.dumps({"input": [code, 'say "[" twice: \\"[[', code]}).encode()
    assert document.count(b"[") > MAX_CONTAINERS
    assert parse_json(document)["input"][0] == code


def test_a_text_without_an_end_is_no_json_and_costs_no_time() -> None:
    started = time.monotonic()
    for document in (b'{"a":"' + b"[," * 5_000_000, b'{"a":"' + b'\\"[,' * 5_000_000):
        with pytest.raises((BadRequest, TooLarge)):
            parse_json(document)
    assert time.monotonic() - started < 20


def test_as_many_values_as_a_request_may_need_are_taken() -> None:
    rows = [[1, 2, 3]] * (MAX_CONTAINERS - 10)
    assert len(parse_json(json.dumps({"input": rows}).encode())["input"]) == len(rows)
    assert len(parse_json(b"[" + b"7," * (MAX_VALUES - 1) + b"7]")) == MAX_VALUES


@pytest.mark.parametrize("open_, close", [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused_in_every_field(open_: str, close: str) -> None:
    def nested(levels: int) -> bytes:
        return (open_ * levels + "1" + close * levels).encode()

    assert parse_json(nested(MAX_DEPTH)) is not None
    for levels in (MAX_DEPTH + 1, 1000, 100_000):
        with pytest.raises(BadRequest, match="deeper than 100"):
            parse_json(nested(levels))


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({}, "'name' is required"),
        ({"name": None}, "'name' is required"),
        ({"name": 5}, "Field 'name': should be a string, not a whole number"),
        ({"name": "x", "count": "5"}, "Field 'count': should be a whole number, not a string"),
        ({"name": "x", "count": 5.5}, "Field 'count': should be a whole number, not a number"),
        ({"name": "x", "count": True}, "Field 'count': should be a whole number, not a boolean"),
        ({"name": "x", "count": 6}, "Field 'count': should be at most 5"),
        ({"name": "x", "count": -1}, "Field 'count': should be at least 0"),
        ({"name": "x", "share": 1.5}, "Field 'share': should be at most 1"),
        ({"name": "x", "switch": "yes"}, "Field 'switch': should be true or false, not a string"),
        ({"name": "x", "text_or_texts": 5}, "Field 'text_or_texts': should be a string or an array, not a whole number"),
        ({"name": "x", "text_or_texts": ["a", 5]}, "Field 'text_or_texts[1]': should be a string, not a whole number"),
        ({"name": "x", "nested": []}, "Field 'nested': should be an object, not an array"),
        ({"name": "x", "nested": {}}, "'nested.depth' is required"),
        ({"name": "x", "nested": {"depth": "deep"}}, "Field 'nested.depth': should be a whole number, not a string"),
    ],
)
def test_an_error_is_one_sentence_that_names_the_field(document: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_body(Example, document)
    assert caught.value.message == sentence
    assert caught.value.details["param"] == sentence.split("'")[1]


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert read_body(Example, parse_json(b'{"name":"x","count":5.0,"share":1}')).count == 5


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b'{"a":NaN}', "invalid character"),
        (b'{"a":1e999}', "out of range"),
        (b'{"a":' + b"9" * 5000 + b"}", "out of range"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b"\xff\xfe{\x00", "invalid"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":"\\ud800x"}', "surrogate"),
        (b'{"a":"\\udc00\\ud800"}', "surrogate"),
        (b"{} {}", "trailing characters"),
    ],
)
def test_what_is_no_json_is_told_why(data: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        parse_json(data)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_json(b"\xef\xbb\xbf{}") == {}
