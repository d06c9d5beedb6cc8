"""Errors as HTTP responses, in the shape that the clients of each path read."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from batch.errors import (
    BadRequest,
    BatchError,
    Cancelled,
    Conflict,
    ContextExceeded,
    DiskFull,
    NotFound,
    QueueFull,
    Unavailable,
)

ErrorBody = dict[str, Any]
"""An error as JSON, in some API's shape."""

LOADING_RETRY_S = 5
"""Retry-After of a 503: a model that loads, or a service that stops, takes about as long."""

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def to_openai_error(error: BatchError) -> ErrorBody:
    """An error's body as OpenAI's and llama-server's clients read it."""
    return {"error": error.body()}


def to_anthropic_error(error: BatchError) -> ErrorBody:
    """An error's body as Anthropic's clients read it."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    message = error.message
    if isinstance(error, ContextExceeded) and {"n_prompt_tokens", "n_ctx"} <= error.details.keys():
        # The words by which its clients know that they have to shorten a conversation.
        message = f"prompt is too long: {error.details['n_prompt_tokens']} tokens > {error.details['n_ctx']} maximum"
    return {"type": "error", "error": {"type": kind, "message": message}}


def to_whisper_server_error(error: BatchError) -> ErrorBody:
    """An error's body as whisper-server's clients read it."""
    return {"error": error.message}


def retry_headers(error: BatchError) -> dict[str, str]:
    """When an error passes by itself, and where OpenAI's clients should not try again."""
    if isinstance(error, QueueFull):
        return {"Retry-After": str(error.details.get("retry_after", 1))}
    if isinstance(error, Unavailable):
        return {"Retry-After": str(LOADING_RETRY_S)}
    if isinstance(error, (Conflict, DiskFull)):
        return {"x-should-retry": "false"}
    return {}


def error_response(error: BatchError, path: str = "") -> Response:
    """A BatchError as the clients of `path` read it."""
    body = to_openai_error(error)
    if path.startswith("/v1/messages"):
        body = to_anthropic_error(error)
    elif path in ("/inference", "/load"):
        body = to_whisper_server_error(error)
    return JSONResponse(body, error.status, retry_headers(error))


async def handle_batch_error(request: Request, error: Exception) -> Response:
    """FastAPI's handler for BatchError."""
    assert isinstance(error, BatchError)
    return error_response(error, request.url.path)


async def handle_invalid_parameter(request: Request, error: Exception) -> Response:
    """FastAPI's handler for parameters of a path or query that it could not read."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return error_response(BadRequest(f'"{field}" is not valid: {first["msg"]}.'), request.url.path)


async def handle_http_error(request: Request, error: Exception) -> Response:
    """FastAPI's handler for unknown routes and methods: llama-server's 404 for both."""
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        return error_response(NotFound("File Not Found"), request.url.path)
    return error_response(BadRequest(str(error.detail)), request.url.path)


async def handle_disconnect(request: Request, error: Exception) -> Response:
    """FastAPI's handler for a client that hung up in the middle of its body: nobody reads this."""
    return Response(status_code=Cancelled.status)


async def handle_bug(request: Request, error: Exception) -> Response:
    """FastAPI's handler for every other exception, which the server has logged."""
    return error_response(BatchError("The service made a mistake with this request; its log says more."), request.url.path)
