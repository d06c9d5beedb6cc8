"""The inputs of an embedding call, from JSON: checked item by item, and read a slice at a time where they are large."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import msgspec

from batch.errors import BadRequest, TooLarge
from batch.payloads.embedding import EmbeddingInput
from batch.payloads.json_slices import JSON_SPACE, SLICE_BYTES, element_slices

MAX_INPUTS = 1 << 16
"""Inputs of a call, which bounds the memory that its vectors take."""
MAX_TEXT_BYTES = 16 << 20
SMALL_ARRAY_BYTES = 32 << 10
"""An array of this size is read as a whole: to look for its slices would take longer."""
MAX_TOKEN_ARRAY_BYTES = 4 << 20
"""JSON of one token array: half a million ids, far more than any model takes."""

_ITEMS = msgspec.json.Decoder(list[str | int | float | list[int | str]])
_TOKEN_ARRAY = msgspec.json.Decoder(list[int | str])
_TEXT = msgspec.json.Decoder(str)
_PATH = re.compile(r"\$\[(\d+)\](\[\d+\])?")
_HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_inputs(data: bytes | memoryview, field: str = "input") -> list[EmbeddingInput]:
    """All inputs of a call, from the JSON of its field `field`: a text, a token array, or an array of both.

    An array with a number in it is one token array, as llama-server has it. Raises BadRequest or TooLarge, which name the
    item.
    """
    return [item for items in iter_inputs(data, field) for item in items]


def iter_inputs(data: bytes | memoryview, field: str = "input") -> Iterator[list[EmbeddingInput]]:
    """What `read_inputs` gives, some at a time, in memory for one slice of the JSON or one item."""
    match bytes(data[:1]):
        case b'"':
            yield [_text(memoryview(data), field, 0)]
        case b"[":
            yield from _iter_array(data, field)
        case _:
            raise BadRequest(f'"{field}" must be a string, an array of strings or an array of token ids.', param=field)


def is_token_array(data: bytes | memoryview) -> bool:
    """Whether the JSON of inputs that `iter_inputs` takes is one token array, not an array of inputs."""
    if bytes(data[:1]) != b"[":
        return False
    first = next(_array_slices(data, "input"), memoryview(b""))
    return any(type(item) is int for item in _decode_items(first, "input", 0))


def _iter_array(data: bytes | memoryview, field: str) -> Iterator[list[EmbeddingInput]]:
    count = 0
    for part in _array_slices(data, field):
        items = _decode_items(part, field, count)
        types = set(map(type, items))
        numbers = bool(types & {int, float})
        if numbers and count:
            message = f'"{field}" holds numbers behind item {count}: send texts, or an array for each text\'s token ids.'
            raise BadRequest(message, param=field)
        if numbers:
            yield [_whole_token_array(data, field)]
            return
        checked: list[EmbeddingInput] = []
        for index, item in enumerate(items, count) if types != {str} else ():
            if isinstance(item, (int, float)):  # seen above
                continue
            if not item and isinstance(item, list):
                raise BadRequest(f'"{field}" item {index} is an empty token array.', param=field, index=index)
            checked.append(item)
        count += len(items)
        if count > MAX_INPUTS:
            raise TooLarge(f'"{field}" has more than {MAX_INPUTS} items: send several calls.', param=field)
        if types == {str}:  # nearly always
            checked = cast(list[EmbeddingInput], items)
        if checked:
            yield checked
    if count == 0:
        raise BadRequest('"input" must not be empty', param=field)


def _array_slices(data: bytes | memoryview, field: str) -> Iterator[memoryview]:
    if len(data) <= SMALL_ARRAY_BYTES and (inside := _inside_of_array(bytes(data))):
        yield memoryview(inside)
        return
    try:
        yield from element_slices(data)
    except ValueError as error:
        raise BadRequest(f'"{field}" is not JSON: {error}.', param=field) from None


def _inside_of_array(data: bytes) -> bytes:
    """What stands between an array's brackets; empty where that is nothing, or the data ends otherwise."""
    data = data.strip(JSON_SPACE)
    return data[1:-1].strip(JSON_SPACE) if data.endswith(b"]") else b""


def _decode_items(part: memoryview, field: str, first: int) -> list[str | int | float | list[int | str]]:
    """The items of a slice, whose first has the index `first`."""
    if len(part) > SLICE_BYTES:
        stripped = bytes(part[:64]).lstrip()
        if stripped.startswith(b"["):
            _check_token_array_size(part, field, first)
        elif len(part) > MAX_TEXT_BYTES:
            raise _too_long(field, first)
    try:
        return _ITEMS.decode(b"[" + part + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        place = _PATH.search(str(error))
        if isinstance(error, msgspec.ValidationError) and place:
            index = first + int(place[1])
            what = "may hold only token ids (whole numbers) and texts" if place[2] else None
            what = what or "is neither a string nor an array of token ids"
            raise BadRequest(f'"{field}" item {index} {what}.', param=field, index=index) from None
        raise not_json(part, error) from None


def _whole_token_array(data: bytes | memoryview, field: str) -> list[int | str]:
    _check_token_array_size(data, field, 0)
    try:
        return _TOKEN_ARRAY.decode(data)
    except msgspec.ValidationError:
        message = f'"{field}" item 0 may hold only token ids (whole numbers) and texts.'
        raise BadRequest(message, param=field, index=0) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(data, error) from None


def _check_token_array_size(data: bytes | memoryview, field: str, index: int) -> None:
    if len(data) > MAX_TOKEN_ARRAY_BYTES:
        message = f'"{field}" item {index} is a token array of {len(data)} bytes: no model takes so many.'
        raise TooLarge(message, param=field, index=index)


def _text(data: memoryview, field: str, index: int) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise _too_long(field, index)
    try:
        return _TEXT.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise not_json(data, error) from None


def _too_long(field: str, index: int) -> TooLarge:
    message = f'"{field}" item {index} is a text of more than {MAX_TEXT_BYTES >> 20} MB: split it.'
    return TooLarge(message, param=field, index=index)


def not_json(data: bytes | memoryview, error: Exception) -> BadRequest:
    """The refusal of a body that `error` arose from."""
    if isinstance(error, UnicodeDecodeError):
        return BadRequest("The request body is not UTF-8.")
    if isinstance(error, RecursionError):
        return BadRequest("The request body nests too deep.")
    if _HALF_SURROGATE.search(data):
        return BadRequest("The request body holds half of a surrogate pair, which is no character.")
    return BadRequest(f"The request body is not JSON: {error}.")
