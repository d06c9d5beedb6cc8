"""JSON request bodies: bounded before anything is built of them, then checked against a declared type in C.

null counts as absent, unknown fields are ignored, a wrong type or range is a 400 that names the field. Bodies are read
whatever Content-Type says, as llama-server does (`curl -d` sends a form's).
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from fastapi.responses import Response

from batch.errors import BadRequest, TooLarge
from batch.payloads.json_text import encode

MAX_DEPTH = 100
"""Deepest nesting taken: far above any real schema, far below what makes a parser recurse too deep."""
MAX_CONTAINERS = 1 << 17
"""Most arrays and objects in a body: each costs about a hundred bytes of memory, and three of the body."""
MAX_VALUES = 1 << 19
"""Most values in a body: as many are built in a fifth of a second, in which no other thread runs."""
OFF_LOOP_BYTES = 1 << 18
"""Size above which a body is parsed in a thread: below it, parsing takes less than a millisecond."""
SLICE_BYTES = 1 << 20
"""Looked through at a time, in a few milliseconds: other threads have their turn between."""
MAX_QUOTED_CHARS = 60
"""Most characters of a client's own words that an error repeats."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_WHOLE_STRINGS = re.compile(rb'(?:[^"]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
"""As much of a document as ends outside of strings."""
_CHARACTERS = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""What may stand inside a string."""
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Base of request bodies: a field without a default is required, None stands for absent."""


JsonObject = dict[str, Any]
"""An object of a client's JSON whose fields are not declared."""

B = TypeVar("B", bound=msgspec.Struct)
T = TypeVar("T")


def parse_json(data: bytes) -> Any:
    """The document in `data`, built of dict, list, str, int, float, bool and None.

    Raises BadRequest when it is not JSON or nests too deep, TooLarge when it holds more values than any request needs.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    _check_counts(data)
    try:
        document = msgspec.json.decode(data)
    except UnicodeDecodeError:
        raise BadRequest("The request body is not UTF-8.") from None
    except RecursionError:
        raise _too_deep() from None
    except msgspec.MsgspecError as error:
        if _HALF_PAIR.search(data) and "JSON is malformed" not in str(error):
            raise BadRequest("The request body holds half of a surrogate pair, which is no character.") from None
        reason = str(error).removeprefix("JSON is malformed: ")
        raise BadRequest(f"The request body is not JSON: {reason[:1].lower()}{reason[1:]}.") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _nests_deeper(document, MAX_DEPTH):
        raise _too_deep()
    return document


def read_body(body_type: type[B], document: Any) -> B:
    """A parsed document as a checked body. Raises BadRequest with one sentence that names the field."""
    if not isinstance(document, dict):
        raise BadRequest("The request body must be a JSON object.")
    present = {name: value for name, value in document.items() if value is not None}
    try:
        return msgspec.convert(present, body_type)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise field_error(error) from None
    try:
        return msgspec.convert(_whole_numbers(present), body_type)
    except msgspec.ValidationError as error:
        raise field_error(error) from None


def json_body(read: Callable[[bytes], T]) -> Callable[[Request], Coroutine[Any, Any, T]]:
    """A FastAPI dependency that gives what `read` makes of a request's body, off the event loop where that is large."""

    async def dependency(request: Request) -> T:
        data = await request.body()
        return await asyncio.to_thread(read, data) if len(data) > OFF_LOOP_BYTES else read(data)

    return dependency


def with_body(
    read: Callable[[bytes], T], answer: Callable[[Request, T], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that PortApp calls plainly for one of FastAPI's, which `answer` is, with a `json_body(read)`."""
    read_request = json_body(read)

    async def endpoint(request: Request) -> Response:
        return await answer(request, await read_request(request))

    return endpoint


def reader(body_type: type[B]) -> Callable[[bytes], B]:
    """What reads a request's bytes as a checked `body_type`, for `json_body`."""
    return lambda data: read_body(body_type, parse_json(data))


def json_response(value: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """An answer in JSON; `value` is a struct or made of JSON's types."""
    return Response(encode(value), status, headers, "application/json")


# -- counts


def _check_counts(data: bytes) -> None:
    """Raise TooLarge before a document of millions of values is built; a byte is counted in a tenth of a nanosecond."""
    values = data.count(b",")
    containers = data.count(b"[") + data.count(b"{")
    if values <= MAX_VALUES and containers <= MAX_CONTAINERS:
        return
    # Some of those bytes may stand inside strings, where they are text.
    values = containers = start = 0
    while start < len(data):
        whole = _WHOLE_STRINGS.match(data, start, start + SLICE_BYTES)
        if whole is None or whole.end() == start:  # a string begins here that is longer than a slice
            start = _string_end(data, start)
            continue
        outside = _STRING.sub(b"", whole[0])
        values += outside.count(b",")
        containers += outside.count(b"[") + outside.count(b"{")
        _refuse_counts(values, containers)
        start = whole.end()


def _string_end(data: bytes, start: int) -> int:
    """One past the quotation mark that ends the string at `start`; the document's end where none does."""
    at = start + 1
    while at < len(data):
        characters = _CHARACTERS.match(data, at, at + SLICE_BYTES)
        end = characters.end() if characters else at
        if data[end : end + 1] == b'"':
            return end + 1
        at = end if end > at else at + 2  # a backslash that a slice ends with, and what it escapes
    return len(data)


def _refuse_counts(values: int, containers: int) -> None:
    if values > MAX_VALUES:
        raise TooLarge(f"The request body holds more than {MAX_VALUES} values: send it in several requests.")
    if containers > MAX_CONTAINERS:
        raise TooLarge(f"The request body holds more than {MAX_CONTAINERS} arrays and objects: send it in several requests.")


def _nests_deeper(document: Any, limit: int) -> bool:
    level = [document]
    for _ in range(limit):
        below: list[Any] = []
        for node in level:
            children = node.values() if isinstance(node, dict) else node
            below += [child for child in children if isinstance(child, (dict, list))]
        if not below:
            return False
        level = below
    return True


def _too_deep() -> BadRequest:
    return BadRequest(f"The request body nests deeper than {MAX_DEPTH} levels.")


def _whole_numbers(document: JsonObject) -> JsonObject:
    """The document with 5.0 as 5 everywhere, changed in place: JSON knows no integers, and some clients write none."""
    nodes: list[Any] = [document]
    while nodes:
        node = nodes.pop()
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, (dict, list)):
                nodes.append(value)
            elif isinstance(value, float) and value.is_integer():
                node[key] = int(value)
    return document


# -- errors

_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_EXPECTED = re.compile(r"Expected `([^`]+)`, got `([^`]+)`$")
_LENGTH_OR_RANGE = re.compile(r"Expected `(\w+)`( of length)? (>=|<=|>|<) (\S+)$")
_BOUND_WORDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_UNITS = {"str": "characters", "array": "items", "object": "fields"}
_MISSING = re.compile(r"Object missing required field `([^`]+)`$")


def field_error(error: msgspec.ValidationError) -> BadRequest:
    """msgspec's sentence in plain words, with the client's own path to the field as `param`."""
    reason, _, path = str(error).rpartition(" - at `$")
    if not reason:
        reason, path = path, ""
    param = path.rstrip("`").removesuffix("[...]").lstrip(".")
    if missing := _MISSING.match(reason):
        name = f"{param}.{missing[1]}" if param else missing[1]
        return BadRequest(f"'{name}' is required", param=name)
    return BadRequest(f"Field '{param}': {_plain(reason)}", param=param)


def _plain(reason: str) -> str:
    if match := _EXPECTED.match(reason):
        allowed = [_TYPE_WORDS.get(word, word) for word in match[1].split(" | ") if word != "null"]
        value_type = {"true or false": "a boolean"}.get(word := _TYPE_WORDS.get(match[2], match[2]), word)
        return f"should be {' or '.join(allowed)}, not {value_type}"
    if match := _LENGTH_OR_RANGE.match(reason):
        kind, of_length, sign, limit = match.groups()
        number = limit.removesuffix(".0")
        return f"should {'hold' if of_length else 'be'} {_BOUND_WORDS[sign]} {number}" + (
            f" {_UNITS[kind]}" if of_length else ""
        )
    if reason.startswith("Invalid enum value "):
        value = reason.removeprefix("Invalid enum value ")
        return f"{quoted(value.strip(chr(39)))} is not one of the values that it takes"
    return reason[:1].lower() + reason[1:]


def quoted(text: str) -> str:
    """A client's own words for an error message: short, on one line, in quotation marks."""
    cut = text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 1] + "…"
    return '"' + "".join(c if c.isprintable() else "\ufffd" for c in cut) + '"'


# -- /openapi.json


@functools.cache
def documented(body_type: type[msgspec.Struct]) -> JsonObject:
    """`openapi_extra` of a route that reads its body with `json_body`."""
    schema = msgspec.json.schema(body_type)
    shared = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inline(shared[node["$ref"].rsplit("/", 1)[1]])
            return {key: inline(value) for key, value in node.items()}
        return [inline(item) for item in node] if isinstance(node, list) else node

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inline(schema)}}}}
