"""From a checked request to its jobs on the vlm queue and their results: what every generating route shares."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.responses import Response

from batch import __version__
from batch.api.errors import ErrorBody, to_openai_error
from batch.api.generation.conversation import ChatRequest, ImageSource
from batch.api.generation.images import keep_pictures
from batch.api.jobs.answer_ids import creation_time
from batch.api.jobs.disconnect import result_for_client
from batch.api.jobs.event_stream import EventSerializer, EventStreamResponse
from batch.api.jobs.submit import SMALL_BODY_BYTES, submit
from batch.errors import BatchError, ContextExceeded, TooLarge, Unavailable
from batch.model_kind import model_of
from batch.payloads.chat import ChatPayload, ChatResult, CompletionPayload
from batch.payloads.model_info import ChatModelInfo
from batch.payloads.questions import CountTokens
from batch.queue.hub.hub import Hub
from batch.queue.hub.ticket import Ticket
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.settings import LimitSettings

logger = logging.getLogger("batch.api")

FINGERPRINT = f"b{__version__}-batch"
CHECK_TIMEOUT_S = 10.0
"""How long a client waits to hear in advance that its request cannot run; after it the job itself will tell."""

Check = Callable[[], Awaitable[None]]
"""Raises what a job would end with, when that can be known before its turn."""


@dataclass(frozen=True)
class GenerationJobs:
    """The jobs that one request became."""

    hub: Hub
    tickets: Sequence[Ticket]
    model: str
    """The model as the client names it, or the loaded one's name."""
    check: Check | None = None
    notes: Sequence[str] = ()
    """What a person should know of the request."""
    created: int = field(default_factory=creation_time)
    """Unix seconds."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every answer: the jobs' ids, and the request's notes."""
        return {"x-batch-job": ",".join(ticket.id for ticket in self.tickets), **note_header(self.notes)}

    async def results(self, request: Request) -> list[ChatResult]:
        """Wait for every job; raises the first error, and cancels what is left when the client hangs up."""
        results: list[ChatResult] = []
        try:
            for ticket in self.tickets:
                results.append(await result_for_client(request, ticket, ChatResult))
        finally:
            for ticket in self.tickets[len(results) + 1 :]:
                await ticket.cancel()
        return results

    def stream(
        self,
        serializer: EventSerializer[ChatResult],
        ping_interval_s: float,
        error_body: Callable[[BatchError], ErrorBody] = to_openai_error,
        record: Callable[[], Awaitable[None]] | None = None,
    ) -> Response:
        """The jobs as a stream of server-sent events; `record` is awaited before the last one is sent."""
        return EventStreamResponse(
            self.hub,
            self.tickets,
            ChatResult,
            serializer,
            check=self.check,
            ping_interval_s=ping_interval_s,
            headers=self.headers,
            error_body=error_body,
            record=record,
        )

    def result_headers(self, results: Sequence[ChatResult]) -> dict[str, str]:
        """Headers of an answer that waited for its results: also what those want a person to know."""
        return {**self.headers, **note_header([*self.notes, *(result.note for result in results if result.note)])}


def hub_of(request: Request) -> Hub:
    """The hub that a request's app submits to."""
    hub: Hub = request.app.state.hub
    return hub


def model_name(hub: Hub, requested: str | None) -> str:
    """The model's name in an answer: the one that was asked for, or the loaded one's."""
    return requested or hub.model(Kind.VLM).name or Kind.VLM.value


def chat_queue(hub: Hub, requested: str | None) -> str:
    """The queue of the chat model that a request names."""
    return hub.queue_named(Kind.VLM, requested)


def chat_info(hub: Hub, queue: str = Kind.VLM) -> ChatModelInfo | None:
    """What is known of a queue's chat model; None until it is loaded."""
    info = hub.model(queue).info
    return info if isinstance(info, ChatModelInfo) else None


def interactive_draft(payload: ChatPayload | CompletionPayload, queue: str, blobs: tuple[str, ...] = ()) -> Draft:
    """A job for a queue's model whose client waits on its socket."""
    return Draft(payload, Origin.HTTP, Priority.INTERACTIVE, blobs=blobs, waited=True, model=model_of(queue))


