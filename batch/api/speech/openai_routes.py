"""OpenAI's Audio API: POST /v1/audio/transcriptions and /v1/audio/translations, whole or as a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from batch.api.http.multipart import Upload, read_upload
from batch.api.jobs.event_stream import EventStreamResponse
from batch.api.jobs.server_sent_events import sse_event
from batch.api.jobs.submit import submit
from batch.api.speech.whisper_server_routes import (
    FORMATS,
    draft,
    is_true,
    json_response,
    one_of,
    read_options,
    transcribe,
)
from batch.errors import BadRequest, BatchError
from batch.media.subtitles import to_srt, to_vtt
from batch.payloads.events import JobEvent, SegmentEnded
from batch.payloads.speech import TranscriptionResult
from batch.payloads.untyped import to_dict

router = APIRouter()

_SEGMENT = (
    "id",
    "seek",
    "start",
    "end",
    "text",
    "tokens",
    "temperature",
    "avg_logprob",
    "compression_ratio",
    "no_speech_prob",
)
_GRAINS = "timestamp_granularities"
_TEXT_FIELD = {"type": "string"}
_PROPERTIES: dict[str, Any] = {
    "file": {"type": "string", "format": "binary"},
    "model": _TEXT_FIELD,
    "prompt": _TEXT_FIELD,
    "language": _TEXT_FIELD,
    "response_format": {"type": "string", "enum": list(FORMATS)},
    "temperature": {"type": "number", "minimum": 0, "maximum": 1},
    "stream": {"type": "boolean"},
    f"{_GRAINS}[]": {"type": "array", "items": {"type": "string", "enum": ["word", "segment"]}},
}
DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": _PROPERTIES,
                }
            }
        },
    }
}


@router.post("/v1/audio/transcriptions", openapi_extra=DOCUMENTED)
async def transcriptions(request: Request) -> Response:
    """Text in the language that was spoken."""
    return await _answer(request, await read_upload(request), translate=False)


@router.post("/v1/audio/translations", openapi_extra=DOCUMENTED)
async def translations(request: Request) -> Response:
    """Text in English, whatever was spoken."""
    return await _answer(request, await read_upload(request), translate=True)


async def _answer(request: Request, upload: Upload, *, translate: bool) -> Response:
    shape = one_of(upload, "response_format", FORMATS, "json")
    given = read_options(upload)
    options: dict[str, Any] = {key: given[key] for key in ("language", "prompt", "temperature") if key in given}
    options |= {"translate": translate, "no_language_probabilities": True}
    options.setdefault("language", "auto")
    grains = _grains(upload, shape)
    if upload.sha256 is None:
        raise BadRequest('The field "file" is missing: send the sound in it.', param="file")
    if is_true(upload.last("stream") or ""):
        tickets = await submit(request, [await draft(request, upload, options)], upload.fingerprint)
        return EventStreamResponse(request.app.state.hub, tickets, TranscriptionResult, _Deltas())
    result = await transcribe(request, upload, options, words="word" in grains or shape in ("srt", "vtt"))
    match shape:
        case "text":
            return PlainTextResponse(whole_text(result) + "\n")
        case "srt":
            return PlainTextResponse(to_srt(result["segments"]))
        case "vtt":
            return PlainTextResponse(to_vtt(result["segments"]), media_type="text/vtt")
        case "verbose_json":
            return json_response(_verbose(result, grains, translate))
    return json_response(_noted({"text": whole_text(result), "usage": _usage(result)}, result))


def whole_text(result: Mapping[str, Any]) -> str:
    return "".join(str(segment["text"]) for segment in result["segments"]).strip()


def _grains(upload: Upload, shape: str) -> set[str]:
    grains = {grain.strip() for name in (_GRAINS, f"{_GRAINS}[]") for grain in upload.fields.get(name, [])} - {""}
    if unknown := grains - {"word", "segment"}:
        raise BadRequest(f'"{_GRAINS}" may hold word and segment, not "{min(unknown)[:40]}".', param=_GRAINS)
    if "word" in grains and shape != "verbose_json":
        raise BadRequest(f'"{_GRAINS}" with word needs "response_format": "verbose_json".', param=_GRAINS)
    return grains or {"segment"}


def _usage(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "duration", "seconds": result["duration"]}


def _noted(body: dict[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    return body | {"truncated": result["truncated"]} if result.get("truncated") else body


def _verbose(result: Mapping[str, Any], grains: set[str], translate: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": "translate" if translate else "transcribe",
        "language": "english" if translate else result["language_name"],
        "duration": result["duration"],
        "text": whole_text(result),
    }
    if "segment" in grains:
        body["segments"] = [{key: segment[key] for key in _SEGMENT} for segment in result["segments"]]
    if "word" in grains:
        body["words"] = [word for segment in result["segments"] for word in segment.get("words", [])]
    return _noted(body | {"usage": _usage(result)}, result)


class _Deltas:
    """The event serializer of a transcript: a delta a segment, then the whole text."""

    def __init__(self) -> None:
        self._sent = 0
        self._said = ""

    def event(self, job: int, event: JobEvent) -> bytes:
        # a job that was taken up again after a crash repeats segments; their ids tell
        if not isinstance(event, SegmentEnded) or event.segment.id != self._sent:
            return b""
        return self._delta(event.segment.text)

    def finish(self, job: int, outcome: TranscriptionResult) -> bytes:
        result: Mapping[str, Any] = to_dict(outcome)
        rest = b"".join(self._delta(str(segment["text"])) for segment in result["segments"][self._sent :])
        text = whole_text(result)
        heard = round(float(result["duration"]) * 50)  # Whisper's encoder makes 50 positions a second
        spoken = sum(len(segment["tokens"]) for segment in result["segments"])
        usage = {
            "type": "tokens",
            "input_tokens": heard,
            "output_tokens": spoken,
            "total_tokens": heard + spoken,
            "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
            "seconds": result["duration"],
        }
        return rest + sse_event(_noted({"type": "transcript.text.done", "text": text, "usage": usage}, result))

    def close(self) -> bytes:
        return b""

    def error(self, error: BatchError) -> bytes:
        return sse_event({"error": error.body()})

    def _delta(self, text: str) -> bytes:
        self._sent += 1
        delta = text if self._said else text.lstrip()
        self._said += delta
        return sse_event({"type": "transcript.text.delta", "delta": delta}) if delta else b""
