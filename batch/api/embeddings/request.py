"""What a client may send to embed texts, and how a body is read: a large one in slices, off the event loop."""

from __future__ import annotations

import codecs
import functools
import re
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from batch.api.json_body import Body
from batch.errors import BadRequest
from batch.payloads.embedding import EmbeddingInput, EmbeddingPayload
from batch.payloads.embedding_inputs import is_token_array, iter_inputs, not_json, read_inputs
from batch.payloads.json_slices import SLICE_BYTES, element_slices

MAX_INLINE_INPUT_BYTES = 8 << 10
"""A larger input goes to the spool instead of the job's row."""

InputType = Literal["query", "document", "passage", "search_query", "search_document"]
"""What the texts are for, in the words of several servers."""
_QUERY_TYPES = ("query", "search_query")
_INPUT_TYPES = get_args(InputType)
EncodingFormat = Literal["float", "base64"]
MAX_DIMENSIONS = 1 << 20
"""More than any model has: a larger number is refused like this one."""


class EmbeddingBody(Body, frozen=True, kw_only=True):
    """The documented body; `EmbeddingRequest.read` reads it, as its errors name the item."""

    model: Any = None
    input: str | list[str | int | list[int | str]] | None = None
    content: str | list[str | int | list[int | str]] | None = None
    encoding_format: EncodingFormat | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    truncate: bool | None = None
    input_type: InputType | None = None


_NULL = msgspec.Raw(b"null")


class _Fields(msgspec.Struct):
    """A body whose fields are still JSON."""

    input: msgspec.Raw = _NULL
    content: msgspec.Raw = _NULL
    model: msgspec.Raw = _NULL
    encoding_format: msgspec.Raw = _NULL
    dimensions: msgspec.Raw = _NULL
    truncate: msgspec.Raw = _NULL
    input_type: msgspec.Raw = _NULL


_FIELDS = msgspec.json.Decoder(_Fields)
_LARGE_MEMBER = re.compile(rb'\s*"([^"\\]{1,64})"\s*:\s*')


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """A checked body. Exactly one of `inputs` and `input_json` is set."""

    inputs: list[EmbeddingInput] | None
    input_json: bytes | None
    """A large input: the JSON of an array of texts and token arrays."""
    input_count: int
    model: str
    """As the client sent it; empty when it sent none."""
    as_base64: bool
    is_native: bool
    """Whether the field was `content`, as in llama-server's own shape."""
    dimensions: int | None
    truncate: bool
    is_query: bool

    @classmethod
    def read(cls, data: bytes) -> EmbeddingRequest:
        """A body checked; BadRequest or TooLarge, which name the field, and the item of the input."""
        fields = _read_fields(data)
        name = "input" if _is_present(fields.input) else "content"
        raw = memoryview(getattr(fields, name))
        if not _is_present(raw):
            raise BadRequest('"input" or "content" must be provided')
        inputs: list[EmbeddingInput] | None = None
        input_json: bytes | None = None
        if len(raw) <= MAX_INLINE_INPUT_BYTES:
            inputs = read_inputs(raw, name)
            count = len(inputs)
        else:
            count = sum(len(items) for items in iter_inputs(raw, name))
            is_array = bytes(raw[:1]) == b"[" and not is_token_array(raw)
            input_json = bytes(raw) if is_array else b"".join((b"[", raw, b"]"))
        return cls(
            inputs,
            input_json,
            count,
            _model(fields.model),
            _value(fields.encoding_format, EncodingFormat, "encoding_format", '"float" or "base64"') == "base64",
            name == "content",
            _dimensions(fields.dimensions),
            bool(_value(fields.truncate, bool, "truncate", "true or false")),
            _value(fields.input_type, InputType, "input_type", f"one of {', '.join(_INPUT_TYPES)}") in _QUERY_TYPES,
        )

    def payload(self, blob: str | None) -> EmbeddingPayload:
        """The job's payload; `blob` names the spool file that holds `input_json`, None where there is none."""
        return EmbeddingPayload(
            inputs=self.inputs, blob=blob, truncate=self.truncate, dimensions=self.dimensions, query=self.is_query
        )


def _read_fields(data: bytes) -> _Fields:
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        if len(data) <= SLICE_BYTES:
            data.decode()  # fields that stay JSON are not looked into
            return _FIELDS.decode(data)
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, len(data), SLICE_BYTES):
            decoder.decode(data[start : start + SLICE_BYTES])
        decoder.decode(b"", True)
        if data[:64].lstrip()[:1] != b"{":
            raise BadRequest("The request body must be a JSON object.")
        fields = _Fields()
        for part in element_slices(data):
            _add_members(fields, part)
        return fields
    except msgspec.ValidationError:
        raise BadRequest("The request body must be a JSON object.") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise not_json(data[:SLICE_BYTES], error) from None


def _add_members(fields: _Fields, part: memoryview) -> None:
    """Take over the fields in a part of a large body: several members, or one that is large."""
    if len(part) <= SLICE_BYTES:
        members = _FIELDS.decode(b"".join((b"{", part, b"}")))
        for name in _Fields.__struct_fields__:
            if (value := getattr(members, name)) is not _NULL:
                setattr(fields, name, value)
        return
    member = _LARGE_MEMBER.match(part)
    if member is None:
        raise ValueError("a member has no name")
    if (name := member[1].decode("utf-8", "replace")) in ("input", "content"):
        setattr(fields, name, msgspec.Raw(part[member.end() :]))
    elif name in _Fields.__struct_fields__:
        raise BadRequest(f'"{name}" is too long.', param=name)


def _is_present(raw: msgspec.Raw | memoryview) -> bool:
    return bytes(memoryview(raw)[:5]).strip() != b"null"


@functools.cache
def _decoder(type: Any) -> msgspec.json.Decoder[Any]:
    """What reads a value of a type, or null: made once, as that takes longer than reading."""
    return msgspec.json.Decoder(type | None)


def _value(raw: msgspec.Raw, type: Any, name: str, sentence: str) -> Any:
    """The value of a field; None where it is absent."""
    if raw is _NULL:
        return None
    try:
        return _decoder(type).decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest(f'"{name}" must be {sentence}.', param=name) from None


def _model(raw: msgspec.Raw) -> str:
    """Any name is taken; what is no text is none."""
    return str(_value(raw, str, "model", "a text")) if bytes(memoryview(raw)[:1]) == b'"' else ""


def _dimensions(raw: msgspec.Raw) -> int | None:
    sentence = "a whole number of at least 1"
    value = _value(raw, int | float, "dimensions", sentence)
    if value is not None and (value != int(value) or value < 1):
        raise BadRequest(f'"dimensions" must be {sentence}.', param="dimensions")
    return None if value is None else min(int(value), MAX_DIMENSIONS)
