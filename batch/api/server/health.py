"""GET /health: whether this port's model is loaded."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from batch.api.errors import to_openai_error
from batch.api.generation.jobs import hub_of
from batch.api.json_body import json_response
from batch.errors import Unavailable

router = APIRouter()


@router.get("/health")
@router.get("/v1/health")
async def health(request: Request) -> Response:
    """`{"status":"ok"}`, or llama-server's 503 while the model is not loaded."""
    state = hub_of(request).recorded_model(request.app.state.kind)
    if state.status in ("ready", "unloaded"):  # its next request loads it
        return json_response({"status": "ok"})
    error = Unavailable(state.error if state.status == "failed" else "Loading model")
    body = to_openai_error(error)
    if state.status == "loading":
        body["error"]["progress"] = round(state.progress, 3)
    return json_response(body, status=error.status)
