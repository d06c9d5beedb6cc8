"""Rows of the ledger as structs, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from batch.folder.ledger.rows import (
    CaptionParameters,
    Content,
    ContentParameters,
    ContentState,
    ErrorRecord,
    PageParameters,
    RedoRequest,
    RequestParameters,
    SourceReading,
    TextParameters,
    TranscriptParameters,
)
from batch.media.kind import MediaKind

CONTENT_COLUMNS = "c.id, c.sha256, c.size, c.kind, c.parameters, c.state, c.step, c.job, c.jobs, c.models, c.error, c.reading"
"""What `to_content` reads, in this order."""
REDO_RUNNING = "running"
"""What stands in `redo` between the request, which is JSON, and the delivery."""


def to_redo_request(text: str | None) -> RedoRequest | None:
    """What is asked for, or None where nothing is, or it has begun."""
    return None if text is None or text == REDO_RUNNING else msgspec.json.decode(text, type=RedoRequest)


def to_content(row: Sequence[Any]) -> Content:
    """A content of its columns."""
    id, sha256, size, kind, parameters, state, step, job, jobs, models, error, reading = row
    return Content(
        id=id,
        sha256=sha256,
        size=size,
        kind=MediaKind(kind),
        parameters=parameters_of(MediaKind(kind), parameters),
        state=ContentState(state),
        step=step,
        job=job,
        jobs=msgspec.json.decode(jobs, type=dict[str, str]),
        models=msgspec.json.decode(models, type=dict[str, str]),
        error=to_error(error),
        reading=msgspec.json.decode(reading or "{}", type=SourceReading),
    )


def parameters_of(kind: MediaKind, text: str) -> ContentParameters:
    """What was asked of a content, from its JSON."""
    match kind:
        case MediaKind.IMAGE:
            return msgspec.json.decode(text, type=CaptionParameters)
        case MediaKind.AUDIO | MediaKind.VIDEO:
            return msgspec.json.decode(text, type=TranscriptParameters)
        case MediaKind.TEXT | MediaKind.DOCUMENT | MediaKind.UNKNOWN:
            if text.startswith('{"endpoint":'):
                return msgspec.json.decode(text, type=RequestParameters)
            if "page_prompt" in text:
                return msgspec.json.decode(text, type=PageParameters)
            return msgspec.json.decode(text, type=TextParameters)


def first_job(content: Content) -> str:
    """The job of a content's first step."""
    return next(iter(content.jobs.values()))


def to_json(value: object) -> str:
    """What stands in a column for a struct, a list or a dictionary."""
    return msgspec.json.encode(value).decode()


def to_error(text: str | None) -> ErrorRecord | None:
    """An error record of its column."""
    return None if text is None else msgspec.json.decode(text, type=ErrorRecord)
