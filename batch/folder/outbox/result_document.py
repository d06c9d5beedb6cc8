"""The outbox's JSON, as batch/data/outbox.schema.json and docs/outbox.md describe it."""

from __future__ import annotations

import array
import base64
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from batch.batches.rows import Batch
from batch.errors import BatchError
from batch.folder.file_names import readable
from batch.folder.ledger.rows import Content, ContentParameters, Delivery, ErrorRecord, SourceReading
from batch.folder.pipeline import EMBEDDING, PAGE_GAP, result_of, text_of
from batch.folder.result_text import pages_of, pages_text, text_in, vector_bytes
from batch.payloads.chat import ChatResult, Timings
from batch.payloads.embedding import EmbeddingResult
from batch.payloads.speech import TranscriptionResult
from batch.queue.jobs import Job
from batch.queue.spool import Spool

VERSION = 1
HEAD_BYTES = 64 << 10
"""Within these first bytes a document names its jobs."""

VectorRows = Callable[[], Iterator[Sequence[float]]]
"""Gives a document's vectors one by one, as they may be many."""


class StepTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that a step's job waited and ran."""

    waited: float
    ran: float
    model: Timings | UnsetType = UNSET
    """The chat engine's own figures."""


class SegmentEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of speech; times in seconds from the start of the file."""

    start: float
    end: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float


class WindowEntry(msgspec.Struct, frozen=True):
    """Characters of the text that a vector stands for."""

    start: int
    end: int


class EmbeddingEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about the vectors but the vectors, which `render` adds row by row."""

    model: str | None
    dimensions: int
    windows: list[WindowEntry]


class ResultDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in NAME.json, in this order: what tells a result from an older one comes before the long parts."""

    version: int = VERSION
    source: str
    source_bytes: str | UnsetType = UNSET
    sha256: str
    size: int
    kind: str
    jobs: dict[str, str]
    attempts: dict[str, int]
    created: str | None
    finished: str | None
    linked: bool
    model: str | None
    parameters: ContentParameters
    timings: dict[str, StepTiming]
    text: str
    encoding: str | UnsetType = UNSET
    encoding_guessed: bool | UnsetType = UNSET
    format: str | UnsetType = UNSET
    pages: list[WindowEntry] | UnsetType = UNSET
    language: str | None = None
    duration: float | None = None
    segments: list[SegmentEntry] | None = None
    reasoning: str | UnsetType = UNSET
    note: str | UnsetType = UNSET
    embedding: EmbeddingEntry | None = None


class FailureDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in NAME.error.json."""

    version: int = VERSION
    source: str
    source_bytes: str | UnsetType = UNSET
    error: str
    type: str
    job: str | None


class BatchCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of a batch: the failed ones stand in the error file."""

    total: int
    completed: int
    failed: int


class BatchDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in NAME.json beside a batch's result files."""

    version: int = VERSION
    source: str
    source_bytes: str | UnsetType = UNSET
    sha256: str
    size: int
    kind: str = "batch"
    batch: str
    endpoint: str
    status: str
    created: str | None
    finished: str | None
    linked: bool
    model: str | None
    request_counts: BatchCounts


Document = ResultDocument | FailureDocument | BatchDocument


def result_document(
    delivery: Delivery, content: Content, jobs: Mapping[str, Job], spool: Spool
) -> tuple[ResultDocument, VectorRows | None]:
    """The document of a file's result, and its vectors; `jobs` are the done jobs by step, in order.

    Raises BatchError where a result cannot be read any more, OSError where its spool file is gone.
    """
    main_step, main = next(iter(jobs.items()))
    main_result = result_of(main)
    reading = content.reading
    language, duration, segments = None, None, None
    reasoning: str | UnsetType = UNSET
    note: str | None = None
    match main_result:
        case ChatResult() if reading.pages:
            text = pages_text(jobs)
        case ChatResult():
            text = text_of(main_result)
            message = main_result.choices[0].message
            reasoning = (message and message.reasoning_content) or UNSET
            note = main_result.note
        case TranscriptionResult():
            text = text_of(main_result)
            language, duration, note = main_result.language, main_result.duration, main_result.truncated
            segments = _segments(main_result)
        case EmbeddingResult():
            text = text_in(main, spool)
            note = reading.note
    pages = _pages(reading, jobs, text)
    embedding, rows = _embedding(jobs.get(EMBEDDING), content, text, spool)
    source, source_bytes = _source(delivery)
    document = ResultDocument(
        source=source,
        source_bytes=source_bytes,
        sha256=content.sha256,
        size=content.size,
        kind=content.kind,
        jobs={step: job.id for step, job in jobs.items()},
        attempts={step: job.attempts for step, job in jobs.items()},
        created=iso(delivery.accepted_at if delivery.linked else main.created_at),
        finished=iso(list(jobs.values())[-1].finished_at),
        linked=delivery.linked,
        model=content.models.get(main_step) or None,
        parameters=content.parameters,
        timings={step: _timing(job) for step, job in jobs.items()},
        text=text,
        encoding=reading.encoding or UNSET,
        encoding_guessed=reading.is_encoding_guessed if reading.encoding else UNSET,
        format=reading.format or UNSET,
        pages=pages if pages is not None else UNSET,
        language=language,
        duration=duration,
        segments=segments,
        reasoning=reasoning,
        note=note or UNSET,
        embedding=embedding,
    )
    return document, rows


