"""The bytes of server-sent events."""

from __future__ import annotations

from typing import Any

from batch.payloads.json_text import encode

DONE = b"data: [DONE]\n\n"
"""How OpenAI ends a stream of chat or completion chunks."""
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""By which a proxy passes each event on at once."""
KEEP_ALIVE = b":\n\n"
"""An empty comment."""


def sse_event(value: Any) -> bytes:
    """One event without a name, as OpenAI streams chunks; `value` is a struct or made of JSON's types."""
    return b"data: " + encode(value) + b"\n\n"


def named_sse_event(name: str, value: Any) -> bytes:
    """One event with a name, as Anthropic and OpenAI's Responses stream them."""
    return b"event: " + name.encode() + b"\n" + sse_event(value)


def sse_comment(text: str) -> bytes:
    """A comment, which clients pass over: for people, and to show that the stream is alive."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"
