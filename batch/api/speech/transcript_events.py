"""A transcript as OpenAI's stream: a delta a segment, then the whole text."""

from __future__ import annotations

from typing import Literal

import msgspec

from batch.api.errors import to_openai_error
from batch.api.jobs.server_sent_events import sse_event
from batch.api.speech.response import all_logprobs, whole_text
from batch.errors import BatchError
from batch.payloads.events import JobEvent, SegmentEnded
from batch.payloads.speech import TranscriptionResult, TranscriptLogprob, TranscriptSegment

ENCODER_POSITIONS_PER_S = 50
"""What Whisper's encoder makes of a second of sound: its audio tokens."""


class _TokenDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What of the input was sound."""

    audio_tokens: int
    text_tokens: int = 0


class _TokenUsage(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's usage of a model that counts tokens."""

    type: Literal["tokens"] = "tokens"
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_token_details: _TokenDetails
    seconds: float


class _TextDelta(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="type", tag="transcript.text.delta"):
    """A segment that is final."""

    delta: str
    logprobs: list[TranscriptLogprob] | None = None


class _TextDone(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="type", tag="transcript.text.done"):
    """The whole text."""

    text: str
    usage: _TokenUsage
    logprobs: list[TranscriptLogprob] | None = None
    truncated: str | None = None


class TranscriptEvents:
    """The event serializer of one transcription."""

    def __init__(self) -> None:
        self._sent_segments = 0
        self._has_text = False

    def event(self, job: int, event: JobEvent) -> bytes:
        """A segment that is final, as a delta; nothing for other events."""
        # a job that was taken up again after a crash repeats segments; their ids tell
        if not isinstance(event, SegmentEnded) or event.segment.id != self._sent_segments:
            return b""
        return self._delta(event.segment)

    def finish(self, job: int, result: TranscriptionResult) -> bytes:
        """Deltas that nobody heard, and the whole text with its usage."""
        rest = b"".join(self._delta(segment) for segment in result.segments[self._sent_segments :])
        audio_tokens = round(result.duration * ENCODER_POSITIONS_PER_S)
        text_tokens = sum(len(segment.tokens) for segment in result.segments)
        usage = _TokenUsage(
            input_tokens=audio_tokens,
            output_tokens=text_tokens,
            total_tokens=audio_tokens + text_tokens,
            input_token_details=_TokenDetails(audio_tokens=audio_tokens),
            seconds=result.duration,
        )
        done = _TextDone(text=whole_text(result), usage=usage, logprobs=all_logprobs(result), truncated=result.truncated)
        return rest + sse_event(done)

    def close(self) -> bytes:
        """Nothing: the last event is the whole text."""
        return b""

    def error(self, error: BatchError) -> bytes:
        """The error, in OpenAI's shape."""
        return sse_event(to_openai_error(error))

    def _delta(self, segment: TranscriptSegment) -> bytes:
        self._sent_segments += 1
        delta = segment.text if self._has_text else segment.text.lstrip()
        if not delta:
            return b""
        self._has_text = True
        return sse_event(_TextDelta(delta=delta, logprobs=segment.logprobs))
