"""GET and POST /page/try: ask the models something; with scripts the answer comes word by word from the public routes."""

from __future__ import annotations

import asyncio
import base64
from enum import StrEnum

from starlette.requests import Request
from starlette.responses import Response

from batch.api.batches.endpoints import line_endpoints
from batch.api.http.multipart import FormUpload, read_upload
from batch.api.jobs.disconnect import result_for_client
from batch.errors import BadRequest, BatchError, TooLarge
from batch.folder.pipeline import text_of
from batch.page.endpoint import notice_of
from batch.page.rendering import render
from batch.page.service import PageService
from batch.payloads.chat import ChatResult
from batch.payloads.embedding import EmbeddingResult
from batch.payloads.job_payload import RESULT_TYPES, Payload, Result, task_of
from batch.payloads.speech import TranscriptionOptions, TranscriptionPayload, TranscriptionResult
from batch.queue.jobs import Draft, Origin, Priority
from batch.queue.spool import Spool

MAX_ANSWER_TOKENS = 1000
MAX_PROMPT_CHARS = 20_000


class Trial(StrEnum):
    """What can be tried."""

    CHAT = "chat"
    TRANSCRIBE = "transcribe"
    EMBED = "embed"


async def show(page: PageService, request: Request) -> Response:
    """The forms."""
    return _page(request)


async def run(page: PageService, request: Request) -> Response:
    """Do what the form asks for and show what came out."""
    form = await read_upload(request)
    prompt = form.last("prompt") or ""
    try:
        trial = Trial(form.last("trial") or Trial.CHAT)
    except ValueError:
        raise BadRequest(f'"trial" must be one of {", ".join(Trial)}.', param="trial") from None
    try:
        payload, blobs = await _payload(page, trial, prompt, form)
        ticket = await page.hub.submit(Draft(payload, Origin.HTTP, Priority.INTERACTIVE, blobs=blobs, waited=True))
        result = await result_for_client(request, ticket, RESULT_TYPES[task_of(payload)])
    except BatchError as error:
        return _page(request, trial, prompt, problem=error)
    return _page(request, trial, prompt, answer=_answer(result))


def _page(
    request: Request,
    trial: Trial = Trial.CHAT,
    prompt: str = "",
    answer: str | None = None,
    problem: BatchError | None = None,
) -> Response:
    return render(
        "try.html",
        200 if problem is None else problem.status,
        page="try",
        trial=trial,
        prompt=prompt,
        answer=answer,
        problem=problem.message if problem else None,
        base=f"{request.url.scheme}://{request.headers.get('host', '127.0.0.1:8080')}",
        notice=notice_of(request),
    )


async def _payload(page: PageService, trial: Trial, prompt: str, form: FormUpload) -> tuple[Payload, tuple[str, ...]]:
    if len(prompt) > MAX_PROMPT_CHARS:
        raise TooLarge(f"The text has more than {MAX_PROMPT_CHARS} characters: send it to the port itself.")
    if trial is Trial.TRANSCRIBE:
        if form.sha256 is None or not form.size:
            raise BadRequest("No recording was chosen.")
        options = TranscriptionOptions(language="auto")
        return TranscriptionPayload(blob=form.sha256, filename=form.filename or None, options=options), (form.sha256,)
    if not prompt.strip():
        raise BadRequest("There is no text to send.")
    endpoints = line_endpoints(page.hub, page.settings.limits)
    if trial is Trial.EMBED:
        job = await endpoints["/v1/embeddings"].create_job({"input": prompt})
    else:
        content: list[dict[str, object]] = [{"type": "text", "text": prompt}]
        if form.sha256 is not None and form.size:
            spool, sha256, limit = page.hub.spool, form.sha256, page.settings.limits.image_bytes
            content.insert(
                0, {"type": "image_url", "image_url": {"url": await asyncio.to_thread(_data_url, spool, sha256, limit)}}
            )
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": MAX_ANSWER_TOKENS}
        job = await endpoints["/v1/chat/completions"].create_job(body)
    return job.payload, job.blobs


def _data_url(spool: Spool, sha256: str, max_bytes: int) -> str:
    path = spool.path(sha256)
    if path.stat().st_size > max_bytes:
        raise TooLarge(f"The picture is larger than {max_bytes:,} bytes (limits.image_bytes).")
    return f"data:application/octet-stream;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _answer(result: Result) -> str:
    match result:
        case ChatResult():
            return text_of(result)
        case TranscriptionResult():
            return text_of(result) or "Nobody speaks in this recording."
        case EmbeddingResult():
            return f"One vector of {result.dimensions} dimensions, of {sum(result.tokens)} tokens."