async def chat_payload(request: Request, chat: ChatRequest) -> tuple[ChatPayload, tuple[str, ...]]:
    """A chat's payload with its pictures in the spool, and their sha256 names. Raises BadRequest and TooLarge."""
    await check_text_bytes(request, chat.encoded_bytes)
    return await chat_job(hub_of(request), request.app.state.settings.limits, chat)


async def chat_job(
    hub: Hub, limits: LimitSettings, chat: ChatRequest, batch: int | None = None
) -> tuple[ChatPayload, tuple[str, ...]]:
    """A chat's payload with its pictures in the spool, and their sha256 names. Raises BadRequest and TooLarge.

    `batch`: the sequence of the batch whose line it is.
    """
    messages, blobs = await keep_pictures(chat, hub, limits, batch)
    thinking = chat.thinking
    payload = ChatPayload(
        messages=messages,
        generation=chat.generation,
        tools=chat.offer.tools,
        tool_choice=chat.offer.choice,
        parallel_tool_calls=chat.offer.parallel,
        enable_thinking=thinking.enabled,
        reasoning_format=thinking.reasoning_format,
        reasoning_budget=thinking.budget_tokens,
        chat_template_kwargs=thinking.template_kwargs,
        n=chat.choices,
        stream=chat.stream,
    )
    return payload, blobs


async def check_text_bytes(request: Request, picture_bytes: int = 0) -> None:
    """Raise TooLarge for a body that holds more text than any context: it would stand in the job's row, and be tokenized."""
    check_text_size(len(await request.body()) - picture_bytes, request.app.state.settings.limits)


def check_text_size(size: int, limits: LimitSettings) -> None:
    """Raise TooLarge for so many bytes of text."""
    if size > (limit := limits.text_bytes):
        raise TooLarge(
            f"The request holds {size} bytes besides its pictures; this service takes {limit} (limits.text_bytes in "
            "batch.toml)."
        )


async def submit_chat(request: Request, chat: ChatRequest) -> GenerationJobs:
    """Put a chat's pictures into the spool and its job into the queue."""
    payload, blobs = await chat_payload(request, chat)
    # The text of a file or a document would stand in the payload, whatever the body's size.
    is_small = len(await request.body()) <= SMALL_BODY_BYTES and all(isinstance(one, ImageSource) for one in chat.sources)
    return await submit_payload(request, chat, payload, blobs, is_small=is_small)


async def submit_payload(
    request: Request, chat: ChatRequest, payload: ChatPayload, blobs: tuple[str, ...], *, is_small: bool = False
) -> GenerationJobs:
    """Put a chat's job into the queue; `blobs` names its pictures in the spool, `is_small`: the payload has no more
    than SMALL_BODY_BYTES."""
    hub = hub_of(request)
    queue = chat_queue(hub, chat.model)
    tickets = await submit(request, [interactive_draft(payload, queue, blobs)], is_small=is_small)
    return GenerationJobs(hub, tickets, model_name(hub, chat.model), fits_context(hub, payload, queue), chat.notes)


def fits_context(hub: Hub, payload: ChatPayload | CompletionPayload, queue: str) -> Check:
    """A check that counts a job's tokens and tries its settings, so that one which cannot run is refused before it has
    waited."""

    async def check() -> None:
        if hub.model(queue).status != "ready":
            return  # nobody can count yet: the job itself will
        try:
            count = await hub.ask(queue, CountTokens(payload=payload), CHECK_TIMEOUT_S)
        except Unavailable:
            logger.debug("nobody could count the tokens of a request; its job will")
            return
        if count.n_ctx and count.tokens >= count.n_ctx:
            raise ContextExceeded.for_prompt(count.tokens, count.n_ctx)

    return check


async def count_tokens(hub: Hub, payload: ChatPayload | CompletionPayload, requested: str | None) -> int:
    """Tokens of a job's prompt for the model that a request names; waits while it loads. Raises what the job would be
    refused for."""
    return (await hub.ask(chat_queue(hub, requested), CountTokens(payload=payload))).tokens


def note_header(notes: Sequence[str]) -> dict[str, str]:
    """The x-batch-note header: what a person should know of an answer."""
    unique = "; ".join(dict.fromkeys(notes))
    return {"x-batch-note": unique.encode("ascii", "replace").decode()[:1000]} if unique else {}


def note_comment(note: str | None) -> bytes:
    """What a person should know, as a comment in a stream, whose headers are gone already."""
    return b": note: " + " ".join(note.split()).encode() + b"\n\n" if note else b""
