"""What a job publishes while it runs: frames on the worker's stream, read by whoever waits for the job."""

from __future__ import annotations

from typing import Literal

import msgspec

from batch.payloads.chat import FinishReason, Logprobs, MessageDelta, PromptTokens, Timings
from batch.payloads.speech import TranscriptSegment

ProgressUnit = Literal["tokens", "seconds", "texts"]
"""What `Progress.done` counts."""


class _Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="type"):
    """Base of a job's events."""

    job: str = ""
    """Set by the worker."""


class Started(_Event, tag="started", frozen=True, kw_only=True):
    """A worker has taken the job, for the first time or again."""

    token: int = 0
    """The fencing token of its lease, where workers of several machines share a queue."""
    front: str = ""
    """The service that accepted the job, where several share a queue."""
    key: str = ""
    """The lease's, where several share a queue: it never leaves the worker's machine."""


class PromptCounted(_Event, tag="prompt", frozen=True, kw_only=True):
    """A completion with `describe`: the tokens it continues from."""

    tokens: int


class Progress(_Event, tag="progress", frozen=True, kw_only=True):
    """How far the job is."""

    done: float
    total: float | None = None
    unit: ProgressUnit = "tokens"
    cache: int | None = None
    """With return_progress: prompt tokens that stood in the cache."""
    time_ms: int | None = None
    """With return_progress: milliseconds since the prompt was begun."""


class Delta(_Event, tag="delta", frozen=True, kw_only=True, gc=False):
    """New text, thinking or tool calls of one choice."""

    index: int = 0
    delta: MessageDelta = MessageDelta()
    logprobs: Logprobs | None = None
    tokens: list[int] = []
    """Ids, of a completion."""
    timings: Timings | None = None
    finish_reason: FinishReason | None = None
    """On the last delta of a choice, whose `delta` may be empty."""
    prompt: PromptTokens | None = None
    """On a job's first delta."""


class SegmentEnded(_Event, tag="segment", frozen=True, kw_only=True):
    """A segment of a transcript is final."""

    segment: TranscriptSegment


JobEvent = Started | PromptCounted | Progress | Delta | SegmentEnded
"""Everything but the end of a job, which the queue itself publishes."""
