"""Lines of result files, in OpenAI's form: a request's response, or why it has none."""

from __future__ import annotations

import msgspec

from batch.batches.line_endpoint import JsonObject
from batch.batches.rows import BatchLine
from batch.payloads.json_text import encode


class LineFailed(Exception):
    """A line whose result belongs in the error file."""

    def __init__(self, text: bytes, *, is_lost: bool = False) -> None:
        """`text`: the line of the error file. `is_lost`: it was not answered because its batch is over."""
        super().__init__()
        self.text = text
        self.is_lost = is_lost


def response_line(line: BatchLine, status: int, body: JsonObject | msgspec.Raw) -> bytes:
    """A line that was answered over the API, by a result or by an error."""
    response = {"status_code": status, "request_id": line.request_id, "body": body}
    return encode({"id": line.request_id, "custom_id": line.custom_id, "response": response, "error": None}) + b"\n"


def lost_line(line: BatchLine, code: str, message: str) -> bytes:
    """A line that was not answered at all."""
    error = {"code": code, "message": message}
    return encode({"id": line.request_id, "custom_id": line.custom_id, "response": None, "error": error}) + b"\n"
