"""Arguments of calls in a history, for templates that take objects: whole, cut by max_tokens, or no JSON at all."""

from __future__ import annotations

import json
from typing import Any

MAX_CUTS = 8
"""How often a cut text is shortened by its last field until it can be read."""
MAX_REPAIRED_CHARS = 1 << 16
"""Of a longer text that is cut, this much is read."""
WHOLE_TEXT_FIELD = "arguments"
"""The field that holds a text which is no JSON object."""


def read_arguments(text: str) -> dict[str, Any]:
    """The arguments as an object. Of a cut one all that was written; what is no object stands under WHOLE_TEXT_FIELD."""
    if not text.strip():
        return {}
    value, part = _read(text), text[:MAX_REPAIRED_CHARS]
    for _ in range(MAX_CUTS):
        if value is not None:
            break
        closed, last_comma = _close(part)
        value = _read(closed)
        part = part[:last_comma]
    return value if isinstance(value, dict) else {WHOLE_TEXT_FIELD: text if value is None else value}


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _close(text: str) -> tuple[str, int]:
    """The text with what it left open closed, and where its last comma outside of strings is (or its end)."""
    closers: list[str] = []
    in_string = escaped = False
    last_comma = len(text)
    for at, char in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "{[":
            closers.append("}" if char == "{" else "]")
        elif char in "}]" and closers:
            closers.pop()
        elif char == ",":
            last_comma = at
    if escaped:
        text = text[:-1]
    return text + '"' * in_string + "".join(reversed(closers)), last_comma
