"""Transcription jobs on the stt queue: sound in, segments with times out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from batch.payloads.sampling import INT32_MAX

_Milliseconds = Annotated[int, Meta(ge=0, le=INT32_MAX)]
_Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class TranscriptionOptions(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """whisper-server's fields by their names. None: whisper.cpp's own default."""

    language: str | None = None
    """A code such as "en", a Chinese tag such as "zh-Hans" or "zh-TW", or "auto"."""
    candidate_languages: list[str] = []
    """With "auto": codes among which the language is detected; empty: all that the model knows."""
    audio_track: str | None = None
    """Of a file with several sound tracks: a number, from 1, or a language. None: the file's default."""
    translate: bool = False
    detect_language: bool = False
    prompt: str | None = None
    carry_initial_prompt: bool | None = None
    temperature: _Share | None = None
    temperature_inc: _Share | None = None
    """0 (no fall-back), or 0.05 and more: whisper.cpp decodes once for every step on the way to 1."""
    offset_t: _Milliseconds | None = None
    duration: _Milliseconds | None = None
    offset_n: Annotated[int, Meta(ge=0, le=INT32_MAX)] | None = None
    max_len: Annotated[int, Meta(ge=0, le=INT32_MAX)] | None = None
    """Characters of a segment; 0 or None: no limit."""
    split_on_word: bool | None = None
    token_timestamps: bool | None = None
    no_timestamps: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=8)] | None = None
    beam_size: Annotated[int, Meta(ge=-1, le=8)] | None = None
    audio_ctx: Annotated[int, Meta(ge=0, le=1500)] | None = None
    max_context: Annotated[int, Meta(ge=-1, le=INT32_MAX)] | None = None
    word_thold: _Share | None = None
    entropy_thold: Annotated[float, Meta(ge=-100.0, le=100.0)] | None = None
    logprob_thold: Annotated[float, Meta(ge=-100.0, le=100.0)] | None = None
    no_speech_thold: _Share | None = None
    suppress_nst: bool | None = None
    no_language_probabilities: bool | None = None
    diarize: bool | None = None
    tinydiarize: bool | None = None
    vad: bool | None = None
    vad_threshold: _Share | None = None
    vad_min_speech_duration_ms: _Milliseconds | None = None
    vad_min_silence_duration_ms: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    vad_max_speech_duration_s: Annotated[float, Meta(ge=0.0)] | None = None
    vad_speech_pad_ms: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    vad_samples_overlap: Annotated[float, Meta(ge=0.0, le=30.0)] | None = None


class TranscriptionPayload(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag="transcribe", tag_field="task"):
    """Transcribe one sound or video file."""

    blob: str
    """sha256 of the file's bytes in the spool, as they came."""
    filename: str | None = None
    """For messages; "The file" when absent."""
    options: TranscriptionOptions = TranscriptionOptions()
    words: bool = False
    """Segments hold the times of whole words."""
    logprobs: bool = False
    """Segments hold the log probability of each token."""


class Word(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A word and its times in seconds; with token_timestamps a token, as whisper-server has it."""

    word: str
    start: float
    end: float
    probability: float | None = None
    t_dtw: float | None = None


class TranscriptLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token and its log probability, in OpenAI's shape."""

    token: str
    bytes: list[int]
    """Of its text, which may be a part of a character."""
    logprob: float


class TranscriptSegment(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A stretch of speech; times in seconds from the start of the file."""

    id: int
    seek: int = 0
    start: float
    end: float
    text: str
    """With Whisper's leading space."""
    tokens: list[int] = []
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: list[Word] | None = None
    logprobs: list[TranscriptLogprob] | None = None
    """With TranscriptionPayload.logprobs, one a token."""
    speaker_turn_next: bool | None = None


class TranscriptionResult(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A whole transcript."""

    text: str
    """Every segment's text with a line feed, as whisper-server's json has it."""
    language: str
    """Whisper's code; empty where it was to be detected and nobody speaks."""
    language_name: str
    """Lower-case English name, or empty."""
    duration: float
    """Seconds of sound."""
    segments: list[TranscriptSegment]
    language_probabilities: dict[str, float] | None = None
    truncated: str | None = None
    """One sentence, when the file broke off before its end."""
    ms: float
    """Milliseconds from start to result."""
