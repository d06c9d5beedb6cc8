"""A transcript in whisper-server's shapes and in OpenAI's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import msgspec
from fastapi.responses import PlainTextResponse, Response

from batch.api.json_body import json_response
from batch.media import language as languages
from batch.media.subtitles import segments_to_srt, segments_to_vtt, to_srt, to_vtt
from batch.payloads.speech import TranscriptionOptions, TranscriptionResult, TranscriptLogprob, Word

OFF_LOOP_SEGMENTS = 100
"""Segments above which a response is written off the event loop: ten minutes of speech take some milliseconds."""


class _Body(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Base of the JSON bodies: what a transcript lacks is left out."""


class DurationUsage(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's usage of a model that counts seconds."""

    seconds: float
    type: Literal["duration"] = "duration"


class WhisperServerText(_Body, frozen=True, kw_only=True):
    """whisper-server's json."""

    text: str
    truncated: str | None = None


class WhisperServerSegment(_Body, frozen=True, kw_only=True):
    """A segment of whisper-server's verbose_json."""

    id: int
    text: str
    start: float | None = None
    end: float | None = None
    tokens: list[int]
    words: list[Word] | None = None
    temperature: float
    avg_logprob: float
    no_speech_prob: float
    speaker_turn_next: bool | None = None


class WhisperServerVerbose(_Body, frozen=True, kw_only=True):
    """whisper-server's verbose_json."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    segments: list[WhisperServerSegment]
    detected_language: str | None = None
    detected_language_probability: float | None = None
    language_probabilities: dict[str, float] | None = None
    truncated: str | None = None


class TextTranscription(_Body, frozen=True, kw_only=True):
    """OpenAI's json."""

    text: str
    logprobs: list[TranscriptLogprob] | None = None
    usage: DurationUsage
    truncated: str | None = None


class TranscriptionSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment of OpenAI's verbose_json."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseTranscription(_Body, frozen=True, kw_only=True):
    """OpenAI's verbose_json."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    segments: list[TranscriptionSegment] | None = None
    words: list[Word] | None = None
    usage: DurationUsage
    truncated: str | None = None


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
    return json_response(WhisperServerText(text=result.text, truncated=result.truncated))


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
    return json_response(
        TextTranscription(
            text=whole_text(result),
            logprobs=all_logprobs(result),
            usage=DurationUsage(seconds=result.duration),
            truncated=result.truncated,
        )
    )


def whole_text(result: TranscriptionResult) -> str:
    """The transcript as one line of text."""
    return "".join(segment.text for segment in result.segments).strip()


def all_logprobs(result: TranscriptionResult) -> list[TranscriptLogprob] | None:
    """The log probabilities of all tokens; None where none were asked for."""
    if not any(segment.logprobs is not None for segment in result.segments):
        return None
    return [token for segment in result.segments for token in segment.logprobs or ()]


def _whisper_server_verbose(result: TranscriptionResult, options: TranscriptionOptions) -> WhisperServerVerbose:
    has_times = not options.no_timestamps
    shares = None if options.no_language_probabilities else result.language_probabilities
    code = max(shares, key=lambda c: shares[c]) if shares else None
    return WhisperServerVerbose(
        task="translate" if options.translate else "transcribe",
        language=result.language_name,
        duration=result.duration,
        text=result.text,
        segments=[
            WhisperServerSegment(
                id=segment.id,
                text=segment.text,
                start=segment.start if has_times else None,
                end=segment.end if has_times else None,
                tokens=segment.tokens,
                words=segment.words,
                temperature=segment.temperature,
                avg_logprob=segment.avg_logprob,
                no_speech_prob=segment.no_speech_prob,
                speaker_turn_next=segment.speaker_turn_next,
            )
            for segment in result.segments
        ],
        detected_language=languages.name(code) if code else None,
        detected_language_probability=shares[code] if shares and code else None,
        language_probabilities=shares or None,
        truncated=result.truncated,
    )


def _openai_verbose(result: TranscriptionResult, granularities: set[str], *, translate: bool) -> VerboseTranscription:
    segments, words = None, None
    if "segment" in granularities:
        segments = [msgspec.convert(segment, TranscriptionSegment, from_attributes=True) for segment in result.segments]
    if "word" in granularities:
        words = [word for segment in result.segments for word in segment.words or ()]
    return VerboseTranscription(
        task="translate" if translate else "transcribe",
        language="english" if translate else result.language_name,
        duration=result.duration,
        text=whole_text(result),
        segments=segments,
        words=words,
        usage=DurationUsage(seconds=result.duration),
        truncated=result.truncated,
    )
