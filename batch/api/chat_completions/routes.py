"""POST /v1/chat/completions: OpenAI's chat, as llama-server serves it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from batch.api.chat_completions.request import ChatBody
from batch.api.chat_completions.response import ChatChunks, completion
from batch.api.generation.jobs import ask_chat, note_header
from batch.api.jobs.event_stream import EventStream
from batch.api.json_body import documented, json_body

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=documented(ChatBody))
@router.post("/chat/completions", include_in_schema=False)
async def chat(request: Request, body: Annotated[ChatBody, Depends(json_body(ChatBody))]) -> Response:
    """Answer a conversation of text and images."""
    asked = await ask_chat(request, body)
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        wire = ChatChunks(asked.model, asked.created, usage=usage, progress=bool(body.return_progress))
        return EventStream(asked.hub, asked.tickets, wire, check=asked.check, ping=body.ping, headers=asked.headers)
    results = await asked.results(request)
    answer = completion(results[0], asked.model, asked.created)
    return JSONResponse(answer, headers=asked.headers | note_header(results))