def failure_document(delivery: Delivery, error: ErrorRecord) -> FailureDocument:
    """The document of a file of which nothing could be made."""
    source, source_bytes = _source(delivery)
    return FailureDocument(
        source=source,
        source_bytes=source_bytes,
        error=str(error.get("message", "")),
        type=str(error.get("type", "server_error")),
        job=delivery.content.job if delivery.content else None,
    )


def batch_document(delivery: Delivery, content: Content, batch: Batch) -> BatchDocument:
    """The document of a file of requests that has ended."""
    source, source_bytes = _source(delivery)
    return BatchDocument(
        source=source,
        source_bytes=source_bytes,
        sha256=content.sha256,
        size=content.size,
        batch=batch.id,
        endpoint=batch.endpoint,
        status=batch.status,
        created=iso(delivery.accepted_at if delivery.linked else batch.created_at),
        finished=iso(batch.completed_at or batch.cancelled_at or batch.expired_at),
        linked=delivery.linked,
        model=batch.model,
        request_counts=BatchCounts(total=batch.total, completed=batch.completed, failed=batch.failed),
    )


def render(document: Document, rows: VectorRows | None = None) -> Iterator[bytes]:
    """UTF-8 JSON, a key a line; vectors, a row a line, go into its "embedding"."""
    values: dict[str, Any] = msgspec.to_builtins(document)
    plain = {key: value for key, value in values.items() if key != "embedding" or not rows}
    lines = [f"  {json.dumps(key)}: {json_text(value)}" for key, value in plain.items()]
    yield ("{\n" + ",\n".join(lines)).encode("utf-8", "replace")
    if rows:
        head = json_text(values["embedding"])[:-1]
        yield f',\n  "embedding": {head}, "vectors": ['.encode()
        for number, row in enumerate(rows()):
            cells = ",".join(f"{cell:.9g}" if math.isfinite(cell) else "null" for cell in row)
            yield f"{',' if number else ''}\n    [{cells}]".encode()
        yield b"\n  ]}"
    yield b"\n}\n"


def line_of(document: Document, key: str) -> bytes:
    """The line that `render` writes for a key, as far as the comma that follows it."""
    return f"  {json.dumps(key)}: {json_text(msgspec.to_builtins(getattr(document, key)))}".encode()


def json_text(value: Any) -> str:
    """JSON that any reader takes: NaN and infinities are null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def _source(delivery: Delivery) -> tuple[str, str | UnsetType]:
    name = readable(delivery.path)
    if name == delivery.path:
        return name, UNSET
    # Not valid UTF-8: only the bytes name the file.
    return name, base64.b64encode(os.fsencode(delivery.path)).decode()


def _pages(reading: SourceReading, jobs: Mapping[str, Job], text: str) -> list[WindowEntry] | None:
    """Which characters of the text each page of a document holds; None for what has no pages."""
    if reading.page_starts is not None:
        starts = reading.page_starts
        ends = [start - len(PAGE_GAP) for start in starts[1:]]
        return [WindowEntry(start, end) for start, end in zip(starts, [*ends, len(text)], strict=True)]
    if not reading.pages:
        return None
    entries, at = [], 0
    for page in pages_of(jobs):
        entries.append(WindowEntry(at, at + len(page)))
        at += len(page) + len(PAGE_GAP)
    return entries


def _segments(result: TranscriptionResult) -> list[SegmentEntry]:
    return [
        SegmentEntry(
            start=segment.start,
            end=segment.end,
            text=segment.text.strip(),
            avg_logprob=segment.avg_logprob,
            no_speech_prob=segment.no_speech_prob,
            compression_ratio=segment.compression_ratio,
            temperature=segment.temperature,
        )
        for segment in result.segments
    ]


def _timing(job: Job) -> StepTiming:
    started = job.started_at or job.finished_at or job.created_at
    result = result_of(job)
    return StepTiming(
        waited=round(max(0.0, started - job.created_at), 3),
        ran=round(max(0.0, (job.finished_at or started) - started), 3),
        model=(result.timings or UNSET) if isinstance(result, ChatResult) else UNSET,
    )


def _embedding(job: Job | None, content: Content, text: str, spool: Spool) -> tuple[EmbeddingEntry | None, VectorRows | None]:
    if job is None:
        return None, None
    result = result_of(job)
    if not isinstance(result, EmbeddingResult):
        raise BatchError(f"The result of job {job.id} holds no vectors.")
    windows = [WindowEntry(window.start, window.end) for window in result.windows or []]
    entry = EmbeddingEntry(
        model=content.models.get(EMBEDDING) or None,
        dimensions=result.dimensions,
        windows=windows or [WindowEntry(0, len(text))],
    )
    return entry, lambda: _vector_rows(result, spool)


def _vector_rows(result: EmbeddingResult, spool: Spool) -> Iterator[Sequence[float]]:
    width = result.dimensions * 4
    data = vector_bytes(result, spool)
    for at in range(0, len(data), width):
        row = array.array("f")
        row.frombytes(data[at : at + width])
        if sys.byteorder == "big":
            row.byteswap()
        yield row


def iso(when: float | None) -> str | None:
    """Unix seconds as ISO 8601 in UTC, to the millisecond."""
    if when is None:
        return None
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
