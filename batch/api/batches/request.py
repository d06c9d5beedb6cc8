"""What clients send about batches, checked."""

from __future__ import annotations

import re
from typing import Any, Literal

from fastapi import Request

from batch.api.files.request import Lifetime
from batch.api.http.content_digest import digest
from batch.api.jobs.submit import read_key
from batch.api.json_body import Body, quoted
from batch.batches.rows import RequestKey
from batch.errors import BadRequest

MAX_WINDOW_DAYS = 3650

_WINDOW = re.compile(r"([1-9][0-9]{0,4})(h|d)")


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


def request_key(request: Request, content: str) -> RequestKey | None:
    """The key under which a batch is created; None where its client sent none. Raises BadRequest for one that is not valid.

    `content`: a digest of the request's body.
    """
    name = read_key(request)
    return None if name is None else RequestKey(name=name, fingerprint=digest(request.url.path.encode(), content.encode()))
