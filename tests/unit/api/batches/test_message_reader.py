"""Anthropic's batches read as they come: the same lines however the body is cut, one request in memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from batch.api.batches.message_reader import MAX_MESSAGE_REQUESTS, MessageReader
from batch.errors import BadRequest, TooLarge

MAX_LINE_BYTES = 1 << 20


def read(body: bytes, size: int = 1 << 16, max_line_bytes: int = MAX_LINE_BYTES) -> list[Any]:
    reader = MessageReader("/v1/messages", max_line_bytes)
    lines = [reader.feed(body[at : at + size]) for at in range(0, len(body), size)]
    text = b"".join((*lines, reader.close()))
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


REQUESTS = [
    {
        "custom_id": "a-1",
        "params": {"system": 'a "quoted" text\u2028 and \U0001f600', "max_tokens": 12, "list": [1.5, None, []]},
    },
    {"custom_id": "b", "params": {}},
    {"params": {"messages": [{"role": "user", "content": "x" * 300}]}, "custom_id": "c", "more": {"requests": [{}]}},
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 16])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_lines_are_the_same_however_the_body_is_cut(size: int, indent: int | None) -> None:
    document = {"before": {"requests": [7]}, "number": 12, "requests": REQUESTS, "after": [True, "}]"]}
    body = b"\xef\xbb\xbf" + json.dumps(document, indent=indent, ensure_ascii=False).encode() + b" \n"
    lines = read(body, size)
    assert [(line["custom_id"], line["body"]) for line in lines] == [(one["custom_id"], one["params"]) for one in REQUESTS]
    assert all((line["method"], line["url"]) == ("POST", "/v1/messages") for line in lines)


GOOD = '{"custom_id": "a", "params": {}}'


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("", "param"),
        ("[]", "param"),
        ("{}", "requests"),
        ('{"requests": []}', "requests"),
        ('{"requests": {}}', "requests"),
        ('{"requests": [GOOD]', "param"),
        ('{"requests": [GOOD]} 7', "param"),
        ('{"requests": [GOOD], "requests": []}', "requests"),
        ('{"requests": [GOOD GOOD]}', "param"),
        ('{"requests": [GOOD,]}', "param"),
        ('{"requests": [GOOD, GOOD]}', "requests.1.custom_id"),
        ('{"requests": [{"custom_id": "a b", "params": {}}]}', "requests.0.custom_id"),
        ('{"requests": [{"custom_id": "a"}]}', "requests.0.params"),
        ('{"requests": [{"custom_id": 7, "params": {}}]}', "requests.0.custom_id"),
        ('{"requests": [7]}', "requests.0"),
        ('{"requests": [{"custom_id": "a", "params": []}]}', "requests.0.params"),
        ('{"requests": [{"custom_id": "a", "params": {"a": NaN}}]}', "requests.0.params"),
        ('{"requests": [{"custom_id": "a", "params": {"a": "\\ud800"}}]}', "requests.0.params"),
        ('{"requests": [{"custom_id": "a", "params": ' + "[" * 9000 + "}]}", "param"),
        ('{"requests": [{"custom_id": "a", "params": {"a": ' + "1" * 5000 + "}}]}", "param"),
    ],
    ids=range(20),
)
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_what_is_no_batch_is_refused_and_the_request_named(body: str, param: str, size: int) -> None:
    with pytest.raises(BadRequest) as error:
        read(body.replace("GOOD", GOOD).encode(), size)
    if param != "param":
        assert error.value.details["param"] == param


def test_what_is_wrong_is_told_before_the_rest_has_come() -> None:
    reader = MessageReader("/v1/messages", 1 << 30)
    with pytest.raises(BadRequest, match=r"requests\.0 is not JSON"):
        reader.feed(b'{"requests": [{"custom_id" 7' + b" " * 1000)


def test_a_request_that_is_larger_than_a_line_may_be_is_too_large() -> None:
    for text in ("x" * 5000, '"' * 5000):
        body = json.dumps({"requests": [{"custom_id": "a", "params": {"a": text}}]}).encode()
        assert len(read(body, 100, 20_000)) == 1
        with pytest.raises(TooLarge):
            read(body, 100, 4000)


def test_more_requests_than_a_batch_may_have_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from batch.api.batches import message_reader

    assert MAX_MESSAGE_REQUESTS == 100_000
    monkeypatch.setattr(message_reader, "MAX_MESSAGE_REQUESTS", 2)
    body = json.dumps({"requests": [{"custom_id": str(at), "params": {}} for at in range(3)]}).encode()
    with pytest.raises(TooLarge):
        read(body)


def test_memory_does_not_grow_with_the_body() -> None:
    """A body of 256 MB was held in memory, and decoded in one call in which nothing else ran."""

    def pieces() -> Iterator[bytes]:
        text = "a word " * 1000
        yield b'{"requests": ['
        for at in range(3000):
            yield b"," * (at > 0) + json.dumps({"custom_id": str(at), "params": {"text": text}}).encode()
        yield b"]}"

    reader, size = MessageReader("/v1/messages", 256 << 20), 0
    tracemalloc.start()
    try:
        for piece in pieces():
            size += len(reader.feed(piece))
        size += len(reader.close())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.count == 3000 and size > 20 << 20
    assert peak < 2 << 20
