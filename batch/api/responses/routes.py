"""POST /v1/responses: OpenAI's newer form of a chat, stored unless its client says otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response, StreamingResponse

from batch.api.generation.conversation import ChatRequest
from batch.api.generation.jobs import (
    chat_payload,
    chat_queue,
    count_tokens,
    hub_of,
    submit_payload,
)
from batch.api.jobs.answer_ids import creation_time
from batch.api.jobs.server_sent_events import STREAM_HEADERS
from batch.api.json_body import documented, json_body, json_response
from batch.api.openapi_schemas import NOTHING
from batch.api.responses.background import BackgroundResponses
from batch.api.responses.context import ResponseContext, resolve_context
from batch.api.responses.events import ResponseEvents
from batch.api.responses.request import ResponsesBody, read_responses_body
from batch.api.responses.response import failed_response, started_response, to_response
from batch.api.responses.stored_run import StoredRun
from batch.api.responses.truncation import drop_oldest
from batch.errors import BadRequest, BatchError, Cancelled
from batch.payloads.chat import ChatPayload
from batch.settings import RetentionSettings

router = APIRouter()

ReadBody = Annotated[ResponsesBody, Depends(json_body(read_responses_body))]


@router.post("/v1/responses", openapi_extra=documented(ResponsesBody))
@router.post("/responses", include_in_schema=False)
async def responses(request: Request, body: ReadBody) -> Response:
    """Answer a conversation of text and images."""
    hub = hub_of(request)
    lifetime_s = response_lifetime(request.app.state.settings.retention)
    context = await hub.in_thread(lambda: resolve_context(hub, body, lifetime_s))
    chat = body.chat_request(context.items)
    payload, blobs = await _payload(request, body, chat)
    if body.background:
        return await _background(request, body, payload, blobs, context, lifetime_s)
    jobs = await submit_payload(request, chat, payload, blobs)
    started = started_response(body, jobs.model, jobs.created)
    run = StoredRun(hub, body, started, context.items) if body.store is not False else None
    if run is not None:
        try:
            await run.create(jobs.tickets[0].id, lifetime_s)
        except BatchError:
            await jobs.tickets[0].cancel()
            raise
    if body.stream:
        serializer = ResponseEvents(body, started, jobs.notes)
        return jobs.stream(serializer, body.ping_interval_s, record=_recorder(run, serializer))
    try:
        results = await jobs.results(request)
    except BatchError as error:
        if run is not None:
            await run.end(failed_response(started, error, []))
        raise
    response = to_response(body, results[0], started)
    if run is not None:
        await run.end(response)
    return json_response(response, jobs.result_headers(results))


async def _payload(request: Request, body: ResponsesBody, chat: ChatRequest) -> tuple[ChatPayload, tuple[str, ...]]:
    payload, blobs = await chat_payload(request, chat)
    if body.truncation == "auto":
        payload, dropped = await drop_oldest(hub_of(request), payload, chat_queue(hub_of(request), chat.model))
        if dropped:
            chat.notes.append(f"the {dropped} oldest items of the input were dropped, as the context is full")
    return payload, blobs


def _recorder(run: StoredRun | None, serializer: ResponseEvents) -> Callable[[], Awaitable[None]] | None:
    """What writes a stream's end before its last event is sent; one that its client left is cancelled."""
    if run is None:
        return None

    async def record() -> None:
        if serializer.response.status in ("queued", "in_progress"):
            serializer.error(Cancelled())
        await run.end(serializer.response)

    return record


async def _background(
    request: Request,
    body: ResponsesBody,
    payload: ChatPayload,
    blobs: tuple[str, ...],
    context: ResponseContext,
    lifetime_s: int | None,
) -> Response:
    background: BackgroundResponses = request.app.state.background
    payload = msgspec.structs.replace(payload, stream=True)
    response = await background.submit(body, payload, blobs, context.items, creation_time(), lifetime_s)
    if not body.stream:
        return json_response(response)
    return stream_events(background, response.id, -1)


def stream_events(background: BackgroundResponses, response_id: str, above: int) -> Response:
    """A background response's events with numbers above one, as they come."""

    async def pieces() -> AsyncIterator[bytes]:
        async for events in background.follow(response_id, above):
            yield b"".join(piece for _, piece in events)

    return StreamingResponse(pieces(), media_type="text/event-stream", headers=STREAM_HEADERS)


def response_lifetime(retention: RetentionSettings) -> int | None:
    """Seconds that a stored response is kept after its last use; None: for ever."""
    return retention.responses_s


@router.post("/v1/responses/input_tokens", openapi_extra=documented(ResponsesBody))
@router.post("/responses/input_tokens", include_in_schema=False)
async def input_tokens(request: Request, body: ReadBody) -> Response:
    """How many tokens the model would read of a Responses input."""
    hub = hub_of(request)
    context = await hub.in_thread(lambda: resolve_context(hub, body, None))
    payload, _ = await chat_payload(request, body.chat_request(context.items))
    tokens = await count_tokens(hub, payload, body.model_name)
    return json_response({"input_tokens": tokens, "object": "response.input_tokens"})


@router.post("/v1/responses/compact", openapi_extra=NOTHING)
async def compact() -> Response:
    """Refused: a provider's own way to shorten a conversation."""
    raise BadRequest("Compaction is not supported here: set truncation to auto, or send fewer items.")
