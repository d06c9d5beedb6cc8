"""A body is read alike whatever its size, and what is wrong with it is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batch.api.embeddings.request import EmbeddingRequest
from batch.errors import BadRequest
from batch.payloads.json_slices import SLICE_BYTES

FILLER = "x" * (SLICE_BYTES // 2)


def read(**body: Any) -> EmbeddingRequest:
    return EmbeddingRequest.read(json.dumps(body).encode())


@pytest.mark.parametrize("size", ["small", "large"])
def test_every_field_is_read_from_a_small_body_and_from_a_large_one(size: str) -> None:
    texts = ["a"] if size == "small" else [FILLER, FILLER, "b"]
    for order in (("model", "input"), ("input", "model")):
        body = {"model": "m", "input": texts, "dimensions": 5.0, "truncate": True, "encoding_format": "base64"}
        ordered = {key: body[key] for key in (*order, "dimensions", "truncate", "encoding_format")}
        request = read(**ordered, input_type="query", user="somebody")
        assert (request.model, request.dimensions, request.truncate) == ("m", 5, True)
        assert request.as_base64 and request.is_query and not request.is_native
        assert request.input_count == len(texts)
        given = request.inputs if request.input_json is None else json.loads(request.input_json)
        assert given == texts


@pytest.mark.parametrize("value", [FILLER + FILLER + "a", [7] * 10_000, ["a", 7] + [8] * 10_000])
def test_a_large_text_or_token_array_becomes_an_array_of_one_input(value: Any) -> None:
    request = read(input=value)
    assert request.input_count == 1 and request.input_json is not None
    assert json.loads(request.input_json) == [value]


def test_null_means_absent() -> None:
    request = read(input=None, content="x", model=None, dimensions=None, truncate=None, encoding_format=None, input_type=None)
    assert request.inputs == ["x"] and request.is_native and request.model == "" and not request.truncate


@pytest.mark.parametrize("kind, is_query", [("query", True), ("search_query", True), ("document", False), ("passage", False)])
def test_the_words_of_several_servers_say_that_a_text_is_a_query(kind: str, is_query: bool) -> None:
    assert read(input="x", input_type=kind).is_query is is_query


@pytest.mark.parametrize(
    "field, value",
    [
        ("dimensions", 0),
        ("dimensions", -1),
        ("dimensions", 1.5),
        ("dimensions", "5"),
        ("dimensions", True),
        ("dimensions", [1]),
        ("truncate", "yes"),
        ("truncate", 1),
        ("encoding_format", "int8"),
        ("encoding_format", 5),
        ("encoding_format", ["float"]),
        ("input_type", "question"),
        ("input_type", 5),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=field) as refused:
        read(input="x", **{field: value})
    assert refused.value.details["param"] == field


@pytest.mark.parametrize("filler", [b"", b'"filler": "' + b"x" * SLICE_BYTES + b'",'])
@pytest.mark.parametrize(
    "text",
    [
        b'{%s"input": "x"',
        b'{%s"input": ["x"}',
        b'{%s"input": "\\ud800"}',
        b'{%s"input": NaN}',
        b'{%s"input": "\xff"}',
        b'{%s"\xff": 1, "input": "x"}',
        b'{%s"dimensions": 1e999, "input": "x"}',
        b'{%s"input": ' + b"[" * 5000,
        b'{%s"input": "x"} {}',
    ],
)
def test_a_body_that_is_not_json_is_refused(text: bytes, filler: bytes) -> None:
    with pytest.raises(BadRequest):
        EmbeddingRequest.read(text.replace(b"%s", filler))


@pytest.mark.parametrize("text", [b"", b"nonsense", b'"text"', b"[]", b"5", b"[" + b"1," * SLICE_BYTES + b"1]"])
def test_a_body_that_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest):
        EmbeddingRequest.read(text)
