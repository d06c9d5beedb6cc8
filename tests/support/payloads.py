"""Payloads from short dicts and back, for tests that care for a few fields only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from batch.payloads.job_payload import RESULT_TYPES, Payload, Result, decode_payload
from batch.payloads.json_text import encode
from batch.payloads.speech import TranscriptSegment, Word
from batch.queue.spool import Spool

_SMALLEST: Mapping[str, Mapping[str, Any]] = {
    "chat": {"messages": []},
    "completion": {"prompt": ""},
    "embed": {"inputs": ["x"]},
    "transcribe": {"blob": "ab" * 32},
}


def payload(task: str, request: Mapping[str, Any] | None = None) -> Payload:
    """The payload of a task; None: the smallest that there is."""
    return decode_payload(task, encode(_SMALLEST[task] if request is None else request))


def keep_in(home: Path, data: bytes) -> str:
    """Put bytes into a home's spool; their sha256."""
    return Spool(home / ".batch" / "spool").keep(data)


def result(task: str, value: Mapping[str, Any]) -> Result:
    """The result of a task."""
    return msgspec.convert(value, RESULT_TYPES[task])


def as_dict(struct: Any) -> dict[str, Any]:
    """A payload, result or event as a dict without its tag; defaults are left out."""
    found: dict[str, Any] = msgspec.to_builtins(struct)
    if tag := type(struct).__struct_config__.tag_field:
        del found[tag]
    return found


def segment(start: float, end: float, text: str, words: list[tuple[str, float, float]] | None = None) -> TranscriptSegment:
    """A segment of a transcript; `words` with their starts and ends."""
    timed = [Word(word=word, start=first, end=last) for word, first, last in words] if words is not None else None
    return TranscriptSegment(
        id=0, start=start, end=end, text=text, temperature=0, avg_logprob=0, compression_ratio=1, no_speech_prob=0, words=timed
    )
