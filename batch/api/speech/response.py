"""A transcript in whisper-server's shapes and in OpenAI's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi.responses import PlainTextResponse, Response

from batch.api.json_body import json_response
from batch.media import language as languages
from batch.media.subtitles import segments_to_srt, segments_to_vtt, to_srt, to_vtt
from batch.payloads.speech import TranscriptionOptions, TranscriptionResult, TranscriptSegment

OFF_LOOP_SEGMENTS = 100
"""Segments above which a response is written off the event loop: ten minutes of speech take some milliseconds."""

_WHISPER_SERVER_FIELDS = (
    "id",
    "text",
    "start",
    "end",
    "tokens",
    "words",
    "temperature",
    "avg_logprob",
    "no_speech_prob",
    "speaker_turn_next",
)
_OPENAI_FIELDS = (
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


async def write_off_loop(result: TranscriptionResult, write: Callable[[], Response]) -> Response:
    """The response that `write` makes of a result: in a thread where the result is long."""
    return await asyncio.to_thread(write) if len(result.segments) > OFF_LOOP_SEGMENTS else write()


def to_whisper_server(form: str, result: TranscriptionResult, options: TranscriptionOptions) -> Response:
    """The response to /inference; `form` is one of RESPONSE_FORMATS."""
    match form:
        case "text":
            return PlainTextResponse(result.text)
        case "srt":
            text = segments_to_srt(result.segments, options.offset_n or 0)
            return Response(text.encode(), media_type="application/x-subrip")
        case "vtt":
            return Response(segments_to_vtt(result.segments).encode(), media_type="text/vtt")
        case "verbose_json":
            return json_response(_whisper_server_verbose(result, options))
    return json_response(_with_note({"text": result.text}, result))


def to_openai(form: str, result: TranscriptionResult, granularities: set[str], *, translate: bool) -> Response:
    """The response to /v1/audio/…; `form` is one of RESPONSE_FORMATS, `granularities` of "word" and "segment"."""
    match form:
        case "text":
            return PlainTextResponse(whole_text(result) + "\n")
        case "srt":
            return PlainTextResponse(to_srt(result.segments))
        case "vtt":
            return PlainTextResponse(to_vtt(result.segments), media_type="text/vtt")
        case "verbose_json":
            return json_response(_openai_verbose(result, granularities, translate=translate))
    body: dict[str, Any] = {"text": whole_text(result)}
    if (logprobs := all_logprobs(result)) is not None:
        body["logprobs"] = logprobs
    return json_response(_with_note(body | {"usage": usage_by_duration(result)}, result))


def whole_text(result: TranscriptionResult) -> str:
    """The transcript as one line of text."""
    return "".join(segment.text for segment in result.segments).strip()


def all_logprobs(result: TranscriptionResult) -> list[Any] | None:
    """The log probabilities of all tokens, in OpenAI's shape; None where none were asked for."""
    if not any(segment.logprobs is not None for segment in result.segments):
        return None
    return msgspec.to_builtins([token for segment in result.segments for token in segment.logprobs or ()])  # type: ignore[no-any-return]


def usage_by_duration(result: TranscriptionResult) -> dict[str, Any]:
    """OpenAI's usage of a model that counts seconds."""
    return {"type": "duration", "seconds": result.duration}


def _with_note(body: dict[str, Any], result: TranscriptionResult) -> dict[str, Any]:
    return body | {"truncated": result.truncated} if result.truncated else body


def _entries(segments: list[TranscriptSegment], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Segments as JSON objects with these fields, in this order; those that a segment lacks are left out."""
    return [
        {name: msgspec.to_builtins(value) for name in fields if (value := getattr(segment, name)) is not None}
        for segment in segments
    ]


def _whisper_server_verbose(result: TranscriptionResult, options: TranscriptionOptions) -> dict[str, Any]:
    fields = tuple(name for name in _WHISPER_SERVER_FIELDS if not options.no_timestamps or name not in ("start", "end"))
    body: dict[str, Any] = {
        "task": "translate" if options.translate else "transcribe",
        "language": result.language_name,
        "duration": result.duration,
        "text": result.text,
        "segments": _entries(result.segments, fields),
    }
    shares = result.language_probabilities
    if shares and not options.no_language_probabilities:
        code = max(shares, key=lambda c: shares[c])
        body["detected_language"] = languages.name(code)
        body["detected_language_probability"] = shares[code]
        body["language_probabilities"] = shares
    return _with_note(body, result)


def _openai_verbose(result: TranscriptionResult, granularities: set[str], *, translate: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": "translate" if translate else "transcribe",
        "language": "english" if translate else result.language_name,
        "duration": result.duration,
        "text": whole_text(result),
    }
    if "segment" in granularities:
        body["segments"] = _entries(result.segments, _OPENAI_FIELDS)
    if "word" in granularities:
        body["words"] = msgspec.to_builtins([word for segment in result.segments for word in segment.words or ()])
    return _with_note(body | {"usage": usage_by_duration(result)}, result)
