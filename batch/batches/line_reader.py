"""The lines of a batch's input, read as bytes in one pass: bounded memory, exact positions, problems by line number."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from batch.batches.line_endpoint import JsonObject
from batch.batches.rows import LineProblem
from batch.payloads.json_text import encode

MAX_CUSTOM_ID_CHARS = 512
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""What a file begins with that is not UTF-8."""


class ReadLine(msgspec.Struct, frozen=True, kw_only=True):
    """One physical line: a request, or what is wrong with it; neither for a blank one."""

    line: int
    """1-based."""
    start: int
    """First byte in the file, after a byte order mark."""
    length: int
    """Bytes without its line end."""
    end: int
    """First byte of the next line."""
    custom_id: str = ""
    body: JsonObject | None = None
    prefix: str = ""
    problem: LineProblem | None = None


def read_lines(file: BinaryIO, endpoint: str, max_line_bytes: int, *, start: int = 0, line: int = 0) -> Iterator[ReadLine]:
    """Lines from byte `start` on, of which `line` have been read before. Splits at 0x0A only.

    A line longer than `max_line_bytes` is skipped in pieces and reported.
    """
    file.seek(start)
    at = start
    while piece := file.readline(max_line_bytes + 2):
        line += 1
        begin, size = at, len(piece)
        while not piece.endswith(b"\n") and size > max_line_bytes and (rest := file.readline(1 << 20)):
            size += len(rest)
            if rest.endswith(b"\n"):
                break
        at += size
        if size > max_line_bytes + 2:
            problem = _problem(line, "line_too_large", f"The line has {size} bytes; {max_line_bytes} are taken at most.")
            yield ReadLine(line=line, start=begin, length=size, end=at, problem=problem)
            continue
        text = piece.removesuffix(b"\n").removesuffix(b"\r")
        if begin == 0 and text.startswith(codecs.BOM_UTF8):
            text = text[len(codecs.BOM_UTF8) :]
            begin = len(codecs.BOM_UTF8)
        if not text.strip(b" \t\r"):
            yield ReadLine(line=line, start=begin, length=len(text), end=at)
            continue
        yield _read_line(text, endpoint, line, begin, at)


def named_endpoint(line: bytes) -> str | None:
    """The endpoint that a request line names; None for what is no line of a batch."""
    try:
        envelope = msgspec.json.decode(line.removeprefix(codecs.BOM_UTF8), type=_Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return envelope.url


def line_problem(line: bytes, endpoint: str) -> str | None:
    """Why a line cannot stand in a batch's input, in a sentence; None where it can."""
    problem = _read_line(line, endpoint, 1, 0, len(line)).problem
    return None if problem is None else problem.message


def parse_body(line: bytes) -> JsonObject:
    """The request body in a line that `read_lines` accepted."""
    return msgspec.json.decode(line, type=_Envelope).body or {}


class _Request(msgspec.Struct, frozen=True):
    custom_id: str
    url: str
    body: msgspec.Raw


class _Envelope(msgspec.Struct, frozen=True):
    body: JsonObject | None = None


def _read_line(text: bytes, endpoint: str, line: int, start: int, end: int) -> ReadLine:
    try:
        envelope = _parse(text)
        custom_id = _custom_id(envelope)
        body = _body(envelope, endpoint)
    except _Invalid as error:
        problem = _problem(line, error.code, error.message, error.param)
        return ReadLine(line=line, start=start, length=len(text), end=end, problem=problem)
    return ReadLine(
        line=line, start=start, length=len(text), end=end, custom_id=custom_id, body=body, prefix=_prefix_digest(body)
    )


class _Invalid(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


def _parse(text: bytes) -> JsonObject:
    for mark, encoding in _ENCODINGS.items():
        if text.startswith(mark):
            raise _Invalid("invalid_json_line", f"The file is {encoding}; it must be UTF-8.")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Invalid("invalid_json_line", f"The line is not UTF-8: byte {error.start} of it is wrong.") from None
    try:
        value = msgspec.json.decode(text)
        encode(value).decode("utf-8")
    except (msgspec.DecodeError, ValueError) as error:
        raise _Invalid("invalid_json_line", f"The line is not JSON: {error}.") from None
    except RecursionError:
        raise _Invalid("invalid_json_line", "The line nests too deep.") from None
    if not isinstance(value, dict):
        raise _Invalid("invalid_json_line", "The line is not a JSON object.")
    return value


def _custom_id(envelope: JsonObject) -> str:
    value = envelope.get("custom_id")
    if value is None:
        raise _Invalid("missing_required_parameter", "The line has no custom_id.", "custom_id")
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CUSTOM_ID_CHARS:
        message = f"custom_id must be a text of 1 to {MAX_CUSTOM_ID_CHARS} characters."
        raise _Invalid("missing_required_parameter", message, "custom_id")
    return value


def _body(envelope: JsonObject, endpoint: str) -> JsonObject:
    method = envelope.get("method")
    if method is None:
        raise _Invalid("missing_required_parameter", "The line has no method.", "method")
    if method != "POST":
        raise _Invalid("invalid_method", "method must be POST.", "method")
    url = envelope.get("url")
    if url is None:
        raise _Invalid("missing_required_parameter", "The line has no url.", "url")
    if url != endpoint:
        raise _Invalid("url_mismatch", f"url must be the batch's endpoint, {endpoint}.", "url")
    body = envelope.get("body")
    if not isinstance(body, dict):
        raise _Invalid("missing_required_parameter", "The line has no body that is a JSON object.", "body")
    return body


def _problem(line: int, code: str, message: str, param: str | None = None) -> LineProblem:
    return LineProblem(code=code, message=message, line=line, param=param)


def _prefix_digest(body: JsonObject) -> str:
    """What a prompt begins with, as a digest: lines with a common one are answered after each other."""
    leading: list[object] = [body.get("instructions"), body.get("system"), body.get("tools")]
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict) or message.get("role") not in ("system", "developer"):
            break
        leading.append(message.get("content"))
    if not any(leading):
        return ""
    return hashlib.sha256(encode(leading)).hexdigest()[:16]
