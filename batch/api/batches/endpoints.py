"""The endpoints that batches may be made of, each read and answered as its own route does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec

from batch.api.batches.audio import AudioEndpoint
from batch.api.chat_completions.request import read_chat
from batch.api.chat_completions.response import to_openai as to_chat_completion
from batch.api.completions.request import read_completion
from batch.api.completions.response import to_openai as to_text_completion
from batch.api.embeddings.request import EmbeddingRequest
from batch.api.embeddings.response import read_vectors
from batch.api.embeddings.response import to_openai as to_embeddings
from batch.api.errors import to_anthropic_error, to_openai_error
from batch.api.generation.conversation import ChatRequest
from batch.api.generation.jobs import CHECK_TIMEOUT_S, chat_job, chat_queue, check_text_size, model_name
from batch.api.generation.request import read_model_name
from batch.api.jobs.answer_ids import creation_time, follow_job
from batch.api.messages.request import read_messages_request
from batch.api.messages.response import to_message
from batch.api.responses.context import resolve_context
from batch.api.responses.request import read_responses_body
from batch.api.responses.response import started_response, to_response
from batch.api.responses.stored_run import store_response
from batch.api.responses.truncation import drop_oldest
from batch.batches.line_endpoint import SERVED_ENDPOINTS, JsonObject, LineEndpoint, LineJob, LineResponse
from batch.batches.rows import TokenCounts
from batch.errors import BadRequest, BatchError, Unavailable
from batch.payloads.chat import ChatResult, Usage
from batch.payloads.embedding import EmbeddingResult
from batch.payloads.job_payload import Result
from batch.payloads.json_text import encode
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.settings import LimitSettings

T = TypeVar("T")
ErrorBody = Callable[[BatchError], dict[str, Any]]


def _ran(hub: Hub, kind: Kind, answered: str) -> str:
    """The model that ran, whatever its client called it: the one that is loaded, or where that is not known the answer's."""
    return hub.model(hub.queue_named(kind, answered)).name or answered


def _chat_completion(result: ChatResult, model: str, created: int, body: JsonObject) -> msgspec.Struct:
    tools = [tool for tool in cast(list[JsonObject], body.get("tools") or []) if tool.get("type") == "custom"]
    return to_chat_completion(
        result, model, created, frozenset(str(cast(JsonObject, tool["custom"])["name"]) for tool in tools)
    )


class _ChatEndpoint:
    """A chat API: `read` checks a body, `answer` makes its response of a result, a model's name, a time and the body."""

    def __init__(
        self,
        hub: Hub,
        limits: LimitSettings,
        read: Callable[[bytes], tuple[Any, ChatRequest]],
        answer: Callable[[ChatResult, str, int, JsonObject], msgspec.Struct],
        error_body: ErrorBody = to_openai_error,
    ) -> None:
        self._hub, self._limits = hub, limits
        self._read, self._answer, self._error_body = read, answer, error_body

    def count_tasks(self, body: JsonObject) -> int:
        return 1

    async def create_job(self, body: JsonObject, batch: int | None = None) -> LineJob:
        refuse_streams(body)
        data = encode(body)
        _, chat = await asyncio.to_thread(self._read, data)
        check_text_size(len(data) - chat.encoded_bytes, self._limits)
        payload, blobs = await chat_job(self._hub, self._limits, chat, batch)
        return LineJob(payload=payload, blobs=blobs)

    def to_response(self, body: JsonObject, result: Result, job: str) -> LineResponse:
        follow_job(job)
        chat_result = cast(ChatResult, result)
        model = model_name(self._hub, read_model_name(body.get("model")))
        answer = self._answer(chat_result, model, creation_time(), body)
        return LineResponse(
            body=to_object(answer), usage=token_counts(chat_result.usage), model=_ran(self._hub, Kind.VLM, model)
        )

    def to_error(self, error: BatchError) -> JsonObject:
        return self._error_body(error)


class _ResponsesEndpoint:
    """/v1/responses; a line is stored only where it says so."""

    def __init__(self, hub: Hub, limits: LimitSettings, response_lifetime_s: int | None) -> None:
        self._hub, self._limits, self._lifetime_s = hub, limits, response_lifetime_s

    def count_tasks(self, body: JsonObject) -> int:
        return 1

    async def create_job(self, body: JsonObject, batch: int | None = None) -> LineJob:
        refuse_streams(body)
        data = encode(body)
        request = await asyncio.to_thread(read_responses_body, data)
        context = await self._hub.in_thread(lambda: resolve_context(self._hub, request, self._lifetime_s))
        chat = request.chat_request(context.items)
        check_text_size(len(data) - chat.encoded_bytes, self._limits)
        payload, blobs = await chat_job(self._hub, self._limits, chat, batch)
        queue = chat_queue(self._hub, request.model_name)
        if request.truncation == "auto" and self._hub.model(queue).status == "ready":  # nobody else could count tokens
            with contextlib.suppress(Unavailable, TimeoutError):
                payload, _ = await asyncio.wait_for(drop_oldest(self._hub, payload, queue), CHECK_TIMEOUT_S)
        return LineJob(payload=payload, blobs=blobs)

    def to_response(self, body: JsonObject, result: Result, job: str) -> LineResponse:
        follow_job(job)
        request, chat_result = read_responses_body(encode({"store": False, **body})), cast(ChatResult, result)
        model = model_name(self._hub, request.model_name)
        response = to_response(request, chat_result, started_response(request, model, creation_time()))
        if request.store:
            context = resolve_context(self._hub, request, self._lifetime_s)
            store_response(self._hub, request, response, context.items, job, self._lifetime_s)
        usage = token_counts(chat_result.usage)
        return LineResponse(body=to_object(response), usage=usage, model=_ran(self._hub, Kind.VLM, model))

    def to_error(self, error: BatchError) -> JsonObject:
        return to_openai_error(error)


