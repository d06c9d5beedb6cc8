"""POST /v1/responses: OpenAI's newer form of a chat; nothing is stored."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from batch.api.generation.conversation import ChatRequest
from batch.api.generation.jobs import (
    GenerationJobs,
    chat_payload,
    count_tokens,
    hub_of,
    submit_payload,
)
from batch.api.json_body import documented, json_body, json_response
from batch.api.openapi_schemas import NOTHING
from batch.api.responses.events import ResponseEvents
from batch.api.responses.request import ResponsesBody, read_response_request
from batch.api.responses.response import to_response
from batch.api.responses.truncation import drop_oldest
from batch.errors import BadRequest

router = APIRouter()

ReadResponse = Annotated[tuple[ResponsesBody, ChatRequest], Depends(json_body(read_response_request))]


@router.post("/v1/responses", openapi_extra=documented(ResponsesBody))
@router.post("/responses", include_in_schema=False)
async def responses(request: Request, read: ReadResponse) -> Response:
    """Answer a conversation of text and images."""
    body, chat = read
    jobs = await _submit(request, body, chat)
    if body.stream:
        serializer = ResponseEvents(body, jobs.model, jobs.created, jobs.notes)
        return jobs.stream(serializer, body.ping_interval_s)
    results = await jobs.results(request)
    return json_response(to_response(body, results[0], jobs.model, jobs.created), jobs.result_headers(results))


async def _submit(request: Request, body: ResponsesBody, chat: ChatRequest) -> GenerationJobs:
    payload, blobs = await chat_payload(request, chat)
    if body.truncation == "auto":
        payload, dropped = await drop_oldest(hub_of(request), payload)
        if dropped:
            chat.notes.append(f"the {dropped} oldest items of the input were dropped, as the context is full")
    return await submit_payload(request, chat, payload, blobs)


@router.post("/v1/responses/input_tokens", openapi_extra=documented(ResponsesBody))
@router.post("/responses/input_tokens", include_in_schema=False)
async def input_tokens(request: Request, read: ReadResponse) -> Response:
    """How many tokens the model would read of a Responses input."""
    payload, _ = await chat_payload(request, read[1])
    tokens = await count_tokens(hub_of(request), payload)
    return json_response({"input_tokens": tokens, "object": "response.input_tokens"})


@router.post("/v1/responses/compact", openapi_extra=NOTHING)
async def compact() -> Response:
    """Refused: a provider's own way to shorten a conversation."""
    raise BadRequest("Compaction is not supported here: set truncation to auto, or send fewer items.")
