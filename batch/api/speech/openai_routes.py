"""OpenAI's Audio API: POST /v1/audio/transcriptions and /v1/audio/translations, whole or as a stream."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from batch.api.http.multipart import FormUpload, read_upload
from batch.api.jobs.event_stream import EventStreamResponse
from batch.api.openapi_schemas import form_schema
from batch.api.speech.job import check_file, submit_upload, transcribe
from batch.api.speech.openai_request import GRANULARITIES, read_transcription
from batch.api.speech.request import RESPONSE_FORMATS, is_true, option_properties
from batch.api.speech.response import to_openai, write_off_loop
from batch.api.speech.transcript_events import TranscriptEvents
from batch.payloads.speech import TranscriptionResult

router = APIRouter()

_TEXT_FIELD = {"type": "string"}

FORM = form_schema(
    {
        "file": {"type": "string", "format": "binary"},
        "model": _TEXT_FIELD,
        "prompt": _TEXT_FIELD,
        "keywords[]": {"type": "array", "items": _TEXT_FIELD},
        "language": _TEXT_FIELD,
        "languages[]": {"type": "array", "items": _TEXT_FIELD},
        "audio_track": _TEXT_FIELD,
        "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS)},
        "temperature": option_properties()["temperature"],
        "stream": {"type": "boolean"},
        "chunking_strategy": _TEXT_FIELD,
        "include[]": {"type": "array", "items": {"type": "string", "enum": ["logprobs"]}},
        f"{GRANULARITIES}[]": {"type": "array", "items": {"type": "string", "enum": ["word", "segment"]}},
    },
    required=("file",),
)


@router.post("/v1/audio/transcriptions", openapi_extra=FORM)
async def transcriptions(request: Request) -> Response:
    """Text in the language that was spoken."""
    return await _answer(request, await read_upload(request), translate=False)


@router.post("/v1/audio/translations", openapi_extra=FORM)
async def translations(request: Request) -> Response:
    """Text in English, whatever was spoken."""
    return await _answer(request, await read_upload(request), translate=True)


async def _answer(request: Request, upload: FormUpload, *, translate: bool) -> Response:
    transcription = read_transcription(upload, translate=translate)
    check_file(upload)
    if is_true(upload.last("stream") or ""):
        ticket = await submit_upload(request, upload, transcription.options, logprobs=transcription.logprobs)
        return EventStreamResponse(request.app.state.hub, [ticket], TranscriptionResult, TranscriptEvents())
    result = await transcribe(
        request, upload, transcription.options, words=transcription.words, logprobs=transcription.logprobs
    )
    return await write_off_loop(
        result, lambda: to_openai(transcription.response_format, result, transcription.granularities, translate=translate)
    )
