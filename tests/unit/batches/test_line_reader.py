"""The lines of a batch's input: read as bytes, told apart, and refused by number."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.batches.line_reader import ReadLine, parse_body, read_lines

ENDPOINT = "/v1/chat/completions"


def request_line(custom_id: Any = "a", **changes: Any) -> bytes:
    fields = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": {"messages": []}, **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def read(data: bytes, max_line_bytes: int = 1000, **where: int) -> list[ReadLine]:
    return list(read_lines(io.BytesIO(data), ENDPOINT, max_line_bytes, **where))


def problem(line: bytes) -> tuple[str, str | None]:
    (only,) = read(line)
    assert only.problem is not None and only.problem.line == 1
    return only.problem.code, only.problem.param


def test_lines_end_at_line_feeds_alone_and_blank_ones_count() -> None:
    text = request_line("one", body={"x": "\u2028\u2029\x85"})
    data = text + b"\r\n\n  \n" + request_line("two")
    first, blank, spaces, last = read(data)
    assert (first.line, first.custom_id, first.start, first.length) == (1, "one", 0, len(text))
    assert blank.body is None is blank.problem and spaces.body is None is spaces.problem
    assert (last.line, last.custom_id, last.end) == (4, "two", len(data))


def test_a_line_can_be_read_again_from_its_place() -> None:
    data = b"\xef\xbb\xbf" + request_line("a", body={"n": 1}) + b"\n" + request_line("b", body={"n": 2}) + b"\n"
    lines = read(data)
    assert [parse_body(data[line.start : line.start + line.length]) for line in lines] == [{"n": 1}, {"n": 2}]


def test_reading_goes_on_where_it_stopped() -> None:
    data = b"\n".join(request_line(f"line {number}") for number in range(10)) + b"\n"
    whole = read(data)
    rest = read(data, start=whole[3].end, line=whole[3].line)
    assert rest == whole[4:]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", ("invalid_json_line", None)),
        (b"[]", ("invalid_json_line", None)),
        (b'{"custom_id": NaN}', ("invalid_json_line", None)),
        (b'{"custom_id": "\\ud800"}', ("invalid_json_line", None)),
        (b"\xff\xfe{\x00}\x00", ("invalid_json_line", None)),
        (b'{"custom_id": "\xff"}', ("invalid_json_line", None)),
        (b"[" * 100_000, ("invalid_json_line", None)),
        (request_line(...), ("missing_required_parameter", "custom_id")),
        (request_line(""), ("missing_required_parameter", "custom_id")),
        (request_line(7), ("missing_required_parameter", "custom_id")),
        (request_line("x" * 513), ("missing_required_parameter", "custom_id")),
        (request_line(method=...), ("missing_required_parameter", "method")),
        (request_line(method="GET"), ("invalid_method", "method")),
        (request_line(url=...), ("missing_required_parameter", "url")),
        (request_line(url="/v1/embeddings"), ("url_mismatch", "url")),
        (request_line(body=...), ("missing_required_parameter", "body")),
        (request_line(body=[]), ("missing_required_parameter", "body")),
    ],
)
def test_what_is_wrong_with_a_line_has_openais_code(line: bytes, expected: tuple[str, str | None]) -> None:
    (only,) = read(line, 1 << 20)
    assert only.problem is not None
    assert (only.problem.code, only.problem.param) == expected


def test_another_encoding_is_named() -> None:
    (only, *_) = read(request_line().decode().encode("utf-16"))
    assert only.problem is not None and "UTF-16" in only.problem.message


def test_a_line_that_is_too_large_is_passed_over_and_the_next_is_read() -> None:
    long, short = read(request_line(body={"x": "y" * 5000}) + b"\n" + request_line("b"), 200)
    assert long.problem is not None and long.problem.code == "line_too_large"
    assert short.custom_id == "b" and short.problem is None


def test_lines_with_a_common_beginning_share_their_prefix() -> None:
    def with_system(text: str, question: str) -> bytes:
        messages = [{"role": "system", "content": text}, {"role": "user", "content": question}]
        return request_line(question, body={"messages": messages})

    lines = read(b"\n".join([with_system("A", "1"), with_system("B", "2"), with_system("A", "3"), request_line()]))
    assert lines[0].prefix == lines[2].prefix != lines[1].prefix != ""
    assert lines[3].prefix == ""


@given(st.binary(max_size=400), st.integers(min_value=1, max_value=60))
def test_every_byte_belongs_to_one_line_whatever_the_file_holds(data: bytes, max_line_bytes: int) -> None:
    lines = read(data, max_line_bytes)
    assert [line.line for line in lines] == list(range(1, len(lines) + 1))
    assert (lines[-1].end if lines else 0) == len(data)
    ends = [line.end for line in lines]
    assert ends == sorted(ends)
    assert sum(data[: line.end].endswith(b"\n") for line in lines) == data.count(b"\n")
