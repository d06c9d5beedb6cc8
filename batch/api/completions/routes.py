"""POST /v1/completions (OpenAI's shape), /completion and /completions (llama-server's own): a prompt goes on, without a
template."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from batch.api.completions.native_response import NativeLines, selected_fields, to_native
from batch.api.completions.request import CompletionBody, read_completion, read_native_completion
from batch.api.completions.response import TextChunks, to_openai
from batch.api.generation.defaults import Settings, generation_settings
from batch.api.generation.jobs import (
    GenerationJobs,
    chat_info,
    chat_queue,
    check_text_bytes,
    fits_context,
    hub_of,
    interactive_draft,
    model_name,
)
from batch.api.jobs.submit import submit
from batch.api.json_body import documented, json_body, json_response, with_body
from batch.payloads.chat import CompletionPayload

router = APIRouter()

ReadCompletion = tuple[CompletionBody, list[CompletionPayload]]


@router.post("/v1/completions", openapi_extra=documented(CompletionBody))
async def completions(request: Request, read: Annotated[ReadCompletion, Depends(json_body(read_completion))]) -> Response:
    """Go on with one or several prompts, in OpenAI's shape."""
    body, payloads = read
    jobs = await submit_completions(request, body, payloads)
    if body.stream:
        serializer = TextChunks(jobs.model, jobs.created, len(payloads), body.choices, progress=bool(body.return_progress))
        return jobs.stream(serializer, body.ping_interval_s)
    results = await jobs.results(request)
    return json_response(to_openai(results, jobs.model, jobs.created), jobs.result_headers(results))


router.add_route("/v1/completions", with_body(read_completion, completions), methods=["POST"], include_in_schema=False)


@router.post("/completion", openapi_extra=documented(CompletionBody))
@router.post("/completions", include_in_schema=False)
async def native_completion(
    request: Request, read: Annotated[ReadCompletion, Depends(json_body(read_native_completion))]
) -> Response:
    """Go on with one or several prompts, in llama-server's own shape."""
    body, payloads = read
    jobs = await submit_completions(request, body, payloads)
    fields = body.response_fields or ()

    def settings() -> Settings:
        return generation_settings(
            chat_info(jobs.hub, chat_queue(jobs.hub, body.model_name)), payloads[0].generation, stream=bool(body.stream)
        )

    if body.stream:
        serializer = NativeLines(jobs.model, settings, len(payloads), progress=bool(body.return_progress), fields=fields)
        return jobs.stream(serializer, body.ping_interval_s)
    results = await jobs.results(request)
    choices = [(choice, result) for result in results for choice in result.choices]
    answers = [
        selected_fields(to_native(choice, result, jobs.model, settings(), index=at, tokens=bool(body.return_tokens)), fields)
        for at, (choice, result) in enumerate(choices)
    ]
    return json_response(answers[0] if len(answers) == 1 else answers, jobs.result_headers(results))


async def submit_completions(request: Request, body: CompletionBody, payloads: list[CompletionPayload]) -> GenerationJobs:
    """Put one job a prompt into the queue."""
    await check_text_bytes(request)
    hub = hub_of(request)
    name, queue = model_name(hub, body.model_name), chat_queue(hub, body.model_name)
    tickets = await submit(request, [interactive_draft(payload, queue) for payload in payloads])

    async def check() -> None:
        await fits_context(hub, payloads[0], queue)()
        for payload in payloads[1:]:  # of the others the prompt alone is new
            await fits_context(hub, CompletionPayload(prompt=payload.prompt), queue)()

    return GenerationJobs(hub, tickets, name, check)
