"""POST /v1/chat/completions: OpenAI's chat, as llama-server serves it."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from batch.api.chat_completions.request import ChatBody, read_chat
from batch.api.chat_completions.response import ChatChunks, ChatCompletion, to_openai
from batch.api.chat_completions.stored_chat import store_completion
from batch.api.generation.conversation import ChatRequest
from batch.api.generation.jobs import chat_payload, chat_queue, count_tokens, hub_of, submit_chat
from batch.api.generation.metadata import read_metadata
from batch.api.generation.tools.custom import custom_names
from batch.api.json_body import documented, json_body, json_response, with_body
from batch.payloads.questions import ApplyTemplate

router = APIRouter()

ReadChat = Annotated[tuple[ChatBody, ChatRequest], Depends(json_body(read_chat))]


@router.post("/v1/chat/completions", openapi_extra=documented(ChatBody))
@router.post("/chat/completions", include_in_schema=False)
async def chat(request: Request, read: ReadChat) -> Response:
    """Answer a conversation of text and images."""
    body, chat_request = read
    metadata = read_metadata(body.metadata)
    jobs = await submit_chat(request, chat_request)
    custom = custom_names(chat_request.offer.tools)
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        serializer = ChatChunks(
            jobs.model,
            jobs.created,
            usage=usage,
            progress=bool(body.return_progress),
            custom_names=custom,
            keep=bool(body.store),
        )

        async def record() -> None:
            if serializer.completion is not None:
                await _store(request, serializer.completion, metadata)

        return jobs.stream(serializer, body.ping_interval_s, record=record if body.store else None)
    results = await jobs.results(request)
    completion = to_openai(results[0], jobs.model, jobs.created, custom)
    if body.store:
        await _store(request, completion, metadata)
    return json_response(completion, jobs.result_headers(results))


# PortApp calls it plainly: FastAPI would only hand it what `read_chat` makes of the body.
router.add_route("/v1/chat/completions", with_body(read_chat, chat), methods=["POST"], include_in_schema=False)


async def _store(request: Request, completion: ChatCompletion, metadata: dict[str, str] | None) -> None:
    """Keep a completion before its client learns its id."""
    data, lifetime_s = await request.body(), request.app.state.settings.retention.responses_s
    await asyncio.to_thread(store_completion, hub_of(request), data, completion, metadata, lifetime_s)


@router.post("/v1/chat/completions/input_tokens", openapi_extra=documented(ChatBody))
@router.post("/chat/completions/input_tokens", include_in_schema=False)
async def input_tokens(request: Request, read: ReadChat) -> Response:
    """How many tokens the model would read of a chat."""
    payload, _ = await chat_payload(request, read[1])
    tokens = await count_tokens(hub_of(request), payload, read[1].model)
    return json_response({"input_tokens": tokens, "object": "response.input_tokens"})


@router.post("/apply-template", openapi_extra=documented(ChatBody))
async def apply_template(request: Request, read: ReadChat) -> Response:
    """The prompt that a conversation becomes."""
    payload, _ = await chat_payload(request, read[1])
    applied = await hub_of(request).ask(chat_queue(hub_of(request), read[1].model), ApplyTemplate(payload=payload))
    return json_response(applied)
