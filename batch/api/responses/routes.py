"""POST /v1/responses: OpenAI's newer form of a chat; nothing is stored."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from batch.api.generation.jobs import ask_chat, note_header
from batch.api.jobs.event_stream import EventStream
from batch.api.json_body import documented, json_body
from batch.api.responses.request import ResponsesBody
from batch.api.responses.response import ResponseEvents, response

router = APIRouter()


@router.post("/v1/responses", openapi_extra=documented(ResponsesBody))
@router.post("/responses", include_in_schema=False)
async def responses(request: Request, body: Annotated[ResponsesBody, Depends(json_body(ResponsesBody))]) -> Response:
    """Answer a conversation of text and images."""
    asked = await ask_chat(request, body.chat())
    if body.stream:
        wire = ResponseEvents(body, asked.model, asked.created)
        return EventStream(asked.hub, asked.tickets, wire, check=asked.check, ping=body.ping, headers=asked.headers)
    results = await asked.results(request)
    answer = response(body, results[0], asked.model, asked.created)
    return JSONResponse(answer, headers=asked.headers | note_header(results))
