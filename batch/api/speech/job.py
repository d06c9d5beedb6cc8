"""An uploaded file as a transcription job, and its result."""

from __future__ import annotations

import asyncio

from fastapi import Request

from batch.api.http.multipart import FormUpload
from batch.api.jobs.disconnect import result_for_client
from batch.api.jobs.submit import submit
from batch.errors import BadRequest
from batch.media.sound.length import likely_seconds
from batch.payloads.speech import TranscriptionOptions, TranscriptionPayload, TranscriptionResult
from batch.queue.hub.hub import Hub
from batch.queue.hub.ticket import Ticket
from batch.queue.jobs import Draft, Origin, Priority

LARGE_REQUEST_S = 60.0
"""Seconds of sound above which short clips go first."""


def check_file(upload: FormUpload) -> None:
    """Raises BadRequest for a form without a file."""
    if upload.sha256 is None:
        raise BadRequest('The field "file" is missing: send the sound in it.', param="file")


async def transcribe(
    request: Request, upload: FormUpload, options: TranscriptionOptions, *, words: bool = False, logprobs: bool = False
) -> TranscriptionResult:
    """Queue the uploaded file for a client that waits, and wait for its result."""
    ticket = await submit_upload(request, upload, options, words=words, logprobs=logprobs)
    return await result_for_client(request, ticket, TranscriptionResult)


async def submit_upload(
    request: Request, upload: FormUpload, options: TranscriptionOptions, *, words: bool = False, logprobs: bool = False
) -> Ticket:
    """Queue the uploaded file for a client that waits; whoever gets the ticket sees to its end."""
    assert upload.sha256 is not None
    seconds = await asyncio.to_thread(likely_seconds, await request.app.state.hub.fetch(upload.sha256))
    payload = TranscriptionPayload(
        blob=upload.sha256, filename=upload.filename or None, options=options, words=words, logprobs=logprobs
    )
    draft = Draft(
        payload,
        Origin.HTTP,
        Priority.LARGE_REQUEST if seconds > LARGE_REQUEST_S else Priority.INTERACTIVE,
        blobs=(upload.sha256,),
        waited=True,
        source=upload.filename or None,
    )
    hub: Hub = request.app.state.hub
    (ticket,) = await submit(request, [hub.for_model(draft, upload.last("model"))], upload.fingerprint)
    return ticket