class _CompletionEndpoint:
    """/v1/completions, one prompt a line."""

    def __init__(self, hub: Hub, limits: LimitSettings) -> None:
        self._hub, self._limits = hub, limits

    def count_tasks(self, body: JsonObject) -> int:
        return 1

    async def create_job(self, body: JsonObject, batch: int | None = None) -> LineJob:
        refuse_streams(body)
        data = encode(body)
        check_text_size(len(data), self._limits)
        _, payloads = await asyncio.to_thread(read_completion, data)
        if len(payloads) != 1:
            raise BadRequest(f"'prompt' holds {len(payloads)} prompts: a line takes one", param="prompt")
        return LineJob(payload=payloads[0])

    def to_response(self, body: JsonObject, result: Result, job: str) -> LineResponse:
        follow_job(job)
        completion = cast(ChatResult, result)
        model = model_name(self._hub, read_model_name(body.get("model")))
        answer = to_text_completion([completion], model, creation_time())
        return LineResponse(
            body=to_object(answer), usage=token_counts(completion.usage), model=_ran(self._hub, Kind.VLM, model)
        )

    def to_error(self, error: BatchError) -> JsonObject:
        return to_openai_error(error)


class _EmbeddingEndpoint:
    """/v1/embeddings; every input of a line counts as a task."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def count_tasks(self, body: JsonObject) -> int:
        value = body.get("input")
        is_texts = isinstance(value, list) and not any(isinstance(item, int) for item in value)
        return max(1, len(value)) if is_texts and isinstance(value, list) else 1

    async def create_job(self, body: JsonObject, batch: int | None = None) -> LineJob:
        request = await asyncio.to_thread(EmbeddingRequest.read, encode(body))
        blob = None if request.input_json is None else await self._hub.keep(request.input_json, durable=True)
        return LineJob(payload=request.payload(blob), blobs=() if blob is None else (blob,))

    def to_response(self, body: JsonObject, result: Result, job: str) -> LineResponse:
        request, embedded = EmbeddingRequest.read(encode(body)), cast(EmbeddingResult, result)
        vectors = read_vectors(embedded, None if embedded.blob is None else self._hub.path(embedded.blob))
        model, tokens = request.model or self._hub.model(Kind.EMBEDDING).name, sum(embedded.tokens)
        answer = b"".join(to_embeddings(vectors, model, tokens, as_base64=request.as_base64))
        usage = TokenCounts(input_tokens=tokens)
        return LineResponse(body=msgspec.Raw(answer), usage=usage, model=_ran(self._hub, Kind.EMBEDDING, model))

    def to_error(self, error: BatchError) -> JsonObject:
        return to_openai_error(error)


def refuse_streams(body: JsonObject) -> None:
    """Raise BadRequest for what a line cannot be."""
    for field in ("stream", "background"):
        if body.get(field):
            raise BadRequest(f"'{field}' cannot be true in a line of a batch: leave it out", param=field)


def token_counts(usage: Usage) -> TokenCounts:
    """A result's usage in the words of batches."""
    return TokenCounts(
        input_tokens=usage.prompt_tokens,
        cached_tokens=usage.prompt_tokens_details.cached_tokens,
        output_tokens=usage.completion_tokens,
        reasoning_tokens=usage.completion_tokens_details.reasoning_tokens,
    )


def to_object(answer: Any) -> JsonObject:
    """A response struct as a JSON object."""
    return cast(JsonObject, msgspec.to_builtins(answer))


def line_endpoints(hub: Hub, limits: LimitSettings, response_lifetime_s: int | None = None) -> dict[str, LineEndpoint]:
    """Every endpoint that a batch may name, by path. `response_lifetime_s`: how long a stored response is kept after its last
    use; None: for ever."""
    endpoints: dict[str, LineEndpoint] = {
        "/v1/chat/completions": _ChatEndpoint(hub, limits, read_chat, _chat_completion),
        "/v1/completions": _CompletionEndpoint(hub, limits),
        "/v1/embeddings": _EmbeddingEndpoint(hub),
        "/v1/responses": _ResponsesEndpoint(hub, limits, response_lifetime_s),
        "/v1/messages": _ChatEndpoint(
            hub,
            limits,
            read_messages_request,
            lambda result, model, created, body: to_message(result, model),
            to_anthropic_error,
        ),
        "/v1/audio/transcriptions": AudioEndpoint(hub, translate=False),
        "/v1/audio/translations": AudioEndpoint(hub, translate=True),
    }
    assert set(endpoints) == set(SERVED_ENDPOINTS)
    return endpoints
