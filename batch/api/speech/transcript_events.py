"""A transcript as OpenAI's stream: a delta a segment, then the whole text."""

from __future__ import annotations

from typing import Any

import msgspec

from batch.api.jobs.server_sent_events import sse_event
from batch.api.speech.response import all_logprobs, whole_text
from batch.errors import BatchError
from batch.payloads.events import JobEvent, SegmentEnded
from batch.payloads.speech import TranscriptionResult, TranscriptSegment

ENCODER_POSITIONS_PER_S = 50
"""What Whisper's encoder makes of a second of sound: its audio tokens."""


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
        heard = round(result.duration * ENCODER_POSITIONS_PER_S)
        spoken = sum(len(segment.tokens) for segment in result.segments)
        usage = {
            "type": "tokens",
            "input_tokens": heard,
            "output_tokens": spoken,
            "total_tokens": heard + spoken,
            "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
            "seconds": result.duration,
        }
        done: dict[str, Any] = {"type": "transcript.text.done", "text": whole_text(result), "usage": usage}
        if (logprobs := all_logprobs(result)) is not None:
            done["logprobs"] = logprobs
        if result.truncated:
            done["truncated"] = result.truncated
        return rest + sse_event(done)

    def close(self) -> bytes:
        """Nothing: the last event is the whole text."""
        return b""

    def error(self, error: BatchError) -> bytes:
        """The error, in OpenAI's shape."""
        return sse_event({"error": error.body()})

    def _delta(self, segment: TranscriptSegment) -> bytes:
        self._sent_segments += 1
        delta = segment.text if self._has_text else segment.text.lstrip()
        if not delta:
            return b""
        self._has_text = True
        event: dict[str, Any] = {"type": "transcript.text.delta", "delta": delta}
        if segment.logprobs is not None:
            event["logprobs"] = msgspec.to_builtins(segment.logprobs)
        return sse_event(event)
