"""Structs as JSON text and back, for rows, frames and spool files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """A struct, or anything made of JSON's types, as compact UTF-8; half a surrogate pair becomes a question mark."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


@overload
def decode(text: str | bytes, type: type[T]) -> T: ...
@overload
def decode(text: str | bytes, type: Any) -> Any: ...
def decode(text: str | bytes, type: Any) -> Any:
    """A value of a type. Raises msgspec.ValidationError where the text does not fit it, ValueError where it is no JSON.

    Takes what Python's own json module wrote too, as earlier versions did: NaN, half a surrogate pair.
    """
    try:
        return msgspec.json.decode(text, type=type)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(text), type)


def decoder(type: Any) -> Callable[[str | bytes], Any]:
    """`decode` for one type, prepared once: msgspec would work out a union anew at every call, for as long as it reads."""
    read = msgspec.json.Decoder(type).decode

    def decode_one(text: str | bytes) -> Any:
        try:
            return read(text)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.convert(json.loads(text), type)

    return decode_one
