"""POST /v1/messages: Anthropic's form of a chat, and its token count."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from batch.api.errors import to_anthropic_error
from batch.api.generation.conversation import ChatRequest
from batch.api.generation.jobs import chat_payload, count_tokens, hub_of, submit_chat
from batch.api.json_body import documented, json_body, json_response, with_body
from batch.api.messages.events import MessageEvents
from batch.api.messages.request import MessagesBody, read_messages_request
from batch.api.messages.response import to_message

router = APIRouter()

ReadMessages = Annotated[tuple[MessagesBody, ChatRequest], Depends(json_body(read_messages_request))]


@router.post("/v1/messages", openapi_extra=documented(MessagesBody))
async def messages(request: Request, read: ReadMessages) -> Response:
    """Answer a conversation of text and images."""
    body, chat = read
    jobs = await submit_chat(request, chat)
    if body.stream:
        return jobs.stream(MessageEvents(jobs.model), body.ping_interval_s, to_anthropic_error)
    results = await jobs.results(request)
    return json_response(to_message(results[0], jobs.model), jobs.result_headers(results))


router.add_route("/v1/messages", with_body(read_messages_request, messages), methods=["POST"], include_in_schema=False)


@router.post("/v1/messages/count_tokens", openapi_extra=documented(MessagesBody))
async def count(request: Request, read: ReadMessages) -> Response:
    """How many tokens the model would read."""
    payload, _ = await chat_payload(request, read[1])
    return json_response({"input_tokens": await count_tokens(hub_of(request), payload, read[1].model)})
