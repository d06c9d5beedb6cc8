"""What clients send about batches, checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from batch.api.files.request import Lifetime
from batch.api.json_body import Body, field_error, quoted
from batch.errors import BadRequest
from batch.payloads.json_text import encode

MAX_MESSAGE_REQUESTS = 100_000
MAX_WINDOW_DAYS = 3650

_WINDOW = re.compile(r"([1-9][0-9]{0,4})(h|d)")
_MESSAGE_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class OutputExpiresAfter(Body, frozen=True, kw_only=True):
    """When the result files go, counted from their own creation."""

    anchor: Literal["created_at"]
    seconds: Lifetime


class BatchBody(Body, frozen=True, kw_only=True):
    """The body of POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, Any] | None = None
    output_expires_after: OutputExpiresAfter | None = None


def read_window(text: str) -> int:
    """Seconds of a completion window such as "24h" or "7d". Raises BadRequest."""
    match = _WINDOW.fullmatch(text)
    seconds = 0 if match is None else int(match[1]) * (3600 if match[2] == "h" else 86_400)
    if not 0 < seconds <= MAX_WINDOW_DAYS * 86_400:
        raise BadRequest(
            f"'completion_window' should be hours or days such as 24h or 7d, not {quoted(text)}", param="completion_window"
        )
    return seconds


class MessageRequest(Body, frozen=True, kw_only=True):
    """One request of an Anthropic batch; its params stay JSON, as they are checked when they run."""

    custom_id: str
    params: msgspec.Raw


class MessageBatchBody(Body, frozen=True, kw_only=True):
    """The body of POST /v1/messages/batches."""

    requests: list[MessageRequest]


def read_message_batch(data: bytes) -> list[MessageRequest]:
    """The requests of an Anthropic batch. Raises BadRequest naming the field."""
    try:
        body = msgspec.json.decode(data, type=MessageBatchBody)
    except msgspec.ValidationError as error:
        raise field_error(error) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The request body is not JSON: {error}.") from None
    if not body.requests:
        raise BadRequest("requests: should hold at least one request", param="requests")
    if len(body.requests) > MAX_MESSAGE_REQUESTS:
        raise BadRequest(f"requests: {len(body.requests)} requests; {MAX_MESSAGE_REQUESTS} are taken at most", param="requests")
    custom_ids: set[str] = set()
    for at, request in enumerate(body.requests):
        if not _MESSAGE_ID.fullmatch(request.custom_id):
            raise BadRequest(
                f"requests.{at}.custom_id: should be 1 to 64 letters, digits, - and _", param=f"requests.{at}.custom_id"
            )
        if bytes(memoryview(request.params)[:1]) != b"{":
            raise BadRequest(f"requests.{at}.params: should be an object", param=f"requests.{at}.params")
        try:  # what a line of its batch could not hold would end that batch, without a word to this client
            bytes(request.params).decode("utf-8")
            msgspec.json.decode(request.params)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRequest(f"requests.{at}.params: should be JSON: {error}", param=f"requests.{at}.params") from None
        if request.custom_id in custom_ids:
            raise BadRequest(
                f"requests.{at}.custom_id: {quoted(request.custom_id)} stands twice", param=f"requests.{at}.custom_id"
            )
        custom_ids.add(request.custom_id)
    return body.requests


def message_lines(requests: list[MessageRequest], endpoint: str) -> Iterator[bytes]:
    """The requests as lines of a batch's input."""
    for request in requests:
        head = encode({"custom_id": request.custom_id, "method": "POST", "url": endpoint})
        yield head[:-1] + b',"body":' + b" ".join(bytes(request.params).split(b"\n")).replace(b"\r", b" ") + b"}\n"
