"""POST /v1/messages: Anthropic's form of a chat, and its token count."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from batch.api.errors import to_anthropic_error
from batch.api.generation.images import keep_images
from batch.api.generation.jobs import ask_chat, count_tokens, hub_of, note_header
from batch.api.jobs.event_stream import EventStream
from batch.api.json_body import documented, json_body
from batch.api.messages.request import MessagesBody
from batch.api.messages.response import MessageEvents, message

router = APIRouter()


@router.post("/v1/messages", openapi_extra=documented(MessagesBody))
async def messages(request: Request, body: Annotated[MessagesBody, Depends(json_body(MessagesBody))]) -> Response:
    """Answer a conversation of text and images."""
    asked = await ask_chat(request, body.chat())
    if body.stream:
        wire = MessageEvents(asked.model)
        return EventStream(
            asked.hub,
            asked.tickets,
            wire,
            check=asked.check,
            ping=body.ping,
            headers=asked.headers,
            error_body=to_anthropic_error,
        )
    results = await asked.results(request)
    return JSONResponse(message(results[0], asked.model), headers=asked.headers | note_header(results))


@router.post("/v1/messages/count_tokens", openapi_extra=documented(MessagesBody))
async def count(request: Request, body: Annotated[MessagesBody, Depends(json_body(MessagesBody))]) -> Response:
    """How many tokens the model would read."""
    hub = hub_of(request)
    job = body.chat().job_request()
    await keep_images(job["messages"], hub, request.app.state.settings.limits)
    tokens, _ = await count_tokens(hub, job)
    return JSONResponse({"input_tokens": tokens})
